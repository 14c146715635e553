"""Exact bytes on a CPU: what torch's allocator hands out and takes back during one step, by the events of its profiler.

With only user scopes switched on the profiler records nothing else, so the pass costs no more than a plain step. It
sees the thread that runs the step. The allocator's own count of the process is held against that.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from types import FrameType

import torch
from torch.autograd.profiler import record_function

from rematbench.errors import RematbenchError
from rematbench.measuring.collector import collector_still
from rematbench.torch_internals import (
    ProfiledAllocation,
    ProfiledScope,
    count_cpu_allocations,
    profiled,
    without_dispatch,
)
from rematbench.traces.replay import Reading, replay
from rematbench.traces.trace import Event, Span
from rematbench.workload.step import Phases

_PHASE, _BLOCK = "rematbench.phase.", "rematbench.block."
"""How the names of our scopes begin; a model may have scopes of its own."""


class UncountedError(RematbenchError):
    """A step allocated in other threads, where neither its bytes nor its FLOPs are seen."""


class CpuMeter:
    """Allocation events of torch's CPU allocator, from its profiler."""

    name = "torch CPU allocator events"

    def __init__(self) -> None:
        count_cpu_allocations()  # from here on: memory older than a reading may be freed inside it

    @contextmanager
    def block(self, path: str) -> Iterator[None]:
        mark = record_function(_BLOCK + path)
        with without_dispatch():  # marks are operators: a save policy must not be asked about them
            mark.__enter__()
        try:
            yield
        finally:
            with without_dispatch():
                mark.__exit__(None, None, None)

    def read(self, step: Callable[[Phases], object]) -> Reading:
        with collector_still(), profiled() as found, _torch_in_threads() as strangers:
            torch.empty(1)
            step(lambda phase: record_function(_PHASE + phase))
            torch.empty(1)
        missed = _missed_bytes(found.allocations)
        if missed or strangers:
            raise UncountedError(
                f"the step ran torch in other threads{f', which allocated {missed:,} bytes' if missed else ''}: "
                f"neither their memory nor their FLOPs are counted, so run it in one thread"
            )
        events = [
            Event(time=made.time_ns, address=made.address, change=made.change_bytes) for made in found.allocations
        ]
        return replay(events, [_span(scope) for scope in found.scopes if scope.name.startswith((_PHASE, _BLOCK))])


def _missed_bytes(allocations: list[ProfiledAllocation]) -> int:
    """Return by how much the process's total comes to differ from the sum of the events: what they do not show."""
    # Of events at one time the order is not known, and so not which total is the last.
    offsets: list[int] = []
    total = 0
    for _, group in groupby(sorted(allocations, key=lambda made: made.time_ns), key=lambda made: made.time_ns):
        together = list(group)
        total += sum(made.change_bytes for made in together)
        if len(together) == 1:
            offsets.append(together[0].total_bytes - total)
    return max((abs(offset - offsets[0]) for offset in offsets), default=0)


@contextmanager
def _torch_in_threads() -> Iterator[list[str]]:
    """Note the threads that are started inside and call torch; those that free all they allocate leave no total."""
    found: list[str] = []

    def notice(frame: FrameType, event: str, argument: object) -> None:
        owner = getattr(argument, "__self__", None)
        is_torch = str(frame.f_globals.get("__name__")).startswith("torch.") if event == "call" else False
        if is_torch or isinstance(owner, torch.Tensor) or "torch" in getattr(owner, "__module__", ""):
            found.append(threading.current_thread().name)
            sys.setprofile(None)

    before = threading.getprofile()
    threading.setprofile(notice)
    try:
        yield found
    finally:
        threading.setprofile(before)


def _span(scope: ProfiledScope) -> Span:
    is_block = scope.name.startswith(_BLOCK)
    name = scope.name.removeprefix(_BLOCK if is_block else _PHASE)
    return Span(name=name, start=scope.start_ns, stop=scope.stop_ns, is_block=is_block)
