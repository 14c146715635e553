"""Workers that are killed, by a real SIGKILL, at every moment there is: blame, what is kept, and going on after it.

Most workers here are a small script that says what `Machine` says and then kills itself, so that every moment can be
tried; at the end are real ones.
"""

import os
import random
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import forked
from tests.running.machine import NAMES, Machine, Silent, is_whole, run, suite

from rematbench.errors import DeviceError, StorageError
from rematbench.placement.placement import PLAIN
from rematbench.record import Record
from rematbench.records.measurement import Measurement, Status, Timing
from rematbench.records.store import RECORDS, Store, csv_text
from rematbench.running import process, worker
from rematbench.running.process import Worker
from rematbench.running.protocol import Began, Done, Ended, JobOrder, Measured, ProbeOrder, Timed
from rematbench.running.runner import LIVES, run_suite
from rematbench.running.staging import Say
from rematbench.suite.suite import Device, Suite

SCRIPT = r"""
import os, signal, sys
lines = open(sys.argv[0] + ".lines", "rb").read().splitlines(keepends=True)
channel = int(sys.argv[4])
for line in lines:
    if line == b"kill\n":
        os.kill(os.getpid(), signal.SIGKILL)
    if line == b"hang\n":
        signal.pause()
    os.write(channel, line)
"""

Lives = Sequence[int | None]
"""After how many messages each worker of a model is killed, in their order; None, and what is not there, lives."""


def end_of(lines: list[bytes], life: int | None, end: bytes) -> list[bytes]:
    return lines if life is None else [*lines[:life], end]


class Told(Worker):
    """No process: what one said before it was killed, without waiting for one to start."""

    def __init__(self, order: Record, log: Path, timeout_s: float, lines: list[bytes]) -> None:
        super().__init__(order, log, timeout_s)
        self._told = lines

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None: ...

    def _lines(self) -> Iterator[bytes]:
        return iter(self._told)

    def _how_it_ended(self) -> str:
        return "the worker was killed by SIGKILL"


