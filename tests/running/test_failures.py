"""What goes wrong in a worker is one row; everything else is measured as if it had not happened.

One real run over models that misbehave (`project/hostile.py`) serves every test here.
"""

import csv
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests import forked

from rematbench.records.measurement import Measurement, Status
from rematbench.records.store import read_measurements

Run = Callable[..., subprocess.CompletedProcess[str]]
Rows = dict[tuple[str, str], Measurement]

SUITE = """
placements = ["none"]

[settings]
threads = 1
rounds = 3
timeout_s = 5.0

[[models]]
model = "hostile.py:build"
name = "hostile"
placements = [
    { name = "overwrite", strategy = "modules:overwriting" },
    { name = "behave", strategy = "modules:blocks.0" },
    { name = "talk", strategy = "modules:blocks.1" },
    { name = "allocate", strategy = "modules:blocks.3" },
    { name = "sleep", strategy = "modules:blocks.4" },
    { name = "kill", strategy = "modules:blocks.5" },
]

[[models]]
model = "hostile.py:quits"

[[models]]
model = "hostile.py:not_a_number"

[[models]]
model = "hostile.py:hoards"
placements = ["each"]

[[models]]
model = "models.net:build"
placements = ["each"]
"""

HOSTILE, HEALTHY = "hostile", "models.net:build"

EXPECTED = {
    (HOSTILE, "none"): (Status.OK, ""),
    (HOSTILE, "overwrite"): (Status.ERROR, "measuring: overwriting changes its input in place, in args[0]"),
    (HOSTILE, "behave"): (Status.OK, ""),
    (HOSTILE, "talk"): (Status.OK, ""),
    (HOSTILE, "allocate"): (Status.OUT_OF_MEMORY, "can't allocate memory"),
    (HOSTILE, "sleep"): (Status.TIMEOUT, "measuring: not done after 5 s; --timeout sets the limit"),
    (HOSTILE, "kill"): (Status.KILLED, "measuring: the worker was killed by SIGKILL (the kernel does this when"),
    ("hostile.py:quits", "none"): (Status.KILLED, "building: the worker exited with 0 before it was done; its output"),
    ("hostile.py:not_a_number", "none"): (Status.ERROR, "the loss is nan"),
    ("hostile.py:hoards", "none"): (Status.OUT_OF_MEMORY, "plain step: RuntimeError"),
    ("hostile.py:hoards", "each"): (Status.OK, ""),
    (HEALTHY, "none"): (Status.OK, ""),
    (HEALTHY, "each"): (Status.OK, ""),
}
WELL = [key for key, (status, _) in EXPECTED.items() if status is Status.OK]
COMPARED = [key for key in WELL if key[0] != "hostile.py:hoards"]


@pytest.fixture(scope="module")
def ended(project: Path) -> subprocess.CompletedProcess[str]:
    (project / "wrong.toml").write_text(SUITE)
    return forked.rematbench("run", "wrong.toml", "--out", "wrong", cwd=project)


@pytest.fixture(scope="module")
def rows(project: Path, ended: subprocess.CompletedProcess[str]) -> Rows:
    assert ended.stdout, ended.stderr
    return {(row.model, row.placement): row for row in read_measurements(project / "wrong")}


def test_the_command_exits_with_1_and_says_what_failed(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 1
    assert "7 of 13 rows failed" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("key", EXPECTED, ids=str)
def test_each_case_is_a_row_with_its_status_and_a_message(rows: Rows, key: tuple[str, str]) -> None:
    status, message = EXPECTED[key]
    assert rows[key].status is status
    assert message in rows[key].message
    assert bool(rows[key].message) == bool(message)


def test_nothing_else_is_a_row(project: Path, rows: Rows) -> None:
    with (project / "wrong" / "results.csv").open(newline="") as file:
        cells = [(row["model"], row["placement"], row["status"]) for row in csv.DictReader(file)]
    assert sorted(cells) == sorted((*key, status) for key, (status, _) in EXPECTED.items())
    assert rows.keys() == EXPECTED.keys()


@pytest.mark.parametrize("key", WELL, ids=str)
def test_what_works_is_measured_and_timed_whatever_failed_before(rows: Rows, key: tuple[str, str]) -> None:
    row = rows[key]
    assert row.memory is not None
    assert row.memory.repeatable
    assert row.flops is not None
    assert row.timing is not None
    assert len(row.timing.step_s) == 3


@pytest.mark.parametrize("key", COMPARED, ids=str)
def test_what_works_is_compared_to_the_plain_step_in_a_fresh_worker_too(rows: Rows, key: tuple[str, str]) -> None:
    row = rows[key]
    assert row.equality is not None
    assert (row.equality.gradients, row.equality.loss, row.equality.rng_state) == ("bitwise", "equal", "equal")
    assert row.timing is not None
    assert len(row.timing.plain_s) == 3


def test_a_model_that_only_fits_checkpointed_is_measured_without_a_plain_step(rows: Rows) -> None:
    row = rows["hostile.py:hoards", "each"]
    assert row.memory is not None
    assert 2**29 < row.memory.peak_bytes < 2**30
    assert row.equality is None
    assert row.flops is not None
    assert row.flops.recompute is None
    assert row.timing is not None
    assert row.timing.plain_s == ()


def test_a_loss_that_is_no_number_is_said_and_not_timed(rows: Rows) -> None:
    row = rows["hostile.py:not_a_number", "none"]
    assert row.memory is not None
    assert row.timing is None
    assert row.equality is None


@pytest.fixture(scope="module")
def alone(rematbench: Run) -> list[subprocess.CompletedProcess[str]]:
    """The healthy model in runs of its own, two of them at once in one folder."""
    arguments = ("run", "--model", HEALTHY, "--placement", "each", "--rounds", "0", "--set", "threads=1")
    with ThreadPoolExecutor() as pool:
        return [*pool.map(lambda _: rematbench(*arguments), range(2))]


def test_two_runs_at_once_end_well_in_folders_of_their_own(
    project: Path, alone: list[subprocess.CompletedProcess[str]]
) -> None:
    assert [run.returncode for run in alone] == [0, 0]
    folders = [folder for folder in (project / "results").iterdir() if not folder.is_symlink()]
    assert len(folders) == 2
    assert (project / "results" / "latest").resolve() in folders
    assert all(any(folder.name in run.stdout for run in alone) for folder in folders)


@pytest.mark.usefixtures("alone")
def test_the_numbers_of_a_healthy_neighbour_are_those_it_has_alone(project: Path, rows: Rows) -> None:
    for folder in (project / "results").glob("custom-*"):
        cases = read_measurements(folder)
        assert [(case.model, case.placement) for case in cases] == [(HEALTHY, "none"), (HEALTHY, "each")]
        for case in cases:
            neighbour = rows[case.model, case.placement]
            assert (case.memory, case.flops, case.equality) == (neighbour.memory, neighbour.flops, neighbour.equality)


def test_what_a_model_prints_goes_to_the_log(project: Path, rows: Rows) -> None:
    said = [line for line in (project / "wrong" / "output.log").read_text().splitlines() if line == '{"kind": "done"}']
    assert len(said) >= 3
    assert rows[HOSTILE, "talk"].status is Status.OK


def test_no_process_is_left_behind(project: Path, rows: Rows) -> None:
    assert rows
    assert [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(project)] == []
