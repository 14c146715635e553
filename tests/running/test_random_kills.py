"""Real workers and real runs, killed by SIGKILL at random moments, those right after a row included; then gone on with.

Few kills by default. In full, and as many parents as half the workers:

    REMATBENCH_KILLS=200 python -m pytest -q -s tests/running/test_random_kills.py
"""

import csv
import os
import random
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import forked
from tests.running.machine import Silent, is_whole

from rematbench.errors import DeviceError
from rematbench.records.measurement import Measurement, Status, Timing
from rematbench.records.store import RECORDS, Store, csv_text, read_measurements
from rematbench.running import process
from rematbench.running.runner import run_suite
from rematbench.suite.suite import Suite

KILLS = int(os.environ.get("REMATBENCH_KILLS", "2"))
SEED = int(os.environ.get("REMATBENCH_KILLS_SEED", "12"))

NET = """
import torch
from torch import nn

def build():
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))), (torch.randn(2, 8),)
"""

TOML = """
name = "s"
models = [{ model = "net.py:build", name = "m" }]
placements = ["none", "each", "all"]
settings = { devices = ["cpu"], rounds = 2, threads = 1 }
"""
SUITE = Suite.model_validate(tomllib.loads(TOML))

WORKER = r"""
import os, signal, sys, threading
from pathlib import Path

plan = Path(sys.argv[0] + ".plan")
first, _, rest = plan.read_text().partition("\n")
word, number, seconds = first.split() if first else ("", "0", "0")
said = os.open(sys.argv[0] + ".killed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def die():
    plan.write_text(rest)
    os.write(said, first.encode() + b"\n")
    os.kill(os.getpid(), signal.SIGKILL)

def die_in(seconds):
    if not seconds:
        die()
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()

if word == "start":
    die_in(float(seconds))

from rematbench.running import worker

sayer = worker._speaking_on

def speaking(channel):
    say, counts = sayer(channel), {"message": 0, "row": 0}

    def counted(message):
        if (word, counts["message"]) == ("before", int(number)):
            die()
        say(message)
        counts["message"] += 1
        counts["row"] += message.kind in ("measured", "timed")
        if counts.get(word) == int(number) and (word != "row" or message.kind in ("measured", "timed")):
            die_in(float(seconds))

    return counted

worker._speaking_on = speaking
sys.argv = ["worker", sys.argv[-1]]
worker.main()
"""

PARENT = r"""
import os, signal, sys, threading
word, number, seconds = sys.argv.pop(1).split()
count = 0

def die_in(seconds):
    if not seconds:
        os.kill(os.getpid(), signal.SIGKILL)
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGKILL])
    timer.daemon = True
    timer.start()

def watch(event, arguments):
    # Whatever changes the run's folder comes by here first; a row is there once its record is appended.
    global count
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(path, (str, os.PathLike)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_APPEND)
    elif event in ("os.rename", "os.remove", "os.mkdir"):
        path, changes = arguments[0], True
    else:
        return
    path = os.fspath(path) if changes else ""
    if word == "change" and "run" in str(path).split("/") or word == "row" and str(path).endswith("measurements.jsonl"):
        count += 1
        if count == int(number):
            die_in(float(seconds))

sys.addaudithook(watch)
if word == "start":
    die_in(float(seconds))
from rematbench.cli import main
main()
"""


def a_worker_s_death(chance: random.Random) -> str:
    """Return when the next worker dies: `start`, `message`, `before` or `row`, which one, and seconds after it."""
    return chance.choice(
        [
            f"start 0 {chance.uniform(0.0, 3.0):.3f}",
            f"message {chance.randrange(1, 22)} {chance.choice([0.0, chance.uniform(0.0, 0.05)]):.4f}",
            f"before {chance.randrange(22)} 0",
            f"row {chance.randrange(1, 7)} {chance.choice([0.0, chance.uniform(0.0, 0.01)]):.4f}",
        ]
    )


def a_parent_s_death(chance: random.Random) -> str:
    return chance.choice(
        [
            f"start 0 {chance.uniform(0.0, 5.0):.3f}",
            f"change {chance.randrange(1, 30)} 0",
            f"row {chance.randrange(1, 7)} {chance.uniform(0.0, 0.01):.4f}",
        ]
    )


def timeless(rows: list[Measurement]) -> list[Measurement]:
    """Return rows without what no two runs have alike, how often each was timed kept."""

    def counted(row: Measurement) -> Measurement:
        assert row.timing is not None
        timing = Timing(step_s=(1.0,) * len(row.timing.step_s), plain_s=(1.0,) * len(row.timing.plain_s))
        return row.model_copy(update={"measured_at": "", "timing": timing, "timeline": None})

    return [counted(row) for row in rows]


