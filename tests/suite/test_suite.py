"""Suites: what a file says comes back from it, and what stands in it becomes jobs."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from rematbench.errors import SuiteError
from rematbench.loading import reference_models
from rematbench.placement.outline import Chain, Outline
from rematbench.placement.placement import Placement, Region
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.suite.case import Case
from rematbench.suite.suite import Device, Job, Settings, Suite, custom_suite, load_suite, select, shipped_suites

CPU = Device(name="cpu")
GPU = Device(name="cuda:0", capacity_bytes=40 * 2**30)
TWO_MODELS = {"name": "mine", "models": ["plain.mlp", {"model": "net.py:build", "name": "net", "placements": ["all"]}]}


def written(folder: Path, data: dict[str, Any] | str) -> str:
    """Write a suite file and return its path."""
    file = folder / "mine.toml"
    file.write_text(data if isinstance(data, str) else tomli_w.dumps(data))
    return str(file)


def names(suite: Suite, model: int = 0) -> list[str]:
    return [case.name for case in suite.cases(suite.models[model])]


# Random suites

plain_text = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12)
options = st.fixed_dictionaries(
    {},
    optional={
        "save": st.sampled_from((*SAVE_POLICIES, "policies:mine", "p.py:f")),
        "preserve_rng": st.booleans(),
        "early_stop": st.booleans(),
        "batch_norm": st.sampled_from(("as-is", "once")),
        "offload": st.booleans(),
    },
)
regions = st.builds(
    lambda path, chosen: {"path": path, **chosen},
    st.sampled_from(("", "blocks[3]", "blocks[0:4]", "h[::2].mlp", "encoder.layers[-1]")),
    options,
)
strategies = st.sampled_from(("each", "every:2", "sqrt@encoder", "modules:h.*", "nested:3", "all+save=matmuls"))
by_strategy = st.builds(lambda strategy, chosen: {"strategy": strategy, **chosen}, strategies, options)
by_regions = st.builds(lambda placed, chosen: {"regions": placed, **chosen}, st.lists(regions, min_size=1), options)
toml_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
arguments = st.dictionaries(plain_text, toml_values, max_size=3)
models = st.fixed_dictionaries(
    {"model": st.sampled_from(("plain.mlp", "net.py:build", "my.net:build?depth=3&name=a b"))},
    optional={
        "arguments": arguments,
        "cuda": arguments,
        "cuda_per_gib": st.dictionaries(plain_text, st.floats(0, 1e6), max_size=2),
    },
)
setting_values = st.fixed_dictionaries(
    {},
    optional={
        "devices": st.lists(st.sampled_from(("auto", "cpu", "cuda:1")), min_size=1, max_size=2),
        "dtype": st.sampled_from(("float64", "float32", "bfloat16", "float16")),
        "seed": st.integers(0, 2**63 - 1),
        "threads": st.integers(1, 64),
        "optimizer": st.sampled_from(("none", "sgd", "adamw")),
        "rounds": st.integers(0, 100),
        "time_budget_s": st.floats(1e-3, 1e6),
        "timeout_s": st.integers(1, 10**6),
        "resident": st.booleans(),
    },
)


@st.composite
def suites(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a suite as a file's data; what needs a name of its own gets one."""
    entries = [entry | {"name": f"m{place}"} for place, entry in enumerate(draw(st.lists(models, min_size=1)))]
    placed = [case | {"name": f"p{at}"} for at, case in enumerate(draw(st.lists(by_strategy | by_regions)))]
    shared = draw(st.integers(0, len(placed)))
    entries[-1]["placements"] = placed[shared:]
    return {
        "name": draw(plain_text),
        "description": draw(st.text()),
        "settings": draw(setting_values),
        "placements": placed[:shared],
        "models": entries,
    }


