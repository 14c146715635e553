"""Exact bytes from torch's own allocators: what they hand out and take back during one step.

On a CPU, torch's profiler reports every allocation and free; with only user scopes switched on it records nothing else,
so the pass costs no more than a plain step. On CUDA the caching allocator keeps the peak itself, to 512 bytes; its
history tells the rest, and is believed where it comes to the same peak.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch.autograd.profiler import record_function

from rematbench.errors import RematbenchError
from rematbench.traces.replay import Reading, replay
from rematbench.traces.timeline import Phase
from rematbench.traces.trace import Event, Span
from rematbench.workload.step import Phases

_PHASE, _BLOCK = "rematbench.phase.", "rematbench.block."
_ASKED = 64 * 2**20
_ROUNDING = 512
"""What the caching allocator rounds up to, unless PYTORCH_ALLOC_CONF has it round otherwise."""


class MeterError(RematbenchError):
    """The meter does not see what was allocated: no number it gives may be trusted."""


class Meter(Protocol):
    """Measures one call of a step that marks its phases."""

    name: str

    def block(self, path: str) -> AbstractContextManager[Any]:
        """Mark a call of a module, so that a reading can tell what it allocated."""

    def read(self, step: Callable[[Phases], object]) -> Reading:
        """Run the step once and say what it allocated."""


class CpuMeter:
    """Allocation events of torch's CPU allocator, from its profiler."""

    name = "torch CPU allocator events"

    @contextmanager
    def block(self, path: str) -> Iterator[None]:
        mark = record_function(_BLOCK + path)
        with torch._C._DisableTorchDispatch():  # marks are operators: a save policy must not be asked about them
            mark.__enter__()
        try:
            yield
        finally:
            with torch._C._DisableTorchDispatch():
                mark.__exit__(None, None, None)

    def read(self, step: Callable[[Phases], object]) -> Reading:
        with _profiled() as nodes:
            step(lambda phase: record_function(_PHASE + phase))
        events = [_event(node) for node in nodes if _is_allocation(node)]
        spans = [_span(node) for node in nodes if node.name.startswith((_PHASE, _BLOCK))]
        return replay(events, spans)


@contextmanager
def _profiled() -> Iterator[list[Any]]:
    """Profile user scopes and memory; the list is filled with the event tree's nodes on leaving.

    `torch.profiler.profile` would record every operator as well and spend a second on sorting them, so this calls what
    it calls (torch/autograd/profiler.py); the self-test before each run holds the private names to their meaning.
    """
    c = torch._C
    config = c._profiler.ProfilerConfig(
        c._profiler.ProfilerState.KINETO, False, True, False, False, False, c._profiler._ExperimentalConfig()
    )
    activities = {c._profiler.ProfilerActivity.CPU}
    nodes: list[Any] = []
    c._autograd._prepare_profiler(config, activities)
    c._autograd._enable_profiler(config, activities, {c._profiler.RecordScope.USER_SCOPE})  # type: ignore[call-arg]
    try:
        yield nodes
    finally:
        result = c._autograd._disable_profiler()
        nodes.extend(_flat(result.experimental_event_tree()))


def _flat(nodes: Iterable[Any]) -> Iterator[Any]:
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children)


def _is_allocation(node: Any) -> bool:
    return node.tag == torch._C._profiler._EventType.Allocation and node.extra_fields.device.type == "cpu"


def _event(node: Any) -> Event:
    return Event(time=node.start_time_ns, address=node.extra_fields.ptr, change=node.extra_fields.alloc_size)


def _span(node: Any) -> Span:
    is_block = node.name.startswith(_BLOCK)
    name = node.name.removeprefix(_BLOCK if is_block else _PHASE)
    return Span(name=name, start=node.start_time_ns, stop=node.end_time_ns, is_block=is_block)


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

        with _history(self._device) as events:
            step(phases)
        counted = Reading(held_bytes=held["forward"], phase_peak_bytes=peaks, reserved_bytes=max(reserved))
        told = replay(events, self._spans)
        same = (told.held_bytes, told.phase_peak_bytes) == (counted.held_bytes, counted.phase_peak_bytes)
        return replace(told, reserved_bytes=counted.reserved_bytes) if same else counted


def _now() -> int:
    """Return nanoseconds since 1970, as exact as the history has them."""
    return time.time_ns() // 1000 * 1000


@contextmanager
def _history(device: torch.device) -> Iterator[list[Event]]:
    """Have the allocator write down what it does; the list is filled on leaving, or stays empty where it cannot."""
    events: list[Event] = []
    try:
        record = torch.cuda.memory._record_memory_history
        record("all", context=None, clear_history=True)
    except Exception:  # its names are torch's own affair, and the counters do without
        traceback.print_exc()
        yield events
        return
    try:
        yield events
        index = device.index if device.index is not None else torch.cuda.current_device()
        events.extend(cuda_events(torch.cuda.memory._snapshot(device)["device_traces"][index]))
    finally:
        record(None)


def cuda_events(trace: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """Read the entries of a device's trace as `torch.cuda.memory._snapshot` describes them.

    They have the bytes that were asked for; what counts is rounded up. A free counts when it is asked for, as in the
    counters.
    """
    signs = {"alloc": 1, "free_requested": -1}
    for entry in trace:
        if (sign := signs.get(entry["action"])) is not None:
            size = -(-entry["size"] // _ROUNDING) * _ROUNDING
            yield Event(time=1000 * entry["time_us"], address=entry["addr"], change=sign * size)


def meter_for(device: torch.device) -> Meter:
    """Return the meter of a device."""
    return CudaMeter(device) if device.type == "cuda" else CpuMeter()


def self_test(meter: Meter, device: torch.device) -> str:
    """Allocate a known block and return the line that says the meter saw it.

    Raises:
        MeterError: it saw anything else.
    """

    def step(phases: Callable[[Phase], AbstractContextManager[Any]]) -> None:
        with phases("forward"):
            block = torch.empty(_ASKED, dtype=torch.uint8, device=device)
        with phases("backward"):
            del block

    reading = meter.read(step)
    seen = (reading.held_bytes, reading.peak_bytes)
    if seen != (_ASKED, _ASKED):
        raise MeterError(
            f"the memory meter ({meter.name}) saw {seen[1]:,} bytes where {_ASKED:,} were allocated: this torch "
            f"({torch.__version__}) reports memory in a way rematbench does not know"
        )
    return f"meter: {_ASKED >> 20} MiB asked, {reading.peak_bytes >> 20} MiB seen"