class Mortal:
    """Starts workers that say what a `Machine` says, each killed after as many messages as its life has.

    They are processes, or with `told` only what these say.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.orders: list[Any] = []
        self.lives: Lives = []
        self.kinds: tuple[type[Record], ...] = (JobOrder,)
        self.end = b"kill\n"
        self.told = False
        self._lines = folder / "stand_in.py.lines"
        body, command = folder / "stand_in.py", folder / "stand_in"
        body.write_text(SCRIPT)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{body}" "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(command))

    def __call__(self, order: Any, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None) -> Worker:
        self.orders.append(order)
        life = None
        if self.lives and isinstance(order, self.kinds):
            life, *self.lives = self.lives
        lines = [message.model_dump_json().encode() + b"\n" for message in Machine().answer(order)]
        if self.told:
            return Told(order, log, timeout_s, lines[:life])
        self._lines.write_bytes(b"".join(end_of(lines, life, self.end)))
        return Worker(order, log, 0.5 if self.end == b"hang\n" else timeout_s, environment)

    @property
    def jobs(self) -> list[JobOrder]:
        return [order for order in self.orders if isinstance(order, JobOrder)]


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mortal:
    return Mortal(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.begin(tmp_path / "run", "")


STORY = list(
    Machine().answer(
        JobOrder(
            job=suite().jobs(Path("/root"), [Device(name="cpu")])[0],
            measure=(PLAIN, *NAMES),
            time=(PLAIN, *NAMES),
            plain=True,
        )
    )
)
"""What one worker says that does the whole model."""


def in_progress(said: Sequence[Record]) -> str:
    """Return the placement that was begun and not finished after these messages."""
    current = ""
    for message in said:
        if isinstance(message, Began):
            current = message.placement
        elif isinstance(message, Ended | Measured | Timed):
            current = ""
    return current


@pytest.mark.parametrize("life", range(len(STORY)))
def test_a_kill_at_any_moment_is_blamed_on_what_was_begun_and_not_finished(
    mortal: Mortal, store: Store, life: int
) -> None:
    mortal.lives = [life]
    rows = run(mortal, suite(), store)
    blamed = in_progress(STORY[:life])
    failed = {name for (_, name), row in rows.items() if row.status is not Status.OK}
    assert failed == ({blamed} - {""})
    assert all(row.timing for row in rows.values() if row.placement != blamed)
    assert len(mortal.jobs) == (1 if isinstance(STORY[life], Done) else 2)
    if blamed != PLAIN:
        assert all(
            row.equality and row.timing.plain_s for row in rows.values() if row.placement != blamed and row.timing
        )
    for_good(store)


BETWEEN = [
    index + 1
    for index, message in enumerate(STORY)
    if isinstance(message, Measured | Timed) or (isinstance(message, Ended) and isinstance(STORY[index + 1], Timed))
]


@pytest.mark.parametrize("life", BETWEEN[::3])
def test_one_that_hangs_between_two_placements_is_nobodys_doing_either(mortal: Mortal, store: Store, life: int) -> None:
    mortal.lives, mortal.end = [life], b"hang\n"
    rows = run(mortal, suite(), store)
    assert all(row.status is Status.OK and row.timing for row in rows.values())


def for_good(store: Store) -> None:
    """Check that a row which was finished was never overwritten by a failure, nor lost what it had."""
    finished: dict[str, Measurement] = {}
    for line in (store.folder / RECORDS).read_bytes().splitlines():
        row = Measurement.model_validate_json(line)
        if before := finished.get(row.placement):
            assert row.status is Status.OK, row.message
            assert row.timing
            assert row.equality or not before.equality
            assert row.timing.plain_s or not (before.timing and before.timing.plain_s)
        if row.status is Status.OK and row.timing:
            finished[row.placement] = row


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = Store.begin(tmp_path_factory.mktemp("undisturbed") / "run", "")
    run(Machine(), suite(), store)
    return csv_text(store.measurements)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.lists(st.none() | st.integers(0, len(STORY)), min_size=1, max_size=8))
def test_after_any_kills_going_on_ends_in_the_rows_of_an_undisturbed_run(
    mortal: Mortal, tmp_path_factory: pytest.TempPathFactory, undisturbed: str, lives: list[int | None]
) -> None:
    mortal.lives = lives
    store = Store.begin(tmp_path_factory.mktemp("killed") / "run", "")
    run(mortal, suite(), store)
    while mortal.lives and not all(is_whole(row) for row in store.measurements):
        store = Store.resume(store.folder, "")
        run(mortal, suite(), store)
    mortal.lives = []
    run(mortal, suite(), store := Store.resume(store.folder, ""))
    for_good(store)
    assert (store.folder / "results.csv").read_text() == csv_text(store.measurements) == undisturbed


def test_a_plain_step_that_was_killed_is_compared_with_once_it_is_there(mortal: Mortal, store: Store) -> None:
    """Its worker dies in the plain step, so the rest has nothing to compare with; going on measures those anew."""
    mortal.lives = [next(index for index, message in enumerate(STORY) if in_progress([message]) == PLAIN) + 1]
    rows = run(mortal, suite(), store)
    assert rows["m", PLAIN].status is Status.KILLED
    assert all(rows["m", name].equality is None for name in NAMES)
    rows = run(mortal, suite(), Store.resume(store.folder, ""))
    assert all(row.equality and row.timing and row.timing.plain_s for row in rows.values())


PLAIN_MOMENTS = {
    "plain step": next(index for index, message in enumerate(STORY) if in_progress([message]) == PLAIN) + 1,
    "timing": next(i for i, message in enumerate(STORY) if isinstance(message, Began) and message.stage == "timing")
    + 1,
}
"""After how many messages a worker that is killed leaves the rest without a plain step, or without its times."""

COMPARING = list(
    Machine().answer(
        JobOrder(
            job=suite(resident=True).jobs(Path("/root"), [Device(name="cpu")])[0], measure=NAMES, time=NAMES, plain=True
        )
    )
)
"""What a worker says that only compares what there is with a plain step that came later."""


@pytest.mark.parametrize("stage", PLAIN_MOMENTS)
@pytest.mark.parametrize("times", [1, LIVES])
def test_a_row_that_was_finished_stands_whatever_ends_the_worker_that_compares_it(
    mortal: Mortal, tmp_path_factory: pytest.TempPathFactory, undisturbed: str, stage: str, times: int
) -> None:
    """At each moment, once and as often as a worker is started again; going on then compares what is left."""
    chosen = suite(resident=True)
    mortal.told = True
    for life in range(0, len(COMPARING), 1 if times == 1 else 4):
        store = Store.begin(tmp_path_factory.mktemp("killed") / "run", "")
        mortal.lives = [PLAIN_MOMENTS[stage]]
        before = run(mortal, chosen, store)
        mortal.lives = [None, *[life] * times]
        rows = run(mortal, chosen, store := Store.resume(store.folder, ""))
        for_good(store)
        assert all(row.status is Status.OK for row in rows.values())
        for row in rows.values():
            assert row.placement == PLAIN or row.resident_bytes == before["m", row.placement].resident_bytes == 7
            assert is_whole(row) != row.message.startswith("not compared with the plain step: "), row.message
        mortal.lives = []
        rows = run(mortal, chosen, store := Store.resume(store.folder, ""))
        assert all(is_whole(row) and not row.message for row in rows.values())
        assert without_resident(store) == undisturbed


def without_resident(store: Store) -> str:
    return csv_text([row.model_copy(update={"resident_bytes": None}) for row in store.measurements])


def test_what_a_row_says_of_itself_stays_beside_why_it_was_not_compared(mortal: Mortal, store: Store) -> None:
    """And is said once, by the last worker that ended, and no more when it is compared."""
    mortal.told, mortal.lives = True, [PLAIN_MOMENTS["timing"]]
    run(mortal, suite(), store)
    store.add(store.measurements[1].model_copy(update={"message": "the memory passes differ"}))
    for lives in ([None, 0, 0, 0], [1, 1, 1]):
        mortal.lives = lives
        row = run(mortal, suite(), store := Store.resume(store.folder, ""))["m", NAMES[0]]
        assert row.status is Status.OK
        assert row.message == (
            "the memory passes differ; not compared with the plain step: "
            f"{'building' if lives[0] else 'starting'}: the worker was killed by SIGKILL; "
            f"its output is in output.log; {LIVES} workers in a row ended like this"
        )
    row = run(mortal, suite(), Store.resume(store.folder, ""))["m", NAMES[0]]
    assert row.message == "the memory passes differ"


def test_what_the_comparison_itself_finds_out_is_the_row_s(store: Store) -> None:
    """An error, or memory that does not suffice, says something about the placement, other than a kill."""
    run(Machine(fates={PLAIN: "measuring"}), suite(), store)
    rows = run(Machine(fates={"each": "measuring"}), suite(), store := Store.resume(store.folder, ""))
    assert (rows["m", "each"].status, rows["m", "each"].message) == (Status.ERROR, "measuring: went wrong")
    assert rows["m", "each"].memory
    assert all(is_whole(rows["m", name]) for name in (PLAIN, *NAMES[1:]))


@pytest.mark.parametrize("life", [0, 1])
def test_one_that_is_killed_at_its_start_is_started_again_a_few_times(mortal: Mortal, store: Store, life: int) -> None:
    mortal.lives = [life] * (LIVES - 1)
    rows = run(mortal, suite(), store)
    assert all(row.status is Status.OK and row.timing for row in rows.values())


def test_one_that_never_survives_its_start_is_said_of_what_is_left(mortal: Mortal, store: Store) -> None:
    """In the suite's order, and without an end to the other models."""
    mortal.lives = [0] * LIVES
    rows = run(mortal, suite("m", "n"), store)
    assert [name for model, name in rows if model == "m"] == [PLAIN, *NAMES]
    assert {rows["m", name].message for name in (PLAIN, *NAMES)} == {
        "starting: the worker was killed by SIGKILL (the kernel does this when memory runs out); "
        f"its output is in output.log; {LIVES} workers in a row ended like this"
    }
    assert all(rows["n", name].status is Status.OK for name in (PLAIN, *NAMES))
    assert len(mortal.jobs) == LIVES + 1


