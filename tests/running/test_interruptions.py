"""A run that is interrupted loses no finished row, leaves no process behind, and goes on where it was.

One story serves every test here: Ctrl-C on a terminal, `kill -9` of the run that goes on, and one more that ends well.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from rematbench.records.measurement import Measurement, Status
from rematbench.records.store import read_measurements

Run = Callable[..., subprocess.CompletedProcess[str]]

COMMAND = str(Path(sys.executable).parent / "rematbench")
ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the terminal that signals come from, and becomes the command."""

FIRST, GATED = "modules:blocks.0", "modules:blocks.2"
ARGUMENTS = ("run", "--model", "hostile.py:build", "--placement", FIRST, "--placement", GATED, "--out", "gone")
SETTINGS = ("--rounds", "2", "--set", "threads=1")
RESUME = (*ARGUMENTS, *SETTINGS, "--resume")
LIMIT_S = 60.0
ENDS_WITHIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What there was when a run had ended; `survivors` are processes that it started."""

    code: int
    said: str
    rows: list[Measurement]
    survivors: list[psutil.Process]


@dataclass(frozen=True, kw_only=True)
class Story:
    """The three runs, and those that were refused in between."""

    interrupted: Moment
    killed: Moment
    ended: Moment
    beside: subprocess.CompletedProcess[str]
    refused: dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def story(project: Path, rematbench: Run) -> Story:
    closed = project / "closed"
    closed.touch()
    interrupted = interrupt_on_a_terminal(project)
    killed, beside = kill_at_the_gate(project, lambda: rematbench(*RESUME))
    refused = {
        "settings": rematbench(*RESUME, "--set", "seed=1"),
        "begun": rematbench(*ARGUMENTS, *SETTINGS),
    }
    closed.unlink()
    end = rematbench(*RESUME)
    ended = Moment(code=end.returncode, said=end.stdout + end.stderr, rows=rows(project), survivors=[])
    return Story(interrupted=interrupted, killed=killed, ended=ended, beside=beside, refused=refused)


def interrupt_on_a_terminal(project: Path) -> Moment:
    """Press Ctrl-C on the terminal of a run that has measured two placements and hangs in the third."""
    terminal, theirs = os.openpty()
    command = [sys.executable, "-c", ON_ITS_TERMINAL, COMMAND, *ARGUMENTS, *SETTINGS]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140"}
    with running(
        command, cwd=project, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        said = b""
        while not (at_the_gate(project, 1) and f"{GATED} · measuring" in plain(said)):
            said += (more := read(terminal))
            assert more, said
        workers = psutil.Process(process.pid).children(recursive=True)
        os.write(terminal, b"\x03")
        while more := read(terminal):
            said += more
        code = process.wait(LIMIT_S)
    os.close(terminal)
    return Moment(code=code, said=plain(said), rows=rows(project), survivors=survivors(workers))


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside this process; a test that fails does not leave it behind."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def read(terminal: int) -> bytes:
    """Return what is written on a terminal next; nothing once it is closed."""
    with suppress(OSError):  # Linux ends a terminal that nobody holds with EIO
        return os.read(terminal, 1 << 16)
    return b""


def plain(said: bytes) -> str:
    """Return what was written on a terminal without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode(errors="replace"))


def kill_at_the_gate(
    project: Path, beside: Callable[[], subprocess.CompletedProcess[str]]
) -> tuple[Moment, subprocess.CompletedProcess[str]]:
    """Go on with the run, try it a second time beside it, and kill it while it hangs."""
    with running([COMMAND, *RESUME], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + LIMIT_S
        while not at_the_gate(project, 2):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        other = beside()
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        code = process.wait(LIMIT_S)
    return Moment(code=code, said="", rows=rows(project), survivors=survivors(workers)), other


def at_the_gate(project: Path, times: int) -> bool:
    log = project / "gone" / "output.log"
    return log.exists() and log.read_text().count("at the gate") == times


def rows(project: Path) -> list[Measurement]:
    return read_measurements(project / "gone")


def survivors(workers: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that do not end soon; where nobody takes note of an orphan's end, a zombie stays."""
    assert workers
    left = psutil.wait_procs(workers, timeout=ENDS_WITHIN_S)[1]
    return [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE]


def test_a_terminal_shows_model_placement_and_what_is_left(story: Story) -> None:
    assert re.search(rf"hostile\.py:build · {re.escape(GATED)} · measuring .* 2/6 .* left", story.interrupted.said)


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(story: Story) -> None:
    assert story.interrupted.code == 130
    assert "interrupted: 2 of 3 rows are in gone; go on with --resume --out gone" in story.interrupted.said
    assert "Traceback" not in story.interrupted.said


@pytest.mark.parametrize("name", ["interrupted", "killed"])
def test_finished_rows_are_kept_and_no_worker_survives(story: Story, name: str) -> None:
    moment: Moment = getattr(story, name)
    assert [(row.placement, row.status) for row in moment.rows] == [("none", Status.OK), (FIRST, Status.OK)]
    assert all(row.memory and row.equality for row in moment.rows)
    assert moment.survivors == []


def test_the_run_that_goes_on_has_the_folder_to_itself(story: Story) -> None:
    assert story.killed.code == -signal.SIGKILL
    assert story.beside.returncode == 2
    assert one_sentence(story.beside) == (
        "rematbench: gone: another run is writing to it; wait for its end, or begin a new run"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("settings", "gone ran another suite, or with other settings"),
        ("begun", "gone already holds a run"),
    ],
)
def test_what_does_not_fit_the_folder_is_refused(story: Story, name: str, sentence: str) -> None:
    assert story.refused[name].returncode == 2
    assert sentence in one_sentence(story.refused[name])


def one_sentence(run: subprocess.CompletedProcess[str]) -> str:
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    return line


def test_going_on_measures_only_what_is_missing(story: Story) -> None:
    assert story.ended.code == 0, story.ended.said
    assert [row.placement for row in story.ended.rows] == ["none", FIRST, GATED]
    assert all(row.status is Status.OK and row.timing and len(row.timing.step_s) == 2 for row in story.ended.rows)
    for moment in (story.killed, story.ended):
        for before, after in zip(story.interrupted.rows, moment.rows, strict=False):
            assert after.model_copy(update={"timing": None}) == before


def test_plain_lines_where_there_is_no_terminal(story: Story) -> None:
    lines = [line for line in story.ended.said.splitlines() if line.startswith("[")]
    assert len(lines) == 3
    assert re.fullmatch(r"\[3/3\] hostile\.py:build · modules:blocks\.2 · peak [\d.]+ KiB · step [\d.]+ .s", lines[-1])
    assert "\x1b" not in story.ended.said
