"""Every mistake in a suite, or in what the command line makes of one, is told by its key."""

import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from rematbench.errors import SuiteError
from rematbench.placement.placement import Region
from rematbench.suite.suite import Settings, Suite, custom_suite, load_suite, select

TWO_MODELS = {"name": "mine", "models": ["plain.mlp", {"model": "net.py:build", "name": "net", "placements": ["all"]}]}


def written(folder: Path, text: str) -> str:
    """Write a suite file and return its path."""
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


MISTAKES: list[tuple[str, str]] = [
    ("models = []\nname = 3", "name: Input should be a valid string"),
    ("", "models: Field required"),
    ("models = []", "models: Tuple should have at least 1 item"),
    ("models = 'plain.mlp'", "models: Input should be a valid tuple"),
    ("models = [3]", "models[0]: Input should be a valid dictionary"),
    ("models = ['m', {}]", "models[1].model: "),
    ("models = ['plain.mlp?depth']", "models[0].model: model 'plain.mlp?depth': write arguments as ?depth=24"),
    ("models = [{model = 'm', argumets = {}}]", "models[0].argumets: no such key"),
    ("models = [{model = 'm', arguments = 3}]", "models[0].arguments: Input should be a valid dictionary"),
    ("models = [{model = 'm', cuda_per_gib = {b = 'x'}}]", "models[0].cuda_per_gib.b: Input should be a valid number"),
    ("models = [{model = 'm', cuda_per_gib = {b = inf}}]", "models[0].cuda_per_gib.b: Input should be a finite number"),
    ("models = [{model = 'm', placements = ['all', 'eahc']}]", "models[0].placements[1].strategy: unknown placement"),
    ("models = ['m', 'm']", "model 'm' stands twice: give one of them another name"),
    ("models = [{model = 'm', name = 'x'}, {model = 'n', name = 'x'}]", "model 'x' stands twice"),
    ("models = ['m']\nplacements = ['each', 'each']", "placement 'each' stands twice"),
    ("models = [{model = 'm', placements = ['sqrt']}]", "placement 'sqrt' stands twice"),
    ("models = ['m']\nplacements = [{name = 'none', strategy = 'each'}]", "placement 'none' stands twice"),
    ("models = [{model = 'm', placements = ['none']}]", "placement 'none' stands twice"),
    ("models = ['m']\nplacements = 'each'", "placements: Input should be a valid tuple"),
    ("models = ['m']\nplacements = ['each', 'eahc']", "placements[1].strategy: unknown placement 'eahc': did you mean"),
    ("models = ['m']\nplacements = ['every']", "placements[0].strategy: placement 'every': write it as every:N"),
    (
        "models = ['m']\nplacements = ['each+save=all']",
        "placements[0].strategy: placement 'each+save=all': save: 'all'",
    ),
    (
        "models = ['m']\nplacements = ['none', 'each', {strategy = 'each', save = 'all'}]",
        "placements[2].save: 'all' is not one of nothing, matmuls, everything, nor module:attribute",
    ),
    (
        "models = ['m']\nplacements = ['each', {name = 'x', regions = [{path = 'blocks['}]}]",
        "placements[1].regions[0].path: region path 'blocks[' cannot be read: write blocks[3], ",
    ),
    (
        "models = ['m']\nplacements = [{name = 'x', regions = [{path = 'a'}, {path = 'b', sav = 'matmuls'}]}]",
        "placements[0].regions[1].sav: no such key",
    ),
    ("models = ['m']\nplacements = [{name = 'x', regions = [{}]}]", "placements[0].regions[0].path: Field required"),
    ("models = ['m']\nplacements = [{strategy = 'each', offload = 1}]", "placements[0].offload: Input should be a"),
    (
        "models = ['m']\nplacements = [{strategy = 'each', save = 'matmuls', reentrant = true}]",
        "placements[0]: save=mat",
    ),
    ("models = ['m']\nplacements = [{strategy = 3}]", "placements[0].name: Field required"),
    ("models = ['m']\nplacements = [{name = 'x'}]", "placements[0]: give one of strategy, file or regions"),
    (
        "models = ['m']\nplacements = [{name = 'x', regions = []}]",
        "placements[0]: give one of strategy, file or regions",
    ),
    (
        "models = ['m']\nplacements = [{name = 'x', strategy = 'each', regions = [{path = 'a'}]}]",
        "placements[0]: give one of strategy, file or regions",
    ),
    (
        "models = ['m']\nplacements = ['there.toml']",
        "placements[0]: placement file there.toml: No such file or directory",
    ),
    ("models = ['m']\nplacements = [{file = 'there.json'}]", "placements[0]: placement file there.json: No such file"),
    ("models = ['m']\nsettings = {dtype = 'float31'}", "settings.dtype: Input should be 'float64', 'float32', "),
    ("models = ['m']\nsettings = {rounds = -1}", "settings.rounds: Input should be greater than or equal to 0"),
    ("models = ['m']\nsettings = {rounds = true}", "settings.rounds: Input should be a valid integer"),
    ("models = ['m']\nsettings = {rounds = '5'}", "settings.rounds: Input should be a valid integer"),
    ("models = ['m']\nsettings = {threads = 0}", "settings.threads: Input should be greater than or equal to 1"),
    ("models = ['m']\nsettings = {seed = -1}", "settings.seed: Input should be greater than or equal to 0"),
    ("models = ['m']\nsettings = {devices = []}", "settings.devices: "),
    ("models = ['m']\nsettings = {devices = ['cpu', 3]}", "settings.devices[1]: Input should be a valid string"),
    ("models = ['m']\nsettings = {timeout_s = 0}", "settings.timeout_s: Input should be greater than 0"),
    ("models = ['m']\nsettings = {timeout_s = inf}", "settings.timeout_s: Input should be a finite number"),
    ("models = ['m']\nsettings = {time_budget_s = nan}", "settings.time_budget_s: Input should be "),
    ("models = ['m']\nsettings = {round = 3}", "settings.round: no such key"),
    ("models = ['m']\nsetings = {}", "setings: no such key"),
    ("models = [", "Invalid value"),
]


