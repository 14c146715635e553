"""Exact bytes on a GPU: the counters of torch's caching allocator, and its history where the two agree.

The allocator keeps the peak itself, to 512 bytes. Its history tells the rest, who allocated what and when, and is
believed only where it comes to the same peak.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch

from rematbench.measuring.collector import collector_still
from rematbench.torch_internals import allocator_history, start_allocator_history, stop_allocator_history
from rematbench.traces.replay import Reading, replay
from rematbench.traces.timeline import Phase
from rematbench.traces.trace import Event, Span
from rematbench.workload.step import Phases

_ROUNDING = 512
"""What the caching allocator rounds up to, unless PYTORCH_ALLOC_CONF has it round otherwise."""


class CudaMeter:
    """Counters of torch's CUDA caching allocator, set back at the start of every phase, and its history of the step."""

    name = "torch CUDA allocator counters"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[Span] = []

    def block(self, path: str) -> AbstractContextManager[Any]:
        return self._span(path, is_block=True)

    @contextmanager
    def _span(self, name: str, *, is_block: bool = False) -> Iterator[None]:
        start = _now()
        try:
            yield
        finally:
            self._spans.append(Span(name=name, start=start, stop=_now(), is_block=is_block))

    def read(self, step: Callable[[Phases], object]) -> Reading:
        peaks: dict[Phase, int] = {}
        held: dict[Phase, int] = {}
        reserved: list[int] = []
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        start = torch.cuda.memory_allocated(self._device)
        self._spans.clear()

        @contextmanager
        def phases(phase: Phase) -> Iterator[None]:
            torch.cuda.reset_peak_memory_stats(self._device)
            with self._span(phase):
                yield
            peaks[phase] = torch.cuda.max_memory_allocated(self._device) - start
            held[phase] = torch.cuda.memory_allocated(self._device) - start
            reserved.append(torch.cuda.max_memory_reserved(self._device))

        with collector_still(), _history(self._device) as events:
            step(phases)
        counted = Reading(held_bytes=held["forward"], phase_peak_bytes=peaks, reserved_bytes=max(reserved))
        replayed = replay(events, self._spans)
        same = (replayed.held_bytes, replayed.phase_peak_bytes) == (counted.held_bytes, counted.phase_peak_bytes)
        return replace(replayed, reserved_bytes=counted.reserved_bytes) if same else counted


def _now() -> int:
    """Return nanoseconds since 1970, as exact as the history has them."""
    return time.time_ns() // 1000 * 1000


@contextmanager
def _history(device: torch.device) -> Iterator[list[Event]]:
    """Have the allocator write down what it does; the list is filled on leaving, or stays empty where it cannot."""
    events: list[Event] = []
    try:
        start_allocator_history()
    except (AttributeError, TypeError, RuntimeError):
        # Another torch may call it otherwise, take other arguments, or refuse; the counters do without.
        traceback.print_exc()
        yield events
        return
    try:
        yield events
        events.extend(cuda_events(allocator_history(device)))
    finally:
        stop_allocator_history()


def cuda_events(trace: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """Read the entries of a device's `allocator_history`.

    They have the bytes that were asked for; what counts is rounded up. A free counts when it is asked for, as in the
    counters.
    """
    signs = {"alloc": 1, "free_requested": -1}
    for entry in trace:
        if (sign := signs.get(entry["action"])) is not None:
            size = -(-entry["size"] // _ROUNDING) * _ROUNDING
            yield Event(time=1000 * entry["time_us"], address=entry["addr"], change=sign * size)
