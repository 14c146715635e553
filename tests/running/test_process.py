"""A worker process as the runner sees it. Its place is taken by small scripts, which misbehave in ways of their own."""

import json
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rematbench.errors import RematbenchError, StorageError
from rematbench.record import Record
from rematbench.records.measurement import Status
from rematbench.running import process
from rematbench.running.process import Worker
from rematbench.running.protocol import Began, Done, Failed, Lost, ProbeOrder, Refused

ORDER = ProbeOrder(device="cpu", threads=None)
BEGAN = Began(placement="each", stage="measuring")

SIGKILL = "the worker was killed by SIGKILL (the kernel does this when memory runs out)"

PRELUDE = """
import json, os, signal, sys, time
channel = int(sys.argv[4])
def say(kind, **fields):
    os.write(channel, (json.dumps({"kind": kind, **fields}) + "\\n").encode())
def began(placement="each", stage="measuring"):
    say("began", placement=placement, stage=stage)
"""

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return a worker that runs a script in place of the real one; its log is `log` in the temporary folder."""
    python = sys.executable

    def worker(script: str, order: Record = ORDER, timeout_s: float = 60.0, **environment: str) -> Worker:
        body, command = tmp_path / "stand_in.py", tmp_path / "stand_in"
        body.write_text(PRELUDE + script)
        command.write_text(f'#!/bin/sh\nexec "{python}" -S "{body}" "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(command))
        return Worker(order, tmp_path / "log", timeout_s, environment)

    return worker


def said(worker: Worker) -> list[Any]:
    with worker:
        return list(worker.messages())


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """Return the process numbers that a script has printed; in the end all of them are gone."""

    def numbers() -> list[int]:
        return [int(word) for word in (tmp_path / "log").read_text().split()]

    yield numbers
    assert numbers()
    wait_until(lambda: all(map(gone, numbers())))


def gone(pid: int) -> bool:
    """Tell whether a process has ended; where nobody takes note of an orphan's end, a zombie stays."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    """A signal is delivered a moment after it is sent."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_messages_come_in_order_and_end_with_done(start: Start) -> None:
    worker = start('began("none", "plain step"); began(); say("done"); began("never", "timing")')
    assert said(worker) == [Began(placement="none", stage="plain step"), BEGAN, Done()]


def test_the_worker_is_started_so_that_no_file_of_the_user_can_stand_in_for_ours(start: Start) -> None:
    worker = start('began(" ".join(sys.argv[1:4])); say("done")')
    assert said(worker)[0].placement == "-P -m rematbench.running.start"


def test_it_gets_the_order_whole_and_its_variables(start: Start) -> None:
    order = ProbeOrder(device="×" * 100_000, threads=3)
    script = 'order = json.loads(sys.stdin.buffer.readline()); began(order["device"], "timing")\n'
    script += 'print(os.environ["EXTRA"], sys.stdin.buffer); say("done")'
    assert said(start(script, order, EXTRA="here"))[0].placement == order.device


def test_what_it_prints_is_in_the_log_and_no_message(start: Start, tmp_path: Path) -> None:
    line = Done().model_dump_json()
    script = f"print({line!r}, flush=True); os.write(2, {line!r}.encode()); began(); say('done')"
    assert said(start(script)) == [BEGAN, Done()]
    assert (tmp_path / "log").read_text() == f"{line}\n{line}"


def test_messages_may_come_in_pieces_and_be_long(start: Start) -> None:
    script = """
line = json.dumps({"kind": "refused", "message": "é" * 200_000}).encode() + b"\\n"
began()
for piece in (line[:1], line[1:100_001], line[100_001:]):
    while piece:
        piece = piece[os.write(channel, piece):]
"""
    with start(script) as worker, pytest.raises(RematbenchError, match=r"^é{200000}$"):
        list(worker.messages())


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("sys.exit(0)", "the worker exited with 0 before it was done"),
        ("sys.exit('no')", "the worker exited with 1 before it was done"),
        ("os._exit(7)", "the worker exited with 7 before it was done"),
        ("os.kill(os.getpid(), signal.SIGKILL)", SIGKILL),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the worker was killed by SIGSEGV"),
        ('os.write(channel, b\'{"kind":"do\'); os._exit(7)', "the worker exited with 7 before it was done"),
    ],
)
def test_a_worker_that_ends_early_is_a_failure_of_the_placement_it_was_at(start: Start, end: str, cause: str) -> None:
    *_, began, failed = said(start(f"began('none', 'plain step'); began(); {end}"))
    assert began == BEGAN
    assert isinstance(failed, Failed)
    assert (failed.placement, failed.status) == ("each", Status.KILLED)
    assert failed.message == f"measuring: {cause}; its output is in log"


