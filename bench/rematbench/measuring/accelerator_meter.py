"""Exact bytes on an accelerator: the counters of its caching allocator, and its history where the two agree.

CUDA, ROCm, XPU and whatever else `torch.accelerator` knows keep the same counters. Counted are the bytes that were
asked for, as on a CPU: the allocator's blocks are larger, by up to a mebibyte each, and by how much depends on what
was freed before. The history, where there is one, tells who allocated what and when; it is believed when it adds up.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rematbench.errors import DeviceError
from rematbench.measuring.collector import collector_still
from rematbench.torch_internals import allocator_history, start_allocator_history, stop_allocator_history
from rematbench.traces.replay import Reading, replay
from rematbench.traces.timeline import Phase
from rematbench.traces.trace import Event, Span
from rematbench.workload.devices import memory_info
from rematbench.workload.step import Phases

_SIGNS = {"alloc": 1, "free_completed": -1}
"""The entries of a history that change what is counted. Like the counters of asked bytes (free_block in
c10/cuda/CUDACachingAllocator.cpp), a free counts when it is complete: when no other stream may still use the block."""

_BLOCK_BYTES = 512
"""What the smallest block of the caching allocator has."""


@dataclass(kw_only=True)
class _Mark:
    """The start or the end of a span: how many entries the history had by then, and the clock in nanoseconds."""

    count: int
    clock: int
    time: int = field(default=0)


class AcceleratorMeter:
    """Counters of torch's caching allocator, set back at the start of every phase, and its history of the step.

    Attributes:
        name: how it measures; `allocated` where the allocator does not count what was asked for (cudaMallocAsync).
        grain_bytes: what its bytes are rounded up to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, bool, _Mark, _Mark]] = []
        self._every: list[_Mark] = []
        self._is_recording = False
        self._has_said = False
        self._choose_counter(memory_counters(device))

    def _choose_counter(self, counters: Mapping[str, int]) -> None:
        # An allocator that does not count them has the key all the same, with zeros.
        asked = counters["requested_bytes.all.allocated"] or not counters["allocated_bytes.all.allocated"]
        self._counter = "requested_bytes" if asked else "allocated_bytes"
        self.grain_bytes = 1 if asked else _BLOCK_BYTES
        self.name = f"torch {self._device.type.upper()} allocator, {'requested' if asked else 'allocated'} bytes"

    def block(self, path: str) -> AbstractContextManager[Any]:
        return self._span(path, is_block=True)

    @contextmanager
    def _span(self, name: str, *, is_block: bool = False) -> Iterator[None]:
        start = self._mark()
        try:
            yield
        finally:
            self._marks.append((name, is_block, start, self._mark()))

    def _mark(self) -> _Mark:
        count = _entries(memory_counters(self._device)) if self._is_recording else 0
        mark = _Mark(count=count, clock=time.time_ns())
        self._every.append(mark)
        return mark

    def read(self, step: Callable[[Phases], object]) -> Reading:
        torch.accelerator.synchronize(self._device)
        torch.accelerator.empty_cache()
        self._marks.clear()
        self._every.clear()
        peaks: dict[Phase, Mapping[str, int]] = {}
        history: list[Mapping[str, Any]] = []
        with collector_still(), self._history(history):
            start = memory_counters(self._device)
            self._choose_counter(start)

            @contextmanager
            def phases(phase: Phase) -> Iterator[None]:
                torch.accelerator.reset_peak_memory_stats(self._device)
                with self._span(phase):
                    yield
                peaks[phase] = memory_counters(self._device)

            step(phases)
            stop = memory_counters(self._device)
        counted = self._counted(start, peaks)
        told = self._told(history, start, stop)
        same = told and (told.held_bytes, told.phase_peak_bytes) == (counted.held_bytes, counted.phase_peak_bytes)
        if told is None or not same:
            return counted
        return replace(
            counted, held_by_block=told.held_by_block, at_peak=told.at_peak, timeline=told.timeline, trace=told.trace
        )

    def _counted(self, start: Mapping[str, int], ends: Mapping[Phase, Mapping[str, int]]) -> Reading:
        """Return what the counters say; what they do not count is None."""

        def greatest(name: str, above: int) -> int | None:
            told = any(counters[f"{name}.all.allocated"] for counters in ends.values())
            return max(counters[f"{name}.all.peak"] for counters in ends.values()) - above if told else None

        before, forward = start[f"{self._counter}.all.current"], ends.get("forward", start)
        info = memory_info(self._device)
        return Reading(
            held_bytes=forward[f"{self._counter}.all.current"] - before,
            phase_peak_bytes={phase: end[f"{self._counter}.all.peak"] - before for phase, end in ends.items()},
            allocated_bytes=greatest("allocated_bytes", start["allocated_bytes.all.current"]),
            active_bytes=greatest("active_bytes", start["active_bytes.all.current"]),
            reserved_bytes=greatest("reserved_bytes", 0),
            device_used_bytes=info[1] - info[0] if info else None,
        )

    def _told(
        self, history: Sequence[Mapping[str, Any]], start: Mapping[str, int], stop: Mapping[str, int]
    ) -> Reading | None:
        """Return what the history says; None where it has not as many entries as the counters have counted."""
        entries = [entry for entry in history if entry["action"] in _SIGNS]
        if not entries or len(entries) != _entries(stop) - _entries(start):
            return None
        times = _in_order(entries, self._every, first=_entries(start))
        events = [
            Event(time=at, address=entry["addr"], change=_SIGNS[entry["action"]] * entry["size"])
            for at, entry in zip(times, entries, strict=True)
        ]
        spans = [
            Span(name=name, start=start.time, stop=stop.time, is_block=is_block)
            for name, is_block, start, stop in self._marks
        ]
        return replay(events, spans)

    @contextmanager
    def _history(self, filled: list[Mapping[str, Any]]) -> Iterator[None]:
        """Have the allocator write down what it does; the list is filled on leaving, or stays empty if it cannot."""
        try:
            start_allocator_history(self._device)
        except _NO_HISTORY:
            self._say_once()
            yield
            return
        self._is_recording = True
        try:
            yield
            try:
                found = allocator_history(self._device)
                filled.extend({name: entry[name] for name in ("action", "addr", "size", "time_us")} for entry in found)
            except (*_NO_HISTORY, KeyError, IndexError):
                filled.clear()
                self._say_once()
        finally:
            self._is_recording = False
            stop_allocator_history(self._device)

    def _say_once(self) -> None:
        """Leave in the log why there is no history; a step is read many times, and a device has one or has none."""
        if not self._has_said:
            traceback.print_exc()
        self._has_said = True


