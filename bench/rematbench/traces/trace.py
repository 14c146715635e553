"""What an allocator did in one step, as data: pieces of memory with their lifetimes, and who allocated them when."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf

from rematbench.traces.timeline import Phase


@dataclass(frozen=True, kw_only=True)
class Event:
    """An allocation (positive bytes) or a free (negative) of the memory at an address, at a time in nanoseconds."""

    time: int
    address: int
    change: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """A phase, or a call of a module in `block`, on the clock of the events; module calls lie inside phases."""

    name: str
    start: int
    stop: int
    is_block: bool = False


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """A piece of memory from its allocation to its free, on the count of events, as two may share a time.

    The free of memory from before the step is one of negative size, from that free on.

    Attributes:
        module: path of the innermost module at work when it was allocated; None outside all.
        phase: in which it was allocated; None between phases.
        allocated_at: how many events came before its allocation.
        freed_at: how many came before its free; infinite where the step never freed it.
    """

    module: str | None
    phase: Phase | None
    size_bytes: int
    allocated_at: int
    freed_at: float = inf

    def spans(self, count: int) -> bool:
        """Tell whether it is live after so many events."""
        return self.allocated_at < count <= self.freed_at


class AllocationTrace:
    """A step's events in order, with the lifetimes they tell of and `sums[n]`, the bytes live after n events."""

    def __init__(self, events: Iterable[Event], spans: Iterable[Span]) -> None:
        ordered = sorted(events, key=lambda event: event.time)
        self.times = [event.time for event in ordered]
        self.spans = sorted(spans, key=lambda span: (span.start, -span.stop))
        self.phases: dict[Phase, Span] = {span.name: span for span in self.spans if not span.is_block}  # type: ignore[misc]
        self.lifetimes = _lifetimes(ordered, self.spans)
        changes = [0] * len(ordered)
        for lifetime in self.lifetimes:
            changes[lifetime.allocated_at] += lifetime.size_bytes
            if lifetime.freed_at != inf:
                changes[int(lifetime.freed_at)] -= lifetime.size_bytes
        self.sums = [0, *accumulate(changes)]

    def after(self, phase: Phase) -> int:
        """Return how many events there are by the end of a phase; 0 if it never ran."""
        return bisect_right(self.times, self.phases[phase].stop) if phase in self.phases else 0

    def moments(self, start: int, stop: int) -> range:
        """Return the counts of events between two times: none of those inside yet, up to all of them."""
        return range(bisect_left(self.times, start), bisect_right(self.times, stop) + 1)

    def greatest(self, span: Span) -> int:
        """Return the moment at which the sum is greatest inside a span, the first one."""
        return max(self.moments(span.start, span.stop), key=self.sums.__getitem__)


def _lifetimes(events: Sequence[Event], spans: Sequence[Span]) -> list[Lifetime]:
    live: dict[int, int] = {}
    found: list[Lifetime] = []
    running = _RunningSpans(spans)
    for count, event in enumerate(events):
        if event.address in live:
            index = live.pop(event.address)
            found[index] = replace(found[index], freed_at=count)
        elif event.change < 0:
            phase, module = running.at(event.time)
            found.append(Lifetime(module=module, phase=phase, size_bytes=event.change, allocated_at=count))
        if event.change > 0:
            phase, module = running.at(event.time)
            live[event.address] = len(found)
            found.append(Lifetime(module=module, phase=phase, size_bytes=event.change, allocated_at=count))
    return found


class _RunningSpans:
    """Says what was running at a time; to be asked in order of time."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._coming = list(reversed(spans))
        self._running: list[Span] = []

    def at(self, time: int) -> tuple[Phase | None, str | None]:
        while self._coming and self._coming[-1].start <= time:
            self._running.append(self._coming.pop())
        self._running = [span for span in self._running if span.stop >= time]
        phase = next((span.name for span in self._running if not span.is_block), None)
        module = next((span.name for span in reversed(self._running) if span.is_block), None)
        return phase, module  # type: ignore[return-value]