@pytest.mark.parametrize(
    "over",
    [
        'say("ended")',
        'say("resident", placement="each", resident_bytes=7)',
        'say("timed", placement="each", timing={"step_s": [1.0], "plain_s": []})',
    ],
)
def test_what_was_begun_and_is_over_is_not_to_blame(start: Start, over: str) -> None:
    *_, lost = said(start(f"began(); {over}; os._exit(7)"))
    assert isinstance(lost, Lost)
    assert (lost.placement, lost.status) == ("", Status.KILLED)
    assert lost.message.startswith("between two placements: the worker exited with 7 before it was done")
    *_, lost = said(start(f"began(); {over}; time.sleep(1e6)", timeout_s=0.5))
    assert isinstance(lost, Lost)
    assert (lost.placement, lost.status) == ("", Status.TIMEOUT)
    *_, failed = said(start(f"began(); {over}; began('next'); os._exit(7)"))
    assert not isinstance(failed, Lost)
    assert failed.placement == "next"


def test_one_that_is_killed_while_it_builds_is_lost_and_one_that_never_ends_building_is_not(start: Start) -> None:
    *_, lost = said(start("began('', 'building'); os.kill(os.getpid(), signal.SIGKILL)"))
    assert isinstance(lost, Lost)
    *_, failed = said(start("began('', 'building'); time.sleep(1e6)", timeout_s=0.5))
    assert not isinstance(failed, Lost)
    assert (failed.placement, failed.status) == ("", Status.TIMEOUT)


def test_one_that_ends_before_it_has_read_its_order_is_a_failure_too(start: Start) -> None:
    order = ProbeOrder(device="x" * 1_000_000, threads=None)
    (failed,) = said(start("os._exit(3)", order))
    assert (failed.placement, failed.status) == ("", Status.KILLED)
    assert failed.message == "starting: the worker exited with 3 before it was done; its output is in log"


@pytest.mark.usefixtures("started")
def test_one_that_hangs_runs_out_of_time_and_is_ended(start: Start) -> None:
    worker = start("print(os.getpid(), flush=True); began(); time.sleep(1e6)", timeout_s=0.5)
    *_, failed = said(worker)
    assert (failed.placement, failed.status) == ("each", Status.TIMEOUT)
    assert failed.message == "measuring: not done after 0.5 s; --timeout sets the limit"


def test_one_that_never_starts_has_a_limit_of_its_own(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_LIMIT_S", 0.2)
    (failed,) = said(start("time.sleep(1e6)"))
    assert (failed.status, failed.message) == (Status.TIMEOUT, "starting: not done after 0.2 s")


def test_every_stage_has_the_whole_time(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that jumps on by most of the limit while each of three stages runs."""
    ahead_s = [0.0]
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead_s[0])
    script = f"""
for stage in range(3):
    began(f"stage {{stage}}")
    while not os.path.exists({str(tmp_path)!r} + f"/{{stage}}"): time.sleep(0.001)
say("done")
"""
    heard: list[Any] = []
    with start(script, timeout_s=1000.0) as worker:
        for message in worker.messages():
            ahead_s[0] += 900.0
            (tmp_path / str(len(heard))).touch()
            heard.append(message)
    assert heard[3:] == [Done()]


LEAVE_A_CHILD = """
began()
print(pid := os.fork() or os.getpid(), flush=True)
if pid == os.getpid(): time.sleep(1e6)
"""


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_child_that_holds_the_channel_does_not_hide_its_end(
    start: Start, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOOK_S", 0.05)
    *_, failed = said(start(LEAVE_A_CHILD + end))
    assert failed.status is Status.KILLED


@pytest.mark.usefixtures("started")
def test_what_it_said_last_is_heard_though_a_child_holds_the_channel(start: Start) -> None:
    messages = said(start(LEAVE_A_CHILD + 'began("last", "timing"); say("done"); os._exit(0)'))
    assert messages == [BEGAN, Began(placement="last", stage="timing"), Done()]


@pytest.mark.usefixtures("started")
def test_one_that_closes_the_channel_and_goes_on_is_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_LIMIT_S", 0.2)
    script = "print(os.getpid(), flush=True); began(); os.closerange(3, 256); time.sleep(1e6)"
    *_, failed = said(start(script))
    assert failed.status is Status.KILLED
    assert failed.message.startswith("measuring: the worker closed its connection to the runner and went on")


def test_leaving_ends_it_and_its_children(start: Start, started: Callable[[], list[int]]) -> None:
    script = "os.fork(); print(os.getpid(), flush=True); began(); time.sleep(1e6)"
    with start(script) as worker:
        messages = worker.messages()
        assert [next(messages), next(messages)] == [BEGAN, BEGAN]
    assert len(started()) == 2


def test_no_descriptor_is_left_open(start: Start) -> None:
    before = psutil.Process().num_fds()
    said(start('say("done")'))
    assert psutil.Process().num_fds() == before


def test_a_refusal_is_a_usage_error(start: Start) -> None:
    script = f"os.write(channel, {json.dumps(Refused(message='no such model').model_dump())!r}.encode() + b'\\n')"
    with start(script) as worker, pytest.raises(RematbenchError, match=r"^no such model$"):
        list(worker.messages())


def test_what_is_no_message_is_not_guessed_at(start: Start) -> None:
    with (
        start("os.write(channel, b'hello\\n')") as worker,
        pytest.raises(RematbenchError, match="does not understand: b'hello"),
    ):
        list(worker.messages())


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    worker = Worker(ORDER, tmp_path / "missing" / "log", 1.0)
    with pytest.raises(StorageError, match="missing/log: No such file or directory"):
        worker.__enter__()