def test_a_row_is_progress_and_the_next_worker_has_as_many_lives(mortal: Mortal, store: Store) -> None:
    reported = next(index for index, message in enumerate(STORY) if isinstance(message, Measured)) + 1
    mortal.lives = [*[0] * (LIVES - 1), reported, *[0] * (LIVES - 2)]
    rows = run(mortal, suite(), store)
    assert all(row.status is Status.OK and row.timing for row in rows.values())


def test_a_plain_step_that_has_its_row_keeps_it_when_it_fails_beside_others(mortal: Mortal, store: Store) -> None:
    run(mortal, suite(rounds=0), store)
    whole = store.measurements[0]
    (store.folder / RECORDS).write_text(whole.model_dump_json() + "\n")
    mortal.lives = [3] * LIVES
    rows = run(mortal, suite(rounds=0), Store.resume(store.folder, ""))
    assert rows["m", PLAIN] == whole
    assert all(f"{LIVES} workers in a row" in rows["m", name].message for name in NAMES)


def test_a_probe_that_is_killed_is_tried_again(mortal: Mortal, store: Store) -> None:
    mortal.kinds, mortal.lives = (ProbeOrder,), [0] * (LIVES - 1)
    assert all(row.status is Status.OK for row in run(mortal, suite(), store).values())
    mortal.lives = [0] * LIVES
    with pytest.raises(DeviceError, match=rf"^device cpu: starting: .*SIGKILL.*; {LIVES} workers in a row ended like"):
        run(mortal, suite(), store)


