"""Ask kernels, one call at a time, what they allocate at sizes at which the step is not run."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping

from rematbench.measuring.calls import argument_bytes, arguments_of, operator_of
from rematbench.measuring.meter import Meter
from rematbench.torch_internals import below_autograd
from rematbench.traces.calls import Asked, Effect
from rematbench.traces.trace import AllocationTrace
from rematbench.units import format_bytes
from rematbench.workload.step import Phases


class Kernels:
    """Asks kernels; what was asked once is not asked again.

    Args:
        meter: of the device that they run on.
        limit_bytes: what the arguments of one call may need.
        limit_flops: of one call.
    """

    def __init__(self, meter: Meter, *, limit_bytes: int, limit_flops: int) -> None:
        self._meter = meter
        self._bytes = limit_bytes
        self._flops = limit_flops
        self._known: dict[tuple[str, tuple[int, ...]], Effect | str] = {}

    def ask(self, calls: Iterable[Asked]) -> Mapping[Asked, Effect | str]:
        """Return what each call allocates and frees.

        Where some are too large to be asked, no other one is run, and sentences say of these alone why they were not.
        """
        wanted = list(dict.fromkeys(calls))
        new = list({call[:2]: call for call in wanted if call[:2] not in self._known}.values())
        able = [call for call in new if self._is_able(call)]
        if able and len(able) == len(new):
            self._run(able)
        return {call: self._known[call[:2]] for call in wanted if call[:2] in self._known}

    def _is_able(self, call: Asked) -> bool:
        needed = argument_bytes(call)
        if needed > self._bytes:
            self._known[call[:2]] = f"alone it would need {format_bytes(needed)}"
        elif call.flops > self._flops:
            self._known[call[:2]] = f"alone it would take {call.flops / 1e9:,.0f} GFLOP"
        return call[:2] not in self._known

    def _run(self, calls: list[Asked]) -> None:
        """Run calls one after another in one reading."""
        failed: dict[int, str] = {}

        def step(phases: Phases) -> None:
            with phases("forward"):
                for count, call in enumerate(calls):
                    try:
                        args, kwargs = arguments_of(call)
                        with below_autograd(), self._meter.block(str(count)):
                            out = operator_of(call)(*args, **kwargs)
                        del out, args, kwargs
                    except Exception as error:
                        # With zeros in place of its data it may not run at all, and what does not fit does not either.
                        traceback.print_exc()
                        failed[count] = f"alone it raised {type(error).__name__}"

        trace = self._meter.read(step).trace
        for count, call in enumerate(calls):
            found = failed.get(count) or (_effect(trace, str(count)) if trace else "the meter tells no lifetimes")
            self._known[call[:2]] = found


def _effect(trace: AllocationTrace, name: str) -> Effect | str:
    """Return what happened inside a mark."""
    span = next(span for span in trace.spans if span.name == name)
    stop = trace.moments(span.start, span.stop)[-1]
    own = [lifetime for lifetime in trace.lifetimes if lifetime.module == name]
    if any(lifetime.size_bytes < 0 for lifetime in own):
        return "alone it frees what was there before it"
    moments: list[tuple[float, int]] = []
    for count, lifetime in enumerate(own):
        moments.append((lifetime.allocated_at, lifetime.size_bytes))
        if lifetime.freed_at < stop:
            moments.append((lifetime.freed_at, ~count))
    # At one count a free comes first: its memory is given out again.
    return Effect(tuple(event for _, event in sorted(moments, key=lambda moment: (moment[0], moment[1] >= 0))))
