"""Whatever is handed to the command or to a reader ends with a documented code and a sentence: no traceback, no hang.

`REMATBENCH_FUZZ=10000` draws so many inputs in place of a few hundred.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzzing.calling import called, check, fresh, patience, without_workers
from tests.fuzzing.inputs import json_files, numbers, spoilt, texts, toml_files
from tests.reporting.samples import stored, toy

from rematbench.errors import RematbenchError
from rematbench.placement.goal import read_budget, read_point
from rematbench.placement.paths import RegionPath, matches
from rematbench.placement.placement import Options, Placement
from rematbench.placement.registry import STRATEGIES, parse_goal, parse_strategy, spread
from rematbench.records.baseline import baseline_csv
from rematbench.records.run import Run
from rematbench.records.store import Store
from rematbench.suite.suite import Settings, load_suite

TOTAL = int(os.environ.get("REMATBENCH_FUZZ", "120"))
"""How many inputs are drawn."""

SHARES = {
    "suites": 0.2,
    "placements": 0.2,
    "files": 0.1,
    "options": 0.15,
    "runs": 0.25,
    "readers": 0.1,
}


def drawn(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Draw a test's share of all examples, the same ones each time."""
    return settings(
        max_examples=max(1, round(TOTAL * SHARES[name])),
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=TOTAL > 1000,
        suppress_health_check=[*HealthCheck],
    )


