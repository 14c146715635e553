"""The pytest plugin in a user's project: pytest is run on tests of theirs, and what it says is read.

Most of them run in this process on made-up measurements; two runs in processes of their own measure.
"""

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rematbench.pytest_plugin import fixture
from rematbench.records.columns import COLUMNS, MARGIN
from rematbench.records.measurement import Environment, Equality, Flops, Measurement, Memory
from rematbench.records.run import rows_of
from rematbench.running.single import CaseFailedError, MeasuredCase
from rematbench.suite.suite import Suite

pytest_plugins = ["pytester"]

BASELINE = "remat-baseline.csv"
OPTIONS = ("--strict-markers", "-p", "no:cacheprovider")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inner pytest not know that this one may be one of several: pytest-benchmark would stand back."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


Ran = pytest.RunResult
Inner = Callable[..., Ran]


def made_up(
    suite: Suite,
    peak: int = 1000,
    held: int = 600,
    recompute: int = 8,
    gradients: str = "bitwise",
    torch: str = "2.13.0",
) -> MeasuredCase:
    """Return the case of a suite as if it had been measured; the plain step peaks at 5,000 bytes."""
    environment = Environment(torch=torch, python="3.11.7", device_name="", threads=1, allocator="", commit="")

    def row(placement: str, peak: int) -> Measurement:
        memory = {"meter": "", "static_bytes": 70, "held_bytes": held, "passes_peak_bytes": (peak, peak)}
        phases = {"forward": held, "backward": peak}
        equality = {"gradients": gradients, "gradients_max_abs_diff": 0.0, "gradients_worst": "", "loss": "equal"}
        same = {"buffers": "equal", "buffer": "", "rng_state": "equal"}
        return Measurement.model_validate(
            {
                **{"suite": "single", "model": suite.models[0].name, "placement": placement, "device": "cpu"},
                **{"dtype": suite.settings.dtype or "float32", "status": "ok", "measured_at": "2030-01-31"},
                "memory": Memory.model_validate(memory | {"peak_bytes": peak, "phase_peak_bytes": phases}),
                "equality": Equality.model_validate(equality | same),
                "flops": Flops(forward=10, total=40, recompute=recompute, uncounted_ops=()),
                "environment": environment,
            }
        )

    plain, case = rows_of([row("none", 5000), row(suite.placements[-1].name, peak)])
    assert case.measurement
    assert case.measurement.memory
    return MeasuredCase(definition=suite, cells=case.cells, memory=case.measurement.memory, plain=plain.cells)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """Run pytest on a user's tests, every measurement made up: `outcome` says how it differs from the usual one."""
    pytester.makeini("[pytest]")

    def run(tests: str, *options: str, measure: Callable[..., Any] = made_up, **outcome: Any) -> Ran:
        monkeypatch.setattr(fixture, "measure_single", lambda suite, _root: measure(suite, **outcome))
        pytester.makepyfile(test_user=f"import pytest\n{tests}")
        return pytester.runpytest_inprocess(*OPTIONS, "-p", "no:benchmark", *options)

    return run


CHECK = """
def test_net(remat):
    remat.check(remat("net.py:build"))
"""
TWO = """
@pytest.mark.parametrize("placement", ["each", "sqrt"])
def test_net(remat, placement):
    remat.check(remat("net.py:build", placement))
"""


def said(ran: Ran, *parts: str) -> None:
    text = " ".join(ran.stdout.str().split())
    for part in parts:
        assert part in text


def baseline_rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["placement"]: row for row in csv.DictReader(file)}


def give_margin(path: Path, placement: str, margin: str) -> None:
    rows = baseline_rows(path)
    rows[placement][MARGIN] = margin
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[placement]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


# The marker


@pytest.mark.parametrize("limit", ['"1000"', "1000", '"1 kB"', '"1 KiB"'])
def test_a_case_at_the_limit_passes(inner: Inner, limit: str) -> None:
    inner(f"""
@pytest.mark.checkpoint_memory(limit={limit})
def test_net(remat):
    assert remat("net.py:build").peak_bytes == 1000
""").assert_outcomes(passed=1)


