"""Whole runs of the command: what it leaves behind and what it prints, under names and on disks that make it hard."""

import csv
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import forked

from rematbench.records.columns import COLUMNS
from rematbench.records.store import Store, read_measurements

Ended = subprocess.CompletedProcess[str]
Run = Callable[..., Ended]

COMMAND = str(Path(sys.executable).parent / "rematbench")

ODD = r"""
name = "odd, näme/of √"
placements = ["none"]

[settings]
threads = 1
rounds = 1

[[models]]
name = "net, \"quoted\"\n√"
model = "scales.py:build"
arguments = { depth = 4, kib = 16384 }
"""


@pytest.fixture(scope="module")
def odd(project: Path, rematbench: Run) -> Ended:
    """A run with `--json` and `--resident` under names that are hard to write, where the locale knows only ASCII."""
    (project / "odd.toml").write_text(ODD, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return rematbench("run", "odd.toml", "--json", "--resident", env=os.environ | ascii_only)


@pytest.fixture(scope="module")
def odd_rows(odd: Ended) -> list[dict[str, Any]]:
    assert odd.returncode == 0, odd.stderr
    rows: list[dict[str, Any]] = json.loads(odd.stdout, parse_constant=pytest.fail)
    return rows


def test_json_is_all_there_is_on_standard_output(odd: Ended, odd_rows: list[dict[str, Any]]) -> None:
    assert [list(row) for row in odd_rows] == [[column.name for column in COLUMNS]]
    assert "cpu: meter: 64 MiB asked, 64 MiB seen" in odd.stderr


def test_names_that_are_hard_to_write_come_back_as_they_were(project: Path, odd_rows: list[dict[str, Any]]) -> None:
    (run,) = (project / "results").glob("odd-n-me-of--2*")
    assert (project / "results" / "latest").resolve() == run.resolve()
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        (cells,) = csv.DictReader(file)
    (row,) = odd_rows
    (measurement,) = read_measurements(run)
    names = ("odd, näme/of √", 'net, "quoted"\n√', "none")
    assert (measurement.suite, measurement.model, measurement.placement) == names
    assert (row["suite"], row["model"], row["placement"]) == names
    assert (cells["suite"], cells["model"], cells["placement"]) == names


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to give memory back at once")
def test_the_resident_set_follows_what_is_allocated(odd_rows: list[dict[str, Any]]) -> None:
    (row,) = odd_rows
    assert row["peak_bytes"] > 50 * 2**20
    assert row["resident_bytes"] == pytest.approx(row["peak_bytes"], rel=0.05)


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Limits the size of every file, and becomes the command."""


def test_a_full_disk_ends_the_run_with_its_rows_intact(project: Path) -> None:
    """By a limit on the size of every file, which the records reach after a few of the five rows."""
    arguments = ("run", "--model", "scales.py:build", "--rounds", "0", "--set", "threads=1", "--out", "full")
    command = [sys.executable, "-c", LIMITED, COMMAND, *arguments]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "rematbench: full/measurements.jsonl: File too large; is the disk full or the folder not writable?"
    )
    assert (project / "full" / "measurements.jsonl").read_bytes().endswith(b"}\n")
    rows = read_measurements(project / "full")
    measured = [row.placement for row in rows]
    assert measured in [["none", "each", "each-but-last", "every:2"][:count] for count in (1, 2, 3, 4)]
    with (project / "full" / "results.csv").open(newline="") as file:
        assert [cells["placement"] for cells in csv.DictReader(file)] == measured
    assert Store.resume(project / "full", (project / "full" / "suite.toml").read_text()).measurements == rows


INTERRUPTED = {
    "run": (("run", "--model", "scales.py:build"), "--out", 5),
    "plan": (
        ("plan", "models.net:build?depth=8&batch=4096", "--budget", "80%", "--minimise", "flops", "--set", "rounds=0"),
        "--run",
        2,
    ),
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_a_polite_kill_ends_what_measures_as_ctrl_c_does(project: Path, verb: str) -> None:
    arguments, option, rows = INTERRUPTED[verb]
    folder, pipe = f"ended-{verb}", subprocess.PIPE
    command = [COMMAND, *arguments, option, folder]
    with subprocess.Popen(command, cwd=project, stdout=pipe, stderr=pipe, text=True) as process:
        parent = psutil.Process(process.pid)
        while not (workers := parent.children()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, error = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert error == f"interrupted: 0 of {rows} rows are in {folder}; go on with --resume {option} {folder}\n"
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_a_plan_goes_on_where_it_was(project: Path) -> None:
    """As the sentence says: what the run has is not measured again, and the plan is explained and written."""
    arguments, option, _ = INTERRUPTED["plan"]
    rematbench = partial(forked.rematbench, cwd=project)
    first = rematbench(*arguments, option, "going-on")
    before = read_measurements(project / "going-on")
    kept = (project / "going-on" / "measurements.jsonl").read_text().splitlines(keepends=True)
    (project / "going-on" / "measurements.jsonl").write_text(kept[0])
    again = rematbench(*arguments, "--resume", option, "going-on", "--out", "plan.json")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert again.stdout.endswith("placement written to plan.json\n")
    plain, plan = read_measurements(project / "going-on")
    assert plain == before[0]
    assert (plan.regions, plan.memory) == (before[1].regions, before[1].memory)
    refused = rematbench(*arguments, option, "going-on")
    assert (refused.returncode, refused.stderr) == (
        2,
        "rematbench: going-on already holds a run: choose another folder, or go on with it by --resume\n",
    )
