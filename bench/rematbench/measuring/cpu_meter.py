"""Exact bytes on a CPU: what torch's allocator hands out and takes back during one step, by the events of its profiler.

With only user scopes switched on the profiler records nothing else, so the pass costs no more than a plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.autograd.profiler import record_function

from rematbench.torch_internals import ProfiledScope, profiled, without_dispatch
from rematbench.traces.replay import Reading, replay
from rematbench.traces.trace import Event, Span
from rematbench.workload.step import Phases

_PHASE, _BLOCK = "rematbench.phase.", "rematbench.block."
"""How the names of our scopes begin; a model may have scopes of its own."""


class CpuMeter:
    """Allocation events of torch's CPU allocator, from its profiler."""

    name = "torch CPU allocator events"

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
        with profiled() as found:
            step(lambda phase: record_function(_PHASE + phase))
        events = [
            Event(time=made.time_ns, address=made.address, change=made.change_bytes) for made in found.allocations
        ]
        return replay(events, [_span(scope) for scope in found.scopes if scope.name.startswith((_PHASE, _BLOCK))])


def _span(scope: ProfiledScope) -> Span:
    is_block = scope.name.startswith(_BLOCK)
    name = scope.name.removeprefix(_BLOCK if is_block else _PHASE)
    return Span(name=name, start=scope.start_ns, stop=scope.stop_ns, is_block=is_block)