@pytest.mark.parametrize(("text", "sentence"), MISTAKES, ids=[sentence[:40] for _, sentence in MISTAKES])
def test_a_mistake_is_told_by_its_key(tmp_path: Path, text: str, sentence: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SuiteError) as caught:
        load_suite(file)
    told = str(caught.value).removeprefix("suite ")
    assert told.startswith(f"{file}: {sentence}")
    assert "\n" not in told


@pytest.mark.parametrize("name", [*Settings.model_fields, *Region.model_fields])
def test_every_key_of_settings_and_regions_is_named_when_its_value_means_nothing(tmp_path: Path, name: str) -> None:
    data: dict[str, Any] = {"name": "mine", "models": ["m"], "settings": {}, "placements": ["each", {"name": "x"}]}
    if name in Settings.model_fields:
        data["settings"][name], key = {"no": "value"}, f"settings.{name}"
    else:
        data["placements"][1]["regions"] = [{"path": "a"}, {"path": "b", name: {"no": "value"}}]
        key = f"placements[1].regions[1].{name}"
    with pytest.raises(SuiteError, match=rf"mine\.toml: {re.escape(key)}: "):
        load_suite(written(tmp_path, tomli_w.dumps(data)))


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file or directory"), (b"\xff", "can't decode")])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SuiteError, match=f"suite {file}: .*{problem}"):
        load_suite(str(file))


@pytest.mark.parametrize(
    ("models_", "placements", "pairs", "sentence"),
    [
        ((), (), ["sed=1"], "--set sed=1: unknown setting 'sed': did you mean 'seed'? known are devices, dtype, "),
        ((), (), ["seed"], "--set seed: "),
        ((), (), ["seed=many"], "suite mine: settings.seed: Input should be a valid integer"),
        ((), (), ["devices=cpu"], "suite mine: settings.devices: "),
        ((), ["eahc"], (), "suite mine: placements[0].strategy: unknown placement 'eahc': did you mean 'each'?"),
        ((), ["each", "each"], (), "suite mine: placement 'each' stands twice"),
        (["net", "net"], (), (), "suite mine: model 'net' stands twice"),
        (["net.py:build?depth"], (), (), "suite mine: models[0].model: model 'net.py:build?depth': write arguments"),
    ],
)
def test_what_cannot_be_selected(models_: list[str], placements: list[str], pairs: list[str], sentence: str) -> None:
    with pytest.raises(SuiteError) as caught:
        select(Suite.model_validate(TWO_MODELS), models_, placements, pairs)
    assert str(caught.value).startswith(sentence)


def test_a_custom_suite_names_what_is_wrong_with_a_model() -> None:
    with pytest.raises(SuiteError, match=r"^--model: models\[1\]\.model: model 'm\?x': write arguments"):
        custom_suite(["plain.mlp", "m?x"])
