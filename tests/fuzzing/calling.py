"""The command called in this process, its workers replaced by ones that read the order and measure nothing."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.records.making import CPU, measurement, memory
from typer.main import get_command

from rematbench import cli
from rematbench.errors import RematbenchError
from rematbench.placement.goal import Goal
from rematbench.placement.outline import Chain, Outline
from rematbench.placement.placement import Placement
from rematbench.running import runner, single
from rematbench.running.protocol import (
    MESSAGE,
    ORDER,
    Began,
    Built,
    Done,
    Failed,
    JobOrder,
    Measured,
    Probed,
    ProbeOrder,
    Resident,
    ResidentOrder,
)
from rematbench.suite.suite import Device
from rematbench.workload.devices import find_device

DOCUMENTED = {0, 1, 2, 3, 4}
"""What a command may exit with in `docs/ci.md`, but for a bug, an interruption and a reader who went away."""

PATIENCE_S = 60.0

OUTLINE = Outline(
    modules={"": "Net", "body": "Sequential", **{f"body.{number}": "Linear" for number in range(4)}},
    chains=(Chain(path="body", blocks=("Linear",) * 4),),
    outermost=(Chain(path="body", blocks=("Linear",) * 4),),
    parameters={"body.0.weight": (2, 2)},
)


class HangError(BaseException):
    """A command that took longer than any of these may."""


@contextmanager
def patience(seconds: float = PATIENCE_S) -> Iterator[None]:
    """Raise `HangError` where a `with` block takes longer."""

    def hang(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Planless:
    """Plans nothing, but reads the goal as a planner does."""

    def plan(self, goal: Goal) -> Placement:
        goal.step_budget(1 << 20, 1 << 20) if goal.point is None else None
        return Placement(name=goal.name, regions=())

    plan_by_ckptplan = plan


class Workless:
    """A worker that reads its order from the pipe's text and resolves the placements, and measures nothing."""

    def __init__(self, order: Any, log: Path, timeout_s: float, _environment: object = None) -> None:
        self._order = ORDER.validate_json(order.model_dump_json().encode())
        self._log, self._timeout_s = log, timeout_s

    def __enter__(self) -> Workless:
        with self._log.open("ab"):
            return self

    def __exit__(self, *_: object) -> None:
        pass

    def messages(self) -> Iterator[Any]:
        """Yield what a worker would say, each through its line."""
        for message in self._said():
            yield MESSAGE.validate_json(message.model_dump_json())

    def _said(self) -> Iterator[Any]:
        order = self._order
        if isinstance(order, ProbeOrder):
            device = find_device(order.device)  # a Refused is raised as a RematbenchError all the same
            yield Probed(device=Device(name=str(device)), environment=CPU, meter="none")
        elif isinstance(order, JobOrder):
            yield Built(dtype=order.job.settings.dtype or "float32")
            for name in order.measure:
                yield Began(placement=name, stage="measuring")
                case = next(case for case in order.job.cases if case.name == name)
                try:
                    placement = case.resolve(OUTLINE, Planless())
                except RematbenchError as error:
                    text = " ".join(str(error).split()).encode(errors="replace").decode()
                    yield Failed(placement=name, status="error", message=f"measuring: {text}")
                    return
                yield Measured(
                    measurement=measurement(
                        name,
                        suite=order.job.suite,
                        model=order.job.model.name,
                        device=order.job.device,
                        regions=placement,
                        memory=memory(100, 50),
                        environment=CPU,
                    )
                )
        elif isinstance(order, ResidentOrder):
            yield Resident(placement=order.placement, resident_bytes=1)
        else:
            yield Failed(placement="", status="error", message="not built")
            return
        yield Done()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a call ended."""

    arguments: Sequence[str]
    code: object
    out: str
    err: str


def called(*arguments: str) -> Ended:
    """Call the command in this process, in the folder that one is in."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    before = sys.argv, sys.stdout, sys.stderr
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv, sys.stdout, sys.stderr = ["rematbench", *arguments], *streams
    try:
        with patience(), pytest.raises(SystemExit) as exit_:
            cli.main()
    finally:
        sys.argv, sys.stdout, sys.stderr = before
        for number, handler in signals.items():
            signal.signal(number, handler)
    out, err = (stream.detach().getvalue().decode() for stream in streams)
    return Ended(arguments=arguments, code=exit_.value.code, out=out, err=err)


def check(ended: Ended) -> None:
    """Hold that a command ended as the documentation says: with a code of its own, and a sentence where it failed."""
    assert ended.code in DOCUMENTED, f"{ended.arguments}: {ended.code}\n{ended.err[-3000:]}"
    assert "Traceback" not in ended.err
    if ended.code == 2:
        assert (ended.err + ended.out).strip(), ended.arguments
        own = sum(map(len, ended.arguments))  # a path of thousands of characters may be named
        assert len(ended.err) < 5_000 + own, f"a sentence of {len(ended.err)} characters"


@contextmanager
def fresh(template: Path, folder: Path) -> Iterator[Path]:
    """Go into a folder that is a copy of another, for the length of a `with` block."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `Workless` in the place of a worker."""
    monkeypatch.setattr(runner, "Worker", Workless)
    monkeypatch.setattr(single, "Worker", Workless)
    monkeypatch.setattr(cli, "app", get_command(cli.app))  # else built anew for each call, by evaluating annotations
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
