"""What the allocator did in one step, as data: blocks of memory with their lives, and who allocated them when."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from math import inf

from bench.results.record import LOSS, Kind, Phase, Share, Timeline

_BUCKETS = 120
_NANOSECONDS = 1e9


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
class Life:
    """A piece of memory from its allocation to its free, on the count of events, as two may share a time.

    Attributes:
        owner: path of the innermost module at work when it was allocated; None outside all.
        phase: in which it was allocated; None between phases.
        born: how many events came before its allocation.
        died: how many came before its free; infinite where the step never freed it.
    """

    owner: str | None
    phase: Phase | None
    size_bytes: int
    born: int
    died: float = inf

    def spans(self, count: int) -> bool:
        """Tell whether it is live after so many events."""
        return self.born < count <= self.died


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One pass over one step, in bytes above its start.

    Attributes:
        held_bytes: live at the end of the forward phase.
        phase_peak_bytes: the greatest sum inside each phase, in the order they ran.
        reserved_bytes: what the caching allocator took from the device; None on a CPU.
        held_by_block: `held_bytes` by who allocated it, in order of the first allocation.
        at_peak: `peak_bytes` by what it was and who allocated it, the greatest first.
        timeline: the sums over time; no two passes take the same.
    """

    held_bytes: int
    phase_peak_bytes: dict[Phase, int]
    reserved_bytes: int | None = None
    held_by_block: dict[str, int] | None = None
    at_peak: tuple[Share, ...] = ()
    timeline: Timeline | None = field(default=None, compare=False)

    @property
    def peak_bytes(self) -> int:
        """The greatest sum of the step."""
        return max(self.phase_peak_bytes.values(), default=0)


def replay(events: Iterable[Event], spans: Iterable[Span]) -> Reading:
    """Add up a step's events.

    Memory that was there before the first event may be freed in between: it is not counted, as the peak is of what
    the step itself allocates.
    """
    tape = _Tape(events, spans)
    held = [life for life in tape.lives if life.spans(tape.after("forward"))]
    moments = {phase: tape.greatest(span) for phase, span in tape.phases.items()}
    peaks = {phase: tape.sums[moment] for phase, moment in moments.items()}
    peak_moment = moments[max(peaks, key=peaks.__getitem__)] if peaks else 0
    return Reading(
        held_bytes=sum(life.size_bytes for life in held),
        phase_peak_bytes=peaks,
        held_by_block=_by_owner(held),
        at_peak=_shares(tape, [life for life in tape.lives if life.spans(peak_moment)]),
        timeline=_timeline(tape) if tape.phases else None,
    )


class _Tape:
    """A step's events in order, with the lives they tell of and `sums[n]`, the bytes live after n events."""

    def __init__(self, events: Iterable[Event], spans: Iterable[Span]) -> None:
        ordered = sorted(events, key=lambda event: event.time)
        self.times = [event.time for event in ordered]
        self.spans = sorted(spans, key=lambda span: (span.start, -span.stop))
        self.phases: dict[Phase, Span] = {span.name: span for span in self.spans if not span.is_block}  # type: ignore[misc]
        self.lives = _lives(ordered, self.spans)
        changes = [0] * len(ordered)
        for life in self.lives:
            changes[life.born] += life.size_bytes
            if life.died != inf:
                changes[int(life.died)] -= life.size_bytes
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


def _lives(events: Sequence[Event], spans: Sequence[Span]) -> list[Life]:
    live: dict[int, int] = {}
    found: list[Life] = []
    whereabouts = _Whereabouts(spans)
    for count, event in enumerate(events):
        if event.address in live:
            index = live.pop(event.address)
            found[index] = replace(found[index], died=count)
        if event.change > 0:
            phase, owner = whereabouts.at(event.time)
            live[event.address] = len(found)
            found.append(Life(owner=owner, phase=phase, size_bytes=event.change, born=count))
    return found


class _Whereabouts:
    """Says what was running at a time; to be asked in order of time."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._coming = list(reversed(spans))
        self._running: list[Span] = []

    def at(self, time: int) -> tuple[Phase | None, str | None]:
        while self._coming and self._coming[-1].start <= time:
            self._running.append(self._coming.pop())
        self._running = [span for span in self._running if span.stop >= time]
        phase = next((span.name for span in self._running if not span.is_block), None)
        owner = next((span.name for span in reversed(self._running) if span.is_block), None)
        return phase, owner  # type: ignore[return-value]


def _by_owner(lives: Iterable[Life]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for life in lives:
        owner = LOSS if life.owner is None else life.owner
        sums[owner] = sums.get(owner, 0) + life.size_bytes
    return sums


def _shares(tape: _Tape, lives: Iterable[Life]) -> tuple[Share, ...]:
    sums: dict[tuple[Kind, str], int] = {}
    for life in lives:
        key = _kind(tape, life), LOSS if life.owner is None else life.owner
        sums[key] = sums.get(key, 0) + life.size_bytes
    shares = [Share(kind=kind, block=block, bytes=size) for (kind, block), size in sums.items()]
    return tuple(sorted(shares, key=lambda share: -share.bytes))


def _kind(tape: _Tape, life: Life) -> Kind:
    """Say what a piece of memory was, from when it came and whether it outlived its phase."""
    stays = life.phase is not None and life.spans(tape.after(life.phase))
    if life.phase == "optimizer":
        return "optimizer"
    if life.phase == "backward":
        return "gradients" if stays else "transient" if life.owner is None else "recomputed"
    return "kept" if stays else "transient"


def _timeline(tape: _Tape) -> Timeline:
    start, stop = min(span.start for span in tape.phases.values()), max(span.stop for span in tape.phases.values())
    points = [(tape.times[moment - 1], tape.sums[moment]) for moment in tape.moments(start, stop)[1:]]
    kept = [(start, tape.sums[tape.moments(start, stop)[0]]), *_thinned(points, start, stop)]
    backward = tape.phases.get("backward")
    recomputed = [span for span in _outermost(tape.spans) if backward and backward.start <= span.start <= backward.stop]

    def seconds(time: int) -> float:
        return round((time - start) / _NANOSECONDS, 8)

    return Timeline(
        time_s=tuple(seconds(time) for time, _ in kept),
        live_bytes=tuple(total for _, total in kept),
        phases={phase: (seconds(span.start), seconds(span.stop)) for phase, span in tape.phases.items()},
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
