"""Replay a step's allocations: what is held after forward, the peak and what it is made of, the bytes over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rematbench.traces.timeline import LOSS, Kind, Phase, Share, Timeline
from rematbench.traces.trace import AllocationTrace, Event, Lifetime, Span

_BUCKETS = 120
_NANOSECONDS = 1e9


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One pass over one step, in bytes above its start.

    Attributes:
        held_bytes: live at the end of the forward phase.
        phase_peak_bytes: the greatest sum inside each phase, in the order they ran.
        allocated_bytes, active_bytes, reserved_bytes, device_used_bytes: as in
            `rematbench.records.measurement.Memory`; None on a CPU.
        held_by_block: `held_bytes` by who allocated it, in order of the first allocation.
        at_peak: `peak_bytes` by what it was and who allocated it, the greatest first.
        timeline: the sums over time; no two passes take the same.
        trace: the step's lifetimes; None where the meter cannot tell.
    """

    held_bytes: int
    phase_peak_bytes: dict[Phase, int]
    allocated_bytes: int | None = None
    active_bytes: int | None = None
    reserved_bytes: int | None = None
    device_used_bytes: int | None = field(default=None, compare=False)
    held_by_block: dict[str, int] | None = None
    at_peak: tuple[Share, ...] = ()
    timeline: Timeline | None = field(default=None, compare=False)
    trace: AllocationTrace | None = field(default=None, compare=False, repr=False)

    @property
    def peak_bytes(self) -> int:
        """The greatest sum of the step."""
        return max(self.phase_peak_bytes.values(), default=0)


def replay(events: Iterable[Event], spans: Iterable[Span]) -> Reading:
    """Add up a step's events.

    What is live is what was allocated since the start, less what was freed of older memory; so count the counters of
    CUDA. The share of a module that frees older memory is so much smaller.
    """
    return reading_of(AllocationTrace(events, spans))


def reading_of(trace: AllocationTrace) -> Reading:
    """Say what `replay` says of a trace that is there already."""
    held = [lifetime for lifetime in trace.lifetimes if lifetime.spans(trace.after("forward"))]
    moments = {phase: trace.greatest(span) for phase, span in trace.phases.items()}
    peaks = {phase: trace.sums[moment] for phase, moment in moments.items()}
    peak_moment = moments[max(peaks, key=peaks.__getitem__)] if peaks else 0
    return Reading(
        held_bytes=sum(lifetime.size_bytes for lifetime in held),
        phase_peak_bytes=peaks,
        held_by_block=_by_module(held),
        at_peak=_shares(trace, [lifetime for lifetime in trace.lifetimes if lifetime.spans(peak_moment)]),
        timeline=_timeline(trace) if trace.phases else None,
        trace=trace,
    )


def _by_module(lifetimes: Iterable[Lifetime]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for lifetime in lifetimes:
        sums[_module(lifetime)] = sums.get(_module(lifetime), 0) + lifetime.size_bytes
    return sums


def _module(lifetime: Lifetime) -> str:
    return LOSS if lifetime.module is None else lifetime.module


def _shares(trace: AllocationTrace, lifetimes: Iterable[Lifetime]) -> tuple[Share, ...]:
    sums: dict[tuple[Kind, str], int] = {}
    for lifetime in lifetimes:
        key = _kind(trace, lifetime), _module(lifetime)
        sums[key] = sums.get(key, 0) + lifetime.size_bytes
    shares = [Share(kind=kind, block=block, bytes=size) for (kind, block), size in sums.items()]
    return tuple(sorted(shares, key=lambda share: -share.bytes))


def _kind(trace: AllocationTrace, lifetime: Lifetime) -> Kind:
    """Say what a piece of memory was, from when it came and whether it outlived its phase."""
    stays = lifetime.phase is not None and lifetime.spans(trace.after(lifetime.phase))
    if lifetime.phase == "optimizer":
        return "optimizer"
    if lifetime.phase == "backward":
        return "gradients" if stays else "transient" if lifetime.module is None else "recomputed"
    return "kept" if stays else "transient"


def _timeline(trace: AllocationTrace) -> Timeline:
    start, stop = min(span.start for span in trace.phases.values()), max(span.stop for span in trace.phases.values())
    points = [(trace.times[moment - 1], trace.sums[moment]) for moment in trace.moments(start, stop)[1:]]
    kept = [(start, trace.sums[trace.moments(start, stop)[0]]), *_thinned(points, start, stop)]
    backward = trace.phases.get("backward")
    # A module's call in backward is a recomputation.
    recomputed = [
        span for span in _outermost(trace.spans) if backward and backward.start <= span.start <= backward.stop
    ]

    def seconds(time: int) -> float:
        return round((time - start) / _NANOSECONDS, 8)

    return Timeline(
        time_s=tuple(seconds(time) for time, _ in kept),
        live_bytes=tuple(total for _, total in kept),
        phases={phase: (seconds(span.start), seconds(span.stop)) for phase, span in trace.phases.items()},
        recomputed=tuple((span.name, seconds(span.start), seconds(span.stop)) for span in recomputed),
    )


def _outermost(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the module calls that are inside no other."""
    reached = -1
    for span in spans:
        if span.is_block and span.start > reached:
            reached = span.stop
            yield span


def _thinned(points: Sequence[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the least and the greatest point of each of some equal stretches of time, and the last of all."""
    width = max(stop - start, 1) / _BUCKETS
    for _, stretch in groupby(points[:-1], key=lambda point: int((point[0] - start) / width)):
        inside = list(stretch)
        least, greatest = min(inside, key=_sum_of), max(inside, key=_sum_of)
        yield from (point for point in inside if point is least or point is greatest)
    yield from points[-1:]


def _sum_of(point: tuple[int, int]) -> int:
    return point[1]