def timeless_cells(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the CSV without the columns that are made of times."""
    with (folder / "results.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith("step_") and name != "measured_at"}
            for row in csv.DictReader(file)
        ]


def check_nothing_lost(folder: Path, before: list[Measurement]) -> None:
    """Check that each row that was there still is, one a key, and that one that went well still does."""
    finished: set[tuple[str, ...]] = set()
    for line in (folder / RECORDS).read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        row = Measurement.model_validate_json(line)
        assert row.status is Status.OK or row.key not in finished, row.message
        if row.status is Status.OK and row.timing:
            finished.add(row.key)
    now = {row.key: row for row in read_measurements(folder)}
    for row in before:
        assert row.key in now
        assert now[row.key].status is Status.OK or row.status is not Status.OK
        assert row.timing is None or now[row.key].timing is not None
        for had, has in zip(parts(row), parts(now[row.key]), strict=True):
            assert has or not had or row.status is not Status.OK


def parts(row: Measurement) -> tuple[bool, ...]:
    """Return which of its figures a row has; the plain step's times are beside its own where there were any."""
    timing = row.timing
    return row.memory is not None, row.equality is not None, timing is not None, bool(timing and timing.plain_s)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "net.py").write_text(NET)
    store = Store.begin(folder / "run", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "subprocess", forked.FORKING)
        run_suite(SUITE, store, folder, Silent())
    assert all(row.status is Status.OK for row in store.measurements)
    return folder / "run"


@pytest.fixture
def mortal_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of deaths to come, a line each, taken out by the worker that dies it; `.killed` has those."""
    body, command = tmp_path / "real.py", tmp_path / "real"
    body.write_text(WORKER)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{body}" "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(command))
    (tmp_path / "net.py").write_text(NET)
    plan = tmp_path / "real.py.plan"
    plan.touch()
    return plan


def test_rows_after_kills_of_workers_are_those_of_an_undisturbed_run(
    mortal_workers: Path, undisturbed: Path, tmp_path: Path
) -> None:
    chance, killed, tale = random.Random(SEED), tmp_path / "real.py.killed", 0
    killed.touch()
    while (count := len(killed.read_text().splitlines())) < KILLS:
        tale += 1
        folder = tmp_path / f"run{tale}"
        deaths = [a_worker_s_death(chance) for _ in range(chance.randrange(2, 9))]
        mortal_workers.write_text("\n".join(deaths[: KILLS - count]))
        before: list[Measurement] = []
        while not (before and all(is_whole(row) for row in before)):
            mortal = bool(mortal_workers.read_text())
            store = Store.resume(folder, "") if folder.exists() else Store.begin(folder, "")
            with suppress(DeviceError):  # the probes of a device have as many lives
                run_suite(SUITE, store, tmp_path, Silent())
                check_nothing_lost(folder, before)
                assert (folder / "results.csv").read_text() == csv_text(store.measurements)
            before = read_measurements(folder)
            assert mortal or all(is_whole(row) for row in before), deaths
        mortal_workers.write_text("")
        assert timeless(before) == timeless(read_measurements(undisturbed)), deaths
        assert timeless_cells(folder) == timeless_cells(undisturbed), deaths
    words = [line.partition(" ")[0] for line in killed.read_text().splitlines()]
    print(f"\n{len(words)} workers killed in {tale} runs:", {word: words.count(word) for word in sorted(set(words))})


def test_rows_after_kills_of_parents_are_those_of_an_undisturbed_run(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "s.toml").write_text(TOML)
    expected = timeless(read_measurements(undisturbed)), timeless_cells(undisturbed)
    chance, words, tale = random.Random(SEED), list[str](), 0
    while len(words) < KILLS // 2:
        tale += 1
        before: list[Measurement] = []
        code, deaths = -signal.SIGKILL, list[str]()
        while code == -signal.SIGKILL:
            deaths.append(a_parent_s_death(chance) if len(words) < KILLS // 2 else "start 0 600")
            code = parent(deaths[-1], tmp_path)
            assert code in (0, -signal.SIGKILL), deaths
            words += [deaths[-1].partition(" ")[0]] * (code != 0)
            if (tmp_path / "run" / RECORDS).exists():
                check_nothing_lost(tmp_path / "run", before)
                before = read_measurements(tmp_path / "run")
        assert (timeless(before), timeless_cells(tmp_path / "run")) == expected, deaths
        (tmp_path / "run").rename(tmp_path / f"run-{tale}")
    print(f"\n{len(words)} parents killed in {tale} runs:", {word: words.count(word) for word in sorted(set(words))})


def parent(death: str, project: Path) -> int:
    """Run the command, or go on with it where there is a run, until it ends or dies; no worker is there afterwards."""
    resume = ["--resume"] if (project / "run" / RECORDS).exists() else []
    done = subprocess.run(
        [sys.executable, "-P", "-c", PARENT, death, "run", "s.toml", "--out", "run", *resume],
        cwd=project,
        env=os.environ | {"REMATBENCH_TEST_MARK": str(project)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    deadline = time.monotonic() + 10.0
    while left := list(marked(str(project))):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    return done.returncode


def marked(mark: str) -> Iterator[Any]:
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.environ().get("REMATBENCH_TEST_MARK") == mark:
                yield one