# Real workers

NET = """
import torch
from torch import nn

def build():
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))), (torch.randn(2, 8),)
"""


def dying(plan: Path, speaking: Callable[[TextIO], Say]) -> Callable[[TextIO], Say]:
    """Return how a worker speaks that carries out the next kill of the plan when it comes to it."""

    def is_next(kill: str) -> bool:
        first, _, rest = plan.read_text().partition("\n")
        if first == kill:
            plan.write_text(rest)
        return first == kill

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def until_the_end(channel: TextIO) -> Say:
        speak = speaking(channel)

        def say(message: Any) -> None:
            name = f"{message.kind} {getattr(getattr(message, 'measurement', message), 'placement', '')}"
            if is_next(f"before {name}"):
                die()
            speak(message)
            if is_next(f"after {name}"):
                die()
            word, _, seconds = plan.read_text().partition("\n")[0].partition(" ")
            if name == "began " and word == "in" and is_next(f"in {seconds}"):
                threading.Timer(float(seconds), die).start()

        return say

    return until_the_end


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of kills still to come, a line each, carried out by the worker that comes to it.

    `before` and `after` something that is said, or `in` so many seconds once it is building. Workers are forked: when
    one dies while it starts is a matter of `test_random_kills.py`.
    """
    plan = tmp_path / "plan"
    monkeypatch.setattr(process, "subprocess", forked.FORKING)
    monkeypatch.setattr(worker, "_speaking_on", dying(plan, worker._speaking_on))
    (tmp_path / "net.py").write_text(NET)
    plan.touch()
    return plan


REAL_SUITE = Suite.model_validate(
    {
        "name": "s",
        "models": [{"model": "net.py:build", "name": "m"}],
        "placements": [PLAIN, "each"],
        "settings": {"devices": ["cpu"], "rounds": 2, "threads": 1},
    }
)


def really(folder: Path) -> list[Measurement]:
    """Run the suite, or go on with it, with real workers."""
    store = Store.resume(folder, "") if folder.exists() else Store.begin(folder, "")
    run_suite(REAL_SUITE, store, folder.parent, Silent())
    for_good(store)
    assert (folder / "results.csv").read_text() == csv_text(store.measurements)
    return store.measurements


def timeless(rows: list[Measurement]) -> list[Measurement]:
    """Return rows without what no two runs have alike, how often each was timed kept."""

    def counted(row: Measurement) -> Measurement:
        assert row.timing is not None
        timing = Timing(step_s=(1.0,) * len(row.timing.step_s), plain_s=(1.0,) * len(row.timing.plain_s))
        return row.model_copy(update={"measured_at": "", "timing": timing, "timeline": None})

    return [counted(row) for row in rows]


def test_real_workers_killed_after_rows_and_at_random_moments(plan: Path, tmp_path: Path) -> None:
    """After the row of a placement and of the model's last, after the first of what was timed, and once anywhere."""
    undisturbed = timeless(really(tmp_path / "undisturbed"))
    plan.write_text("\n".join(["after measured none", "after measured each", "after timed none"]))
    assert timeless(really(tmp_path / "killed")) == undisturbed
    assert plan.read_text() == ""
    chance = random.Random(12)
    plan.write_text(f"in {chance.uniform(0.0, 0.4):.3f}")
    really(tmp_path / "at random")
    plan.write_text("")
    assert timeless(really(tmp_path / "at random")) == undisturbed


def test_real_workers_tell_the_files_of_a_model_and_a_run_does_not_go_on_with_others(
    plan: Path, tmp_path: Path
) -> None:
    (tmp_path / "blocks.py").write_text("from torch import nn\nBlock = nn.Tanh\n")
    (tmp_path / "net.py").write_text(f"import blocks\n{NET}")
    folder = tmp_path / "run"
    rows = really(folder)
    assert [sorted(row.sources or {}) for row in rows] == [["blocks.py", "net.py"]] * 2
    (folder / RECORDS).write_text(rows[0].model_dump_json() + "\n")
    (tmp_path / "blocks.py").write_text("from torch import nn\nBlock = nn.Sigmoid\n")
    with pytest.raises(
        StorageError, match=r"run: m: its rows are of another blocks\.py than is there now: begin a new"
    ):
        really(folder)
    assert plan.exists()