@settings(deadline=None, max_examples=60)
@given(suites())
def test_a_suite_comes_back_from_its_file(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    suite = Suite.model_validate(data)
    folder = tmp_path_factory.mktemp("suite")
    assert load_suite(written(folder, suite.to_toml())) == suite
    assert load_suite(written(folder, data)) == suite
    assert select(suite, (), (), ()) == suite
    for entry in suite.models:
        assert suite.cases(entry)[0] == Case.model_validate("none")
    jobs = suite.jobs(Path("/root-of-the-user"), [CPU, GPU])
    assert [(job.device, job.model.name) for job in jobs] == [
        (device.name, entry.name) for device in (CPU, GPU) for entry in suite.models
    ]


def test_a_compiled_model_takes_no_options_of_regions() -> None:
    with pytest.raises(ValueError, match="the whole model is compiled, without regions and their options"):
        Case.model_validate({"name": "half", "strategy": "compile:budget=0.5", "save": "matmuls"})


# Shipped suites


@pytest.mark.parametrize("name", shipped_suites())
def test_a_shipped_suite_is_whole(name: str, tmp_path: Path) -> None:
    suite = load_suite(name)
    assert (suite.name, suite.placements[0].name) == (name, "none")
    assert suite.description
    assert {entry.model.partition("?")[0] for entry in suite.models} <= reference_models().keys()
    assert load_suite(written(tmp_path, suite.to_toml())) == suite
    assert suite.jobs(tmp_path, [CPU, GPU])


def test_an_unknown_suite_offers_the_closest_and_a_file() -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite("defualt")
    assert str(caught.value) == (
        "unknown suite 'defualt': did you mean 'default'? known are default, examples, peers, peers-time, "
        "planners, smoke; "
        "your own is a path that ends in .toml"
    )


# Placements of a suite


def test_none_is_always_first_and_only_once() -> None:
    for given_ in ([], ["each"], ["each", "none"], ["none", "each", "none"]):
        suite = Suite.model_validate({**TWO_MODELS, "placements": given_})
        expected = ["none"] + (["each"] if "each" in given_ else [])
        assert names(suite) == expected
        assert names(suite, model=1) == [*expected, "all"]


def test_a_suite_without_placements_has_the_usual_ones(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, "models = ['plain.mlp']"))
    assert suite.name == "mine"
    assert names(suite) == ["none", "each", "each-but-last", "every:2", "sqrt"]
    assert custom_suite(["plain.mlp"]).placements == suite.placements