def test_a_byte_over_the_limit_fails_with_the_breakdown(inner: Inner) -> None:
    ran = inner("""
@pytest.mark.checkpoint_memory(limit="999")
def test_net(remat):
    remat("net.py:build")
    remat("net.py:build", "sqrt")
""")
    ran.assert_outcomes(failed=1)
    for placement in ("each", "sqrt"):
        said(ran, f"net.py:build · {placement} peaks 1 B (1 bytes) over the limit, in backward:")
    parts = {"limit": "999", "peak": "1,000", "held after forward": "600", "transient": "400"}
    said(ran, *(f"{name} {count} bytes" for name, count in parts.items()))
    said(ran, "static (not in the peak) 70 bytes", "peak of `none` 5,000 bytes")
    ran.stdout.no_fnmatch_line("*Traceback*")
    ran.stdout.no_fnmatch_line("*pytest_plugin/*")


def test_a_limit_on_nothing_fails(inner: Inner) -> None:
    ran = inner("""
@pytest.mark.checkpoint_memory(limit="1 GiB")
def test_net(remat):
    pass
""")
    ran.assert_outcomes(failed=1)
    said(ran, "this test measured nothing")


def test_the_limit_does_not_hide_how_a_test_ended(inner: Inner) -> None:
    ran = inner("""
@pytest.mark.checkpoint_memory(limit="1")
def test_fails(remat):
    assert remat("net.py:build").gradients == "different"

@pytest.mark.checkpoint_memory(limit="1")
def test_skips(remat):
    pytest.skip("not today")
""")
    ran.assert_outcomes(failed=1, skipped=1)
    said(ran, "assert 'bitwise' == 'different'")


@pytest.mark.parametrize("arguments", ['"1 GiB"', "", 'limits="1 GiB"', 'limit="1 GiB", of="peak"'])
def test_a_marker_written_otherwise_says_how(inner: Inner, arguments: str) -> None:
    ran = inner(f"@pytest.mark.checkpoint_memory({arguments})\ndef test_net():\n    pass")
    ran.assert_outcomes(failed=1)
    said(ran, 'write @pytest.mark.checkpoint_memory(limit="1.2 GiB")')


def test_a_limit_that_is_no_size_is_refused(inner: Inner) -> None:
    ran = inner('@pytest.mark.checkpoint_memory(limit="12 MBanana")\ndef test_net():\n    pass')
    ran.assert_outcomes(failed=1)
    said(ran, "checkpoint_memory: '12 MBanana' is not a size")


# What is measured


def test_the_same_case_is_measured_once_a_session(inner: Inner) -> None:
    seen: list[Suite] = []

    def measure(suite: Suite) -> MeasuredCase:
        seen.append(suite)
        return made_up(suite)

    tests = """
def test_one(remat):
    assert remat("net.py:build") is remat("net.py:build", placement="each")

def test_two(remat):
    remat("net.py:build")
    remat("net.py:build", seed=1)
    remat("net.py:build", "sqrt")
"""
    inner(tests, measure=measure).assert_outcomes(passed=2)
    assert [(suite.placements[-1].name, suite.settings.seed) for suite in seen] == [
        ("each", 0),
        ("each", 1),
        ("sqrt", 0),
    ]
    assert {(suite.settings.rounds, suite.settings.devices) for suite in seen} == {(0, ("cpu",))}


