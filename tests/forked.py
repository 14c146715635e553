"""The command and its workers as forks of this process, which has imported torch and all of ours already.

For tests of what a command measures, says and exits with: all is as it is for a user, in processes of their own with
pipes between them, but for the start of an interpreter, which takes ten times as long as the rest. That an installed
command starts, and a worker, is what `tests/test_installed.py`, `tests/running` and the documentation's blocks hold.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch._dynamo  # noqa: F401  # which the first region of a process imports, in a second

from rematbench import cli
from rematbench.running import process, worker

Ended = subprocess.CompletedProcess[str]


def rematbench(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Call the command in a folder, to its end."""

    def call() -> None:
        os.chdir(cwd)
        setattr(process, "subprocess", FORKING)  # noqa: B010  # a name that is imported there, not exported
        sys.argv = ["rematbench", *map(str, arguments)]
        cli.main()

    with Path(os.devnull).open("rb") as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = fork(call, (nothing.fileno(), out.fileno(), err.fileno()), env=os.environ | (env or {}))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Ended(["rematbench", *map(str, arguments)], code, *texts)


class ForkedWorker:
    """A worker that is forked, with as much of `subprocess.Popen` as `rematbench.running.process` asks for."""

    def __init__(
        self,
        command: list[str],
        *,
        stdout: Any,
        pass_fds: list[int],
        env: Mapping[str, str],
        **options: object,
    ) -> None:
        assert options == {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        order, ours = os.pipe()

        def work() -> None:
            os.setsid()
            sys.argv = ["worker", command[-1]]
            worker.main()

        self.pid = fork(work, (order, stdout.fileno(), stdout.fileno()), env=env, kept=pass_fds)
        os.close(order)
        self.stdin = os.fdopen(ours, "wb")
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            end = os.pidfd_open(self.pid)
            try:
                if not select.select([end], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            finally:
                os.close(end)
        code = self._waited(0)
        assert code is not None
        return code

    def _waited(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


FORKING = SimpleNamespace(**vars(subprocess) | {"Popen": ForkedWorker})
"""What `rematbench.running.process` may have in the place of `subprocess`."""


def fork(
    run: Callable[[], None], streams: tuple[int, int, int], *, env: Mapping[str, str], kept: Iterable[int] = ()
) -> int:
    """Call a function in a child with these standard streams and environment; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(run, streams, env, set(kept))
    return pid


def _become(run: Callable[[], None], streams: tuple[int, int, int], env: Mapping[str, str], kept: set[int]) -> NoReturn:
    """Call a function in this process, which has just been forked, with nothing open but what is given, and end."""
    code = 1
    try:
        for number, theirs in enumerate(streams):
            os.dup2(theirs, number)
        for number in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - {0, 1, 2} - kept:
            with suppress(OSError):  # that of the listing itself
                os.close(number)
        for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.environ.clear()
        os.environ.update(env)
        warnings.resetwarnings()  # pytest makes errors of them; a process of its own shows them
        try:
            run()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)  # nothing of the tests' is cleaned up twice