SUITE: dict[str, Any] = {
    "name": "mine",
    "description": "what is fuzzed",
    "settings": {
        "devices": ["cpu"],
        "dtype": "float32",
        "seed": 1,
        "threads": 1,
        "optimizer": "sgd",
        "rounds": 0,
        "time_budget_s": 1.0,
        "interval_width": 0.05,
        "timeout_s": 30.0,
        "resident": False,
    },
    "placements": [
        "each",
        "segments:2+save=matmuls",
        {"strategy": "sqrt", "name": "roots", "offload": True},
        {"name": "own", "regions": [{"path": "body[0:2]", "save": "matmuls"}, {"path": "body[3]"}]},
        {"file": "own.json"},
    ],
    "models": [
        "plain.mlp",
        {
            "model": "net.py:build?depth=3",
            "name": "net",
            "arguments": {"depth": 2},
            "cuda": {"depth": 3},
            "cuda_per_gib": {"batch": 2.5},
            "placements": ["frontier:3"],
        },
    ],
}
PLACEMENT: dict[str, Any] = {
    "name": "own-file",
    "fingerprint": "6 modules 3fa9c2e1, classes 77aa01b2, 1 parameters 09e1cc32",
    "regions": [{"path": "body[0]", "save": "matmuls", "preserve_rng": False}, {"path": "body[1:3]"}],
}
NET = (
    "import torch\n\ndef build(depth=2):\n    raise ValueError\n\n\ndef halves(outline, n=2):\n    return ['body[0]']\n"
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder: a model, a suite, a placement file, a run and its CSV as a baseline."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "net.py").write_text(NET)
    (folder / "own.json").write_text(json.dumps(PLACEMENT))
    run = stored(folder / "run", toy())
    (run / "environment.json").write_text(json.dumps({"cpu": ENVIRONMENT}))
    (folder / "base.csv").write_text(baseline_csv(Run(run), None))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _patched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_workers(monkeypatch)
        yield


ENVIRONMENT = {
    "torch": "2.13.0",
    "python": "3.11.7",
    "device_name": "A Processor",
    "threads": 2,
    "allocator": "",
    "commit": "0123abc+",
    "capacity_bytes": None,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place") / "here"


@drawn("suites")
@given(content=toml_files(SUITE))
def test_suites(content: bytes, template: Path, place: Path) -> None:
    with fresh(template, place):
        Path("mine.toml").write_bytes(content)
        check(called("run", "mine.toml", "--out", "out"))


# Texts of placements

_arguments = st.one_of(
    st.integers(0, 9).map(str),
    st.sampled_from(
        ("60%", "6GiB", "1/step", "2GiB/step", "=each", "=none", "3/8", "20000000", "1/20000000", "**", "*")
    ),
    st.sampled_from(("budget=0.5", "budget=nan", "body", "body.0", "9" * 5_000, "*." * 40 + "x", "**." * 30 + "x")),
    texts,
)
_paths = st.sampled_from(("body", "body.0", "", "gone")) | texts
_pairs = st.builds(
    "{}={}".format,
    st.sampled_from([*Options.model_fields]) | texts,
    st.sampled_from(("true", "false", "matmuls", "os:system", "net.py:halves", "once", ":", "a:b")) | texts,
)
placements = st.builds(
    lambda name, argument, path, pairs: "".join(
        (
            name,
            "" if argument is None else f":{argument}",
            "" if path is None else f"@{path}",
            *(f"+{p}" for p in pairs),
        )
    ),
    st.sampled_from([*STRATEGIES, "net.py", "os", "sys", "json", "net.py:halves?n", "sys:exit"]) | texts,
    st.none() | _arguments,
    st.none() | _paths,
    st.lists(_pairs, max_size=2),
)


def argument(text: str) -> str:
    """Return a text as it can reach a program: no NUL, and halves of surrogate pairs only where a byte can be one."""
    return text.replace("\x00", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


@drawn("placements")
@given(text=placements, by_model=st.booleans())
def test_placements(text: str, by_model: bool, template: Path, place: Path) -> None:
    with fresh(template, place):
        if by_model:
            check(called("run", "--model", "plain.mlp", f"--placement={argument(text)}", "--out", "out"))
        else:
            case = json.dumps(text).replace("\\ud", "\\\\ud").replace("\x7f", "")  # TOML has no such escapes
            Path("mine.toml").write_text(f"models = ['plain.mlp']\nplacements = [{case}]\n", errors="replace")
            check(called("run", "mine.toml", "--out", "out"))


@drawn("files")
@given(content=json_files(PLACEMENT) | toml_files(PLACEMENT), ending=st.sampled_from((".json", ".toml")))
def test_placement_files(content: bytes, ending: str, template: Path, place: Path) -> None:
    with fresh(template, place):
        Path(f"mine{ending}").write_bytes(content)
        check(called("run", "--model", "plain.mlp", "--placement", f"mine{ending}", "--out", "out"))
        try:
            placement = Placement.load(f"mine{ending}")
        except RematbenchError:
            return
        placement.save("again.json")
        assert Placement.load("again.json") == placement


# Options

_odd_paths = st.sampled_from(("", ".", "..", "/", "run", "base.csv", "gone", "net.py", "/proc/x"))
_odd_paths |= st.sampled_from(
    ("out", "gone/deeper", "net.py/x", "run/results.csv", "x" * 300, "new.csv", "p.svg", "p.png")
)
_odd_paths |= texts
_runs = st.sampled_from(("run", "base.csv", "/dev/null", "/dev/full", "/dev/zero")) | _odd_paths
_settings = st.builds(
    "{}={}".format,
    st.sampled_from([*Settings.model_fields]) | texts,
    numbers.map(str)
    | texts
    | st.sampled_from(("[" * 5_000, "{a=" * 5_000, "[]", "['cpu']", "1e400", "1_0", "0x1", "\n")),
)
_models = (
    st.sampled_from(("plain.mlp", "net.py:build", "plain.mlp?depth=2", "net.py:build?depth=" + "[" * 5_000)) | texts
)
_numbers = numbers.map(str) | texts


def option(name: str, value: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Draw an option with its value, or nothing."""
    return st.just([]) | value.map(lambda text: [f"{name}={text}"])


def flag(name: str) -> st.SearchStrategy[list[str]]:
    return st.sampled_from(([], [name]))


def line(*parts: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    return st.tuples(*parts).map(lambda lists: [argument(text) for one in lists for text in one])


def just(*words: str) -> st.SearchStrategy[list[str]]:
    return st.just([*words])


def one(value: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return value.map(lambda text: [text])


_share = st.sampled_from(("0%", "5%", "9" * 400 + "%", "off")) | texts
LINES = st.one_of(
    line(
        just("run"),
        one(_models).map(lambda models: ["--model", *models]),
        option("--placement", placements),
        option("--device", texts),
        option("--set", _settings),
        option("--out", _odd_paths),
        option("--rounds", _numbers),
        option("--time-budget", _numbers),
        option("--timeout", _numbers),
        flag("--resume"),
        flag("--resident"),
        flag("--json"),
    ),
    line(just("run"), one(_odd_paths), option("--model", _models), option("--out", _odd_paths)),
    line(
        just("plan"),
        one(_models),
        option("--budget", _share | st.sampled_from(("60%", "1GiB", "9" * 5_000))),
        option("--of", st.sampled_from(("total", "step")) | texts),
        option("--minimise", st.sampled_from(("time", "flops")) | texts),
        flag("--frontier"),
        option("--points", _numbers | st.sampled_from(("3", "99999"))),
        option("--out", _odd_paths),
        option("--run", _odd_paths),
        option("--device", texts),
        option("--set", _settings),
        flag("--resume"),
    ),
    line(
        just("inspect"),
        one(_models),
        option("--depth", _numbers),
        option("--set", _settings),
        option("--device", texts),
    ),
    line(
        just("check"),
        one(_runs),
        _runs.map(lambda run: [f"--against={run}"]),
        option("--memory", _share),
        option("--flops", _share),
        option("--time", _share),
        option("--allow", st.just("toy/each=5%") | texts),
        flag("--strict-wins"),
        option("--retry", st.just("smoke") | texts),
        option("--benchmark-json", _odd_paths),
        option("--junit-xml", _odd_paths),
    ),
    line(
        just("compare"),
        st.lists(_runs, min_size=1, max_size=3),
        option("--by", st.sampled_from(("device", "dtype")) | texts),
        option("--sort", st.sampled_from(("peak", "time")) | texts),
        *(option(f"--{kind}", _odd_paths) for kind in ("markdown", "latex", "csv", "json")),
    ),
    line(just("show"), one(_runs), option("--model", texts), option("--latex", _odd_paths)),
    line(just("baseline", "update"), one(_runs), one(st.just("base.csv") | _odd_paths)),
    line(
        just("report"),
        one(_runs),
        option("--out", _odd_paths),
        option("--svg", st.just("p.svg") | _odd_paths),
        option("--model", texts),
    ),
    line(
        st.lists(st.sampled_from(("show", "plan", "--debug", "--version", "-h", "--", "=", "-x")) | texts, max_size=4)
    ),
)


@drawn("options")
@given(arguments=LINES)
def test_options(arguments: list[str], template: Path, place: Path) -> None:
    with fresh(template, place):
        check(called(*[text for text in arguments if text != "--debug"]))


# Runs and baselines


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


VERBS: tuple[tuple[str, ...], ...] = (
    ("show", "run"),
    ("compare", "run", "--csv", "c.csv", "--json", "c.json", "--latex", "c.tex", "--markdown", "c.md"),
    ("compare", "run", "base.csv"),
    ("compare", "base.csv", "run"),
    ("compare", "run", "--by", "device", "--sort", "time"),
    ("check", "run", "--against", "base.csv", "--time", "5%", "--junit-xml", "j.xml", "--benchmark-json", "b.json"),
    ("check", "base.csv", "--against", "run", "--time", "5%"),
    ("check", "run", "--against", "base.csv", "--retry", "smoke"),
    ("baseline", "update", "run", "base.csv"),
    ("baseline", "update", "base.csv", "new.csv"),
    ("report", "run", "base.csv"),
    ("run", "suite.toml", "--resume", "--out", "run"),
)
WHOLE = [case.model_dump(mode="json") for case in toy()]
WHOLE[1]["plan"] = {
    "minimise": "time",
    "budget_bytes": 10**8,
    "predicted_peak_bytes": 10**7,
    "measured_peak_bytes": 10**7,
    "predicted_cost": 0.1,
    "bound_cost": 0.01,
    "bound_peak_bytes": 10**6,
    "least_peak_bytes": 10**6,
    "plain_cost": 1.0,
    "tries": 2,
    "predicted_ratio": 1.1,
    "budget_of": "least",
    "below": {"predicted_peak_bytes": 10**6, "predicted_cost": 0.2},
    "above": {"predicted_peak_bytes": 10**8, "predicted_cost": 0.02},
}


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Draw records of which one line or two are wrong."""
    every = [json.dumps(one).encode() for one in WHOLE]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(every) - 1))
        every[at] = draw(json_files(WHOLE[at]))
    whole = b"\n".join(every) + b"\n"
    return draw(st.just(whole) | st.just(whole) | spoilt(whole))


@st.composite
def tables(draw: st.DrawFn, whole: str) -> bytes:
    """Draw a CSV with cells that are wrong."""
    rows = [text.split(",") for text in whole.splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, len(rows) - 1))
        cell = draw(st.integers(0, len(rows[row]) - 1))
        rows[row][cell] = draw(numbers.map(str) | texts | st.sampled_from(("", "ok", "[" * 20_000, '"{""a"":1e999}"')))
    text = "".join(",".join(row) + "\n" for row in rows).encode(errors="surrogatepass")
    return draw(st.just(text) | st.just(text) | spoilt(text))


@drawn("runs")
@given(data=st.data(), verb=st.sampled_from(VERBS))
def test_runs(data: st.DataObject, verb: tuple[str, ...], template: Path, place: Path) -> None:
    with fresh(template, place):
        which = data.draw(st.sampled_from(("records", "csv", "base", "base", "environment", "suite")))
        run = Path("run")
        Path("suite.toml").write_text("name = 'mine'\nmodels = [{model = 'plain.mlp', name = 'toy'}]\n")
        if verb[0] == "run":
            (run / "suite.toml").write_text(load_suite("suite.toml").to_toml())
        if which == "records":
            (run / "measurements.jsonl").write_bytes(data.draw(records()))
        elif which == "environment":
            (run / "environment.json").write_bytes(data.draw(json_files({"cpu": ENVIRONMENT})))
        elif which == "suite":
            (run / "suite.toml").write_bytes(data.draw(toml_files(SUITE)))
        else:
            path = run / "results.csv" if which == "csv" else Path("base.csv")
            path.write_bytes(data.draw(tables(path.read_text())))
            if which == "csv":
                (run / "measurements.jsonl").unlink()
        check(called(*verb))


# Readers, as Python code calls them

READERS: dict[str, Callable[[str], object]] = {
    "parse_strategy": parse_strategy,
    "parse_goal": parse_goal,
    "spread": spread,
    "RegionPath": RegionPath,
    "read_budget": lambda text: read_budget(text, "time"),
    "read_point": read_point,
    "matches": lambda text: matches(text, "encoder.layers.3.attention.self.query"),
    "load_suite": load_suite,
    "Placement.load": Placement.load,
    "Run": lambda text: Run(text).dataframe(),
    "Store": lambda text: Store(Path(text)),
}


@drawn("readers")
@given(reader=st.sampled_from([*READERS]), text=placements | _odd_paths | _arguments)
def test_readers(reader: str, text: str, template: Path, place: Path) -> None:
    with fresh(template, place), patience(), suppress(RematbenchError):
        READERS[reader](text)