def test_a_failed_case_raises_and_is_not_measured_again(inner: Inner) -> None:
    calls: list[Suite] = []

    def measure(suite: Suite) -> MeasuredCase:
        calls.append(suite)
        raise CaseFailedError("net.py:build · each is out_of_memory: measuring: it is full")

    tests = "".join(f"def test_{number}(remat):\n    remat('net.py:build')\n" for number in range(2))
    ran = inner(tests, measure=measure)
    ran.assert_outcomes(failed=2)
    said(ran, "CaseFailedError: net.py:build · each is out_of_memory: measuring: it is full")
    ran.stdout.no_fnmatch_line("*pytest_plugin/*")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ('"net.py:build", "eech"', "unknown placement 'eech': did you mean 'each'?"),
        ('"net.py:build", placment="each"', "settings.placment: no such key"),
        ('"net.py:build", dtype="float31"', "settings.dtype"),
        ('"net.py:build", "mine.toml"', "mine.toml: No such file"),
    ],
)
def test_a_call_that_means_nothing_is_one_sentence(inner: Inner, call: str, sentence: str) -> None:
    ran = inner(f"def test_net(remat):\n    remat({call})")
    ran.assert_outcomes(failed=1)
    said(ran, sentence)
    ran.stdout.no_fnmatch_line("*pydantic*")


