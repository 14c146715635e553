"""A worker process as the runner sees it: one order in, messages out, ended at a deadline or with the runner."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rematbench.errors import RematbenchError
from rematbench.record import Record
from rematbench.records.measurement import Status
from rematbench.records.store import opened_to_append
from rematbench.running.protocol import (
    MESSAGE,
    Began,
    Done,
    Ended,
    Failed,
    Fitted,
    Inspected,
    Lost,
    Measured,
    Refused,
    Resident,
    Timed,
)

START_LIMIT_S = 300.0
"""A worker that has not said anything by then, with nothing of the user's run yet, is broken."""

END_LIMIT_S = 10.0
"""A worker that has closed its end of the channel is gone by then, or hangs and is ended."""

LOOK_S = 1.0
"""How often to look whether the worker still lives: a process that it forked may hold the channel open after it."""


class Worker:
    """One worker process, for the length of a `with` block; leaving it ends the process.

    Args:
        order: what to do.
        log: file that gets what the process prints.
        timeout_s: how long any one stage of a placement may take.
        environment: variables on top of this process's.
    """

    def __init__(
        self, order: Record, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        self._order = order
        self._log = log
        self._timeout_s = timeout_s
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Worker:
        self._channel, theirs = os.pipe()
        # -P: a user's rematbench.py, or numpy.py, in this folder is not what the worker imports.
        command = [sys.executable, "-P", "-m", "rematbench.running.start", str(theirs)]
        try:
            with opened_to_append(self._log) as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs],
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C reaches the runner alone, and the group ends with its children
                )
        finally:
            os.close(theirs)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, and `messages` says how
            self._process.stdin.write(self._order.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        os.close(self._channel)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def messages(self) -> Iterator[Any]:
        """Yield what the worker says, and last of all how it ended, if it did not end well.

        The last message is `Done`, or a `Failed` that says which placement it fell over: reported by the worker itself,
        or made here for one that was killed or ran out of time. It is `Lost` where no placement was in progress: what
        had been begun was over, by its result or by `Ended`.

        Raises:
            RematbenchError: the order is a usage error, as the worker found.
        """
        current: Began | None = None
        started = False
        self._deadline = time.monotonic() + START_LIMIT_S
        for line in self._lines():
            try:
                message = MESSAGE.validate_json(line)
            except ValidationError as error:
                raise RematbenchError(f"a worker said what the runner does not understand: {line[:200]!r}") from error
            if isinstance(message, Refused):
                raise RematbenchError(message.message)
            if isinstance(message, Began):
                current, started = message, True
                self._deadline = time.monotonic() + self._timeout_s
            elif isinstance(message, Ended | Measured | Timed | Resident | Inspected | Fitted):
                current = None
                self._deadline = time.monotonic() + self._timeout_s
            yield message
            if isinstance(message, Done | Failed):
                return
        yield self._lost(current, started, timed_out=time.monotonic() >= self._deadline)

    def _lines(self) -> Iterator[bytes]:
        """Yield whole lines, as long as there are chunks."""
        buffer = b""
        for chunk in self._chunks():
            *lines, buffer = (buffer + chunk).split(b"\n")
            yield from lines

    def _chunks(self) -> Iterator[bytes]:
        """Yield what comes until the worker ends, closes the channel, or has passed the deadline, which may move."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while True:
                ended = self._process.poll() is not None  # before reading: what it said last is read after its end
                left_s = self._deadline - time.monotonic()
                if selector.select(0 if ended else max(0.0, min(left_s, LOOK_S))):
                    chunk = os.read(self._channel, 1 << 16)
                    if not chunk:
                        return
                    yield chunk
                elif ended or left_s <= 0:
                    return

    def _lost(self, current: Began | None, started: bool, timed_out: bool) -> Failed:
        stage = current.stage if current else "between two placements" if started else "starting"
        if timed_out:
            # One that never starts, or a model that is never built, would take as long again in the next worker.
            kind: type[Failed] = Lost if started and current is None else Failed
            status = Status.TIMEOUT
            limit = f"{self._timeout_s:g} s; --timeout sets the limit" if started else f"{START_LIMIT_S:g} s"
            message = f"{stage}: not done after {limit}"
        else:
            kind = Lost if current is None or current.stage == "building" else Failed
            status = Status.KILLED
            message = f"{stage}: {self._how_it_ended()}; its output is in {self._log.name}"
        return kind(placement=current.placement if current else "", status=status, message=message)

    def _how_it_ended(self) -> str:
        """Wait for a worker that has closed the channel, and say how it ended."""
        try:
            code = self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            return "the worker closed its connection to the runner and went on"
        if code >= 0:
            return f"the worker exited with {code} before it was done"
        name = signal.Signals(-code).name
        hint = " (the kernel does this when memory runs out)" if name == "SIGKILL" else ""
        return f"the worker was killed by {name}{hint}"

    def _kill(self) -> None:
        """End the worker and whatever it started, and wait for it."""
        with suppress(ProcessLookupError, PermissionError):  # the latter is how macOS says that all have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