_NO_HISTORY = (AttributeError, TypeError, RuntimeError)
"""Another torch or another kind of device may call it otherwise, take other arguments, or refuse."""


class _Counters(dict[str, int]):
    """Counters of an allocator; what it does not count is 0."""

    def __missing__(self, _name: str) -> int:
        return 0


def memory_counters(device: torch.device) -> Mapping[str, int]:
    """Return the counters of a device's caching allocator, by names as `requested_bytes.all.peak`; 0 for others.

    Raises:
        DeviceError: this torch does not count the memory of such a device.
    """
    try:
        return _Counters(torch.accelerator.memory_stats(device))
    except RuntimeError as error:
        raise DeviceError(
            f"device {device}: torch {torch.__version__} does not count the memory of a device of this kind; "
            f"use a later torch, or --device cpu"
        ) from error


def _entries(counters: Mapping[str, int]) -> int:
    """Return how many entries a history has by now, from when the process began: blocks handed out and taken back."""
    return counters["active.all.allocated"] + counters["active.all.freed"]


def _in_order(entries: Iterable[Mapping[str, Any]], marks: Sequence[_Mark], first: int) -> list[int]:
    """Return a time in nanoseconds for each entry, and give each mark one, so that they stand as they were counted.

    A mark stands behind as many entries as there were when it was made, though the clocks of the allocator and of
    Python may differ by microseconds, and one of them may be set anew. Times are as the clocks have them otherwise.
    """
    times: list[int] = []
    now, coming = 0, 0

    def let_by(count: float) -> None:
        nonlocal now, coming
        while coming < len(marks) and marks[coming].count - first <= count:
            now = marks[coming].time = max(now + 1, marks[coming].clock)
            coming += 1

    for count, entry in enumerate(entries):
        let_by(count)
        now = max(now + 1, 1000 * entry["time_us"])
        times.append(now)
    let_by(float("inf"))
    return times