def test_placement_files_are_found_from_the_rootdir(inner: Inner, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("mine.toml").write_text('name = "mine"\n[[regions]]\npath = "blocks[0]"\n')
    tests = """
def test_net(remat, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert remat("net.py:build", "mine.toml").placement == "mine"
"""
    inner(tests).assert_outcomes(passed=1)


def test_every_column_is_an_attribute_and_nothing_else() -> None:
    case = made_up(Suite.model_validate({"name": "single", "models": ["net.py:build"], "placements": ["each"]}))
    assert {column.name: getattr(case, column.name) for column in COLUMNS} == case.cells
    assert (case.peak_bytes, case.held_bytes, case.recompute_flops, case.step_ratio) == (1000, 600, 8, None)
    assert repr(case) == "<net.py:build · each: peak 1,000 bytes>"
    with pytest.raises(AttributeError, match="did you mean 'peak_bytes'"):
        _ = case.peak_byte


# The baseline


@pytest.mark.parametrize("before", ["", CHECK])
def test_a_missing_row_says_how_to_add_it(inner: Inner, before: str) -> None:
    if before:
        inner(before, "--remat-update").assert_outcomes(passed=1)
    ran = inner(CHECK.replace("build", "other"))
    ran.assert_outcomes(failed=1)
    said(ran, f"net.py:other · each has no row in {BASELINE}: `pytest --remat-update` adds it")


def test_an_update_is_checked_green_and_told(inner: Inner) -> None:
    ran = inner(TWO, "--remat-update")
    ran.assert_outcomes(passed=2)
    said(ran, f"net.py:build · sqrt written to {BASELINE}: peak 1,000 bytes")
    inner(TWO).assert_outcomes(passed=2)


def test_an_update_keeps_margins_and_other_rows(inner: Inner, pytester: pytest.Pytester) -> None:
    path = pytester.path / BASELINE
    inner(TWO, "--remat-update")
    give_margin(path, "each", "5%")
    give_margin(path, "sqrt", "1%")
    before = baseline_rows(path)
    inner(TWO, "--remat-update", "-k", "each", peak=2000)
    after = baseline_rows(path)
    assert after["sqrt"] == before["sqrt"]
    assert (after["each"]["peak_bytes"], after["each"][MARGIN]) == ("2000", "5%")
    inner(TWO, "-k", "each", peak=2100).assert_outcomes(passed=1, deselected=1)
    inner(TWO, "-k", "each", peak=2101).assert_outcomes(failed=1, deselected=1)


@pytest.mark.parametrize(
    ("outcome", "parts"),
    [
        ({"peak": 1001}, ("peaks at 1,000 → 1,001 bytes", "in backward", "transient +1 B")),
        ({"peak": 1100, "held": 700}, ("(+100 B, +10 %)", "held after forward +100 B")),
        ({"recompute": 9}, ("recomputes 9 FLOP, 8 FLOP in the baseline",)),
        ({"gradients": "close"}, ("training changed: net.py:build · each has gradients close",)),
        ({"torch": "2.14.0"}, ("cannot judge", "torch 2.13.0, now 2.14.0")),
    ],
)
def test_what_got_worse_fails_and_says_what(inner: Inner, outcome: dict[str, Any], parts: tuple[str, ...]) -> None:
    inner(CHECK, "--remat-update")
    ran = inner(CHECK, **outcome)
    ran.assert_outcomes(failed=1)
    said(ran, *parts, "if this is meant, `pytest --remat-update` makes it the baseline")


def test_a_win_passes_and_is_told(inner: Inner) -> None:
    inner(CHECK, "--remat-update")
    ran = inner(CHECK, peak=900)
    ran.assert_outcomes(passed=1)
    said(ran, "win: net.py:build · each peaks at 1,000 → 900 bytes", "`pytest --remat-update` keeps it")


def test_the_baseline_is_where_the_ini_file_says(inner: Inner, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nremat_baseline = memory.csv")
    inner(CHECK, "--remat-update").assert_outcomes(passed=1)
    assert list(baseline_rows(pytester.path / "memory.csv")) == ["each"]
    assert not (pytester.path / BASELINE).exists()


@pytest.mark.parametrize("update", [(), ("--remat-update",)], ids=["check", "update"])
def test_a_baseline_cut_short_is_neither_judged_nor_overwritten(
    inner: Inner, pytester: pytest.Pytester, update: tuple[str, ...]
) -> None:
    inner(CHECK, "--remat-update")
    path = pytester.path / BASELINE
    path.write_text(path.read_text()[:-40])
    before = path.read_text()
    ran = inner(CHECK, *update)
    ran.assert_outcomes(failed=1)
    said(ran, "was cut short in its last row")
    assert path.read_text() == before


def test_two_cases_that_differ_never_share_a_row(inner: Inner) -> None:
    tests = """
def test_net(remat):
    remat.check(remat("net.py:build"))
    remat.check(remat("net.py:build", seed=1))
    remat.check(remat("net.py:build", optimizer="sgd"{name}))
"""

    def measure(suite: Suite) -> MeasuredCase:
        return made_up(suite, peak=1000 if suite.settings.optimizer == "none" else 2000)

    ran = inner(tests.format(name=""), "--remat-update", measure=measure)
    ran.assert_outcomes(failed=1)
    said(ran, "two cases that differ share the row net.py:build · each")
    inner(tests.format(name=", name='with sgd'"), "--remat-update", measure=measure).assert_outcomes(passed=1)


def test_without_pytest_benchmark_a_benchmark_says_so(inner: Inner) -> None:
    ran = inner("def test_net(remat):\n    remat.benchmark('net.py:build')")
    ran.assert_outcomes(failed=1)
    said(ran, "remat.benchmark needs pytest-benchmark: pip install pytest-benchmark")


# Until a test uses it

WATCHED = """
import sys

def pytest_sessionfinish():
    print("imported", *sorted(sys.modules))
"""
UNUSED = "def test_user():\n    pass"


def imported(pytester: pytest.Pytester, *options: str) -> set[str]:
    """Return what a pytest imports that runs a test which has nothing to do with us."""
    pytester.makeconftest(WATCHED)
    pytester.makepyfile(test_user=UNUSED)
    ran = pytester.runpytest_subprocess(*OPTIONS, *options)
    ran.assert_outcomes(passed=1)
    (line,) = (line for line in ran.stdout.lines if "imported " in line)
    return set(line.partition("imported ")[2].split())


def test_it_imports_nothing_but_itself_until_a_test_uses_it(pytester: pytest.Pytester) -> None:
    without, among = imported(pytester, "-p", "no:rematbench.pytest_plugin"), imported(pytester)
    assert not {name for name in without if name.startswith("rematbench")}
    added = {name for name in among - without if name.partition(".")[0] not in sys.stdlib_module_names}
    assert added == {"rematbench", "rematbench.pytest_plugin"}


def test_it_needs_no_line_in_conftest_and_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makepyfile(
        test_user="""
import pytest

@pytest.mark.checkpoint_memory(limit="1 GiB")
@pytest.mark.skip
def test_marked(): ...

def test_fixture(request):
    assert type(request.getfixturevalue("remat")).__name__ == "Remat"
"""
    )
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1, skipped=1)
    pytester.runpytest_subprocess(*OPTIONS, "-p", "rematbench.pytest_plugin").assert_outcomes(passed=1, skipped=1)
    pytester.runpytest_subprocess(*OPTIONS, "-p", "no:benchmark").assert_outcomes(passed=1, skipped=1)
    off = pytester.runpytest_subprocess(*OPTIONS, "-p", "no:rematbench.pytest_plugin")
    off.assert_outcomes(errors=1)
    said(off, "'checkpoint_memory' not found in `markers`")


# Measured

NET = """
from torch import nn, randn

def build():
    blocks = (nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(){more}) for _ in range(4))
    return nn.Sequential(*blocks), (randn(512, 16),)
"""
BROKEN = """
from torch import nn, randn

class Broken(nn.Sequential):
    def forward(self, x):
        raise RuntimeError("the user's own models package")

def build():
    return Broken(nn.Linear(2, 2)), (randn(1, 2),)
"""
MEASURED = """
import sys
import pytest

@pytest.mark.checkpoint_memory(limit="1 MiB")
def test_fits(remat):
    assert "torch" not in sys.modules
    case = remat("net.py:build", placement="each")
    assert (case.gradients, case.buffers, case.loss) == ("bitwise", "equal", "equal")
    assert case.static_bytes == 4 * (4 * 2 * (16 * 16 + 16) + 512 * 16)
    assert case.recompute_flops == 4 * 2 * 2 * 512 * 16 * 16
    assert 0 < case.held_bytes < case.plain["held_bytes"]
    assert case.step_ratio is None

@pytest.mark.checkpoint_memory(limit="1 KiB")
def test_too_much(remat):
    remat("net.py:build", placement="each")

def test_baseline(remat):
    remat.check(remat("net.py:build"))
    assert "torch" not in sys.modules

def test_broken(remat):
    remat("models.net:build")

def test_speed(remat, benchmark):
    remat.benchmark("net.py:build", rounds=3)
"""


def test_a_project_is_measured_updated_and_held(pytester: pytest.Pytester) -> None:
    """One project, two real runs: the baseline is written, then a block saves one more activation."""
    pytester.makeini("[pytest]\nfilterwarnings = error")
    folder = pytester.mkdir("models")
    pytester.makepyfile(net=NET.format(more=""), test_measured=MEASURED)
    (folder / "net.py").write_text(BROKEN)

    ran = pytester.runpytest_subprocess(*OPTIONS, "--remat-update", "--benchmark-json=speed.json")
    ran.assert_outcomes(passed=3, failed=2)
    said(ran, "net.py:build · each peaks ", "over the limit, in backward:", "held after forward")
    said(ran, "models.net:build · each is error: ", "the user's own models package")
    ran.stdout.re_match_lines([r"test_speed +\d"])
    row = baseline_rows(pytester.path / BASELINE)["each"]
    extra = json.loads((pytester.path / "speed.json").read_text())["benchmarks"][0]
    assert extra["stats"]["rounds"] == 3
    for column in ("peak_bytes", "held_bytes", "forward_flops", "recompute_flops"):
        assert str(extra["extra_info"][column]) == row[column]

    pytester.makepyfile(net=NET.format(more=", nn.Sigmoid()"))
    held = pytester.runpytest_subprocess(*OPTIONS, "-k", "fits or baseline")
    held.assert_outcomes(passed=1, failed=1, deselected=3)
    growth = re.search(r"net.py:build · each peaks at ([\d,]+) → ([\d,]+) bytes", held.stdout.str())
    assert growth
    before, after = (int(count.replace(",", "")) for count in growth.groups())
    assert before == int(row["peak_bytes"])
    assert abs(after - before - 4 * 512 * 16) <= 5056, "one activation more, give or take one kept random state"
    said(held, "in backward: transient +")
