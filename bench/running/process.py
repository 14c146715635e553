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

from bench.errors import BenchError
from bench.results.record import Record, Status
from bench.running.protocol import MESSAGE, Began, Done, Failed, Refused

START_LIMIT_S = 300.0
"""A worker that has not said anything by then, with nothing of the user's run yet, is broken."""


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
        command = [sys.executable, "-P", "-m", "bench.running.worker", str(theirs)]
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs],
                    env=self._environment,
                    start_new_session=True,
                )
        finally:
            os.close(theirs)
        assert self._process.stdin is not None
        self._process.stdin.write(self._order.model_dump_json().encode() + b"\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        os.close(self._channel)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def messages(self) -> Iterator[Any]:
        """Yield what the worker says, and last of all how it ended, if it did not end well.

        The last message is `Done`, or a `Failed` that says which placement it fell over: reported by the worker itself,
        or made here for one that was killed or ran out of time.

        Raises:
            BenchError: the order asks for something that the user has to mend.
        """
        current = Began(placement="", stage="building")
        started = False
        self._deadline = time.monotonic() + START_LIMIT_S
        for line in self._lines():
            message = _read(line)
            if isinstance(message, Refused):
                raise BenchError(message.message)
            if isinstance(message, Began):
                current, started = message, True
                self._deadline = time.monotonic() + self._timeout_s
            yield message
            if isinstance(message, Done | Failed):
                return
        yield self._lost(current, started, timed_out=time.monotonic() >= self._deadline)

    def _lines(self) -> Iterator[bytes]:
        """Yield whole lines until the worker closes its end or the deadline, which may move, has passed."""
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while selector.select(max(0.0, self._deadline - time.monotonic())):
                chunk = os.read(self._channel, 1 << 16)
                if not chunk:
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                yield from lines

    def _lost(self, current: Began, started: bool, timed_out: bool) -> Failed:
        stage = current.stage if started else "starting"
        if timed_out:
            self._kill()
            limit_s = self._timeout_s if started else START_LIMIT_S
            message = f"{stage}: not done after {limit_s:g} s; --timeout sets the limit"
            return Failed(placement=current.placement, status=Status.TIMEOUT, message=message)
        code = self._process.wait()
        message = f"{stage}: {_cause(code)}; its output is in {self._log.name}"
        return Failed(placement=current.placement, status=Status.KILLED, message=message)

    def _kill(self) -> None:
        """End the worker and whatever it started, and wait for it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _read(line: bytes) -> Any:
    try:
        return MESSAGE.validate_json(line)
    except ValidationError as error:
        raise BenchError(f"a worker said what the runner does not understand: {line[:200]!r}") from error


def _cause(code: int) -> str:
    if code >= 0:
        return f"the worker exited with {code} before it was done"
    name = signal.Signals(-code).name
    hint = " (the kernel does this when memory runs out)" if name == "SIGKILL" else ""
    return f"the worker was killed by {name}{hint}"