def test_a_placement_is_named_after_what_it_says() -> None:
    cases = [{"strategy": "each", "save": "matmuls", "offload": True}, {"strategy": "each", "name": "mine"}]
    assert names(Suite.model_validate({**TWO_MODELS, "placements": cases})) == [
        "none",
        "each+save=matmuls+offload=true",
        "mine",
    ]


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_placement_file_is_read_and_named_after_itself(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"by-hand.{suffix}"
    placed = (Region(path="blocks[0:2]", save="matmuls"), Region(path="blocks[2]"))
    if suffix == "json":
        Placement(name="by-hand", regions=placed).save(file)
    else:
        file.write_text("regions = [{path = 'blocks[0:2]', save = 'matmuls'}, {path = 'blocks[2]'}]")
    for case in (Case.model_validate(str(file)), Case.model_validate({"file": str(file)})):
        assert (case.name, case.regions) == ("by-hand", placed)
    assert Case.model_validate({"file": str(file), "name": "other"}).name == "other"


def test_a_file_beside_regions_or_a_strategy_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "by-hand.json"
    Placement(name="by-hand", regions=(Region(path="blocks[2]"),)).save(file)
    for other in ({"strategy": "each"}, {"regions": [{"path": "blocks[0]"}]}):
        with pytest.raises(ValueError, match="give one of strategy, file or regions"):
            Case.model_validate({"file": str(file), **other})


CHAIN = Chain(path="blocks", blocks=("Block",) * 2)
OUTLINE = Outline(modules={"": "Net", "blocks": "Sequential"}, chains=(CHAIN,), outermost=(CHAIN,))


@pytest.mark.parametrize(
    ("case", "saves"),
    [
        ({"strategy": "each"}, ["nothing", "nothing"]),
        ({"strategy": "each", "save": "matmuls"}, ["matmuls", "matmuls"]),
        ({"strategy": "each+save=matmuls", "save": "everything"}, ["matmuls", "matmuls"]),
        ({"regions": [{"path": "blocks[0]"}, {"path": "blocks[1]", "save": "everything"}]}, ["nothing", "everything"]),
        (
            {"save": "matmuls", "regions": [{"path": "blocks[0]"}, {"path": "blocks[1]", "save": "nothing"}]},
            ["matmuls", "nothing"],
        ),
    ],
)
def test_options_hold_for_the_regions_that_do_not_say_otherwise(
    tmp_path: Path, case: dict[str, Any], saves: list[str]
) -> None:
    suite = Suite.model_validate({**TWO_MODELS, "placements": [case | {"name": "mine"}]})
    (job, *_) = suite.jobs(tmp_path, [CPU])
    for same in (suite, load_suite(written(tmp_path, suite.to_toml()))):
        assert [region.save for region in same.placements[1].resolve(OUTLINE).regions] == saves
    placed = Job.model_validate_json(job.model_dump_json()).cases[1].resolve(OUTLINE)
    assert (placed.name, [region.path for region in placed.regions]) == ("mine", ["blocks[0]", "blocks[1]"])
    assert [region.save for region in placed.regions] == saves


# Arguments by device


def test_arguments_grow_with_the_memory_of_a_gpu() -> None:
    entry = {
        "model": "plain.mlp",
        "arguments": {"depth": 8, "batch": 100, "width": 4},
        "cuda": {"width": 64, "fused": True},
        "cuda_per_gib": {"batch": 92.6, "heads": 0.001},
    }
    suite = Suite.model_validate({"name": "mine", "models": [entry]})
    on_cpu, on_gpu = (job.model.arguments for job in suite.jobs(Path(), [CPU, GPU]))
    assert on_cpu == {"depth": 8, "batch": 100, "width": 4}
    assert on_gpu == {"depth": 8, "batch": 3704, "width": 64, "fused": True, "heads": 1}
    assert type(on_gpu["batch"]) is type(on_gpu["heads"]) is int


def test_arguments_stop_growing_before_tensors_have_more_elements_than_kernels_count() -> None:
    suite = Suite.model_validate({"name": "mine", "models": [{"model": "plain.mlp", "cuda_per_gib": {"batch": 1000}}]})
    sizes = [Device(name="cuda:0", capacity_bytes=gib * 2**30) for gib in (139, 140, 141, 288)]
    assert [job.model.arguments["batch"] for job in suite.jobs(Path(), sizes)] == [139_000, 140_000, 140_000, 140_000]


def test_arguments_in_the_text_of_a_model_beat_all_others() -> None:
    entry = {"model": "plain.mlp?batch=7", "arguments": {"batch": 100}, "cuda_per_gib": {"batch": 92}}
    suite = Suite.model_validate({"name": "mine", "models": [entry]})
    assert [job.model.arguments for job in suite.jobs(Path(), [CPU, GPU])] == [{"batch": 7}, {"batch": 7}]


def test_a_factory_may_have_an_argument_called_name() -> None:
    suite = Suite.model_validate({"name": "mine", "models": [{"model": "net.py:build", "arguments": {"name": "b0"}}]})
    (job,) = suite.jobs(Path("/here"), [CPU])
    assert (job.model.name, job.model.arguments, job.model.root) == ("net.py:build", {"name": "b0"}, Path("/here"))


# What the command line changes


def test_selecting_models_keeps_their_entries_and_adds_new_ones() -> None:
    suite = select(Suite.model_validate(TWO_MODELS), ["net", "other.py:build?depth=3"], (), ())
    assert [entry.name for entry in suite.models] == ["net", "other.py:build?depth=3"]
    assert names(suite)[-1] == "all"
    assert suite.models[0].model == "net.py:build"


def test_selecting_placements_replaces_the_suites_and_the_models_own() -> None:
    suite = select(Suite.model_validate(TWO_MODELS), (), ["segments:4", "each+offload=true"], ())
    assert names(suite) == names(suite, model=1) == ["none", "segments:4", "each+offload=true"]


def test_settings_are_set_and_the_others_stay() -> None:
    suite = Suite.model_validate({**TWO_MODELS, "settings": {"seed": 3, "rounds": 9}})
    pairs = ["rounds=5", 'devices=["cpu", "cuda:1"]', "dtype=bfloat16", "resident=true", "timeout_s=2.5"]
    assert select(suite, (), (), pairs).settings == Settings(
        seed=3, rounds=5, devices=("cpu", "cuda:1"), dtype="bfloat16", resident=True, timeout_s=2.5
    )
