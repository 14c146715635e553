"""A step as a row of labelled numbers: what it allocated and freed, what was there before it, what it computed.

Two runs of one step at different sizes have the same labels and other numbers. So a tape is what is compared,
interpolated and made longer, and an allocation trace can be had back from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Literal, NamedTuple

from rematbench.traces.timeline import Phase
from rematbench.traces.trace import AllocationTrace, Event, Span

Kind = Literal[
    "allocate", "free", "begin", "end", "static", "flops", "uncounted", "measure", "call", "number", "chosen"
]


class Label(NamedTuple):
    """What a number of a tape is.

    Attributes:
        kind: `allocate` and `free` of memory in a step; `begin` and `end` of a phase or of a module's call, whose
            number is 0; `static` bytes, there before the step; `flops` of one operator;
            `uncounted` an operator that has none, whose number is 0; `measure` any number of something else. Of an
            abridged tape (`traces/calls.py`) also `call` of an operator, whose number is its FLOPs; a `number` among
            its arguments; what it allocates and leaves, as `chosen` by its kernel.
        name: of an event the innermost module at work, of the others the phase, module, tensor or operator.
        phase: in which it was; None outside all.
        is_block: whether what begins or ends is a module's call.
        call: of a `call` and its `number`s, what is called and with what arguments, but for their numbers.
    """

    kind: Kind
    name: str
    phase: Phase | None = None
    is_block: bool = False
    call: str = ""


ALLOCATIONS: tuple[Kind, ...] = ("allocate", "chosen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operator in a step.

    Attributes:
        kind: what is called and with what arguments, but for their whole numbers; empty where it is not to be called
            alone.
        numbers: the whole numbers among its arguments: shapes, strides, integers.
        flops: of this call.
        place: the entry of the tape before which it began.
        allocated: the entries of what it allocated, in order.
        scratch: those of them that it freed itself.
        links: which of the numbers are the bytes of a buffer, and the entry of its allocation by an earlier call.
    """

    kind: str
    numbers: tuple[int, ...]
    flops: int
    place: int
    allocated: tuple[int, ...] = ()
    scratch: frozenset[int] = frozenset()
    links: tuple[tuple[int, int], ...] = ()


class Worked(NamedTuple):
    """The FLOPs of one call of an operator; None where it has no formula."""

    phase: Phase | None
    operator: str
    flops: int | None


NEVER = -1


@dataclass(frozen=True, kw_only=True)
class Tape:
    """Labels and numbers of one step, in order: first what is static, then the step, then its FLOPs.

    Attributes:
        values: bytes or FLOPs; of a free negative.
        ends: for each free, where its allocation stands; for a number that is the bytes of a buffer, where that is
            allocated; `NEVER` for any other entry.
        times: nanoseconds on the clock of the run; they tell a picture of the step its widths, and nothing else.
        calls: the operators of the step in their order, as far as they are known.
    """

    labels: tuple[Label, ...]
    values: tuple[int, ...]
    ends: tuple[int, ...]
    times: tuple[int, ...]
    calls: tuple[Call, ...] = ()

    @cached_property
    def shape(self) -> int:
        """What two tapes share exactly when only their numbers differ."""
        return hash((self.labels, self.ends))

    def is_like(self, other: Tape) -> bool:
        """Tell whether only the numbers differ."""
        return self.shape == other.shape and self.labels == other.labels and self.ends == other.ends

    def with_values(self, values: Sequence[int]) -> Tape:
        """Return the same step with other numbers."""
        return Tape(labels=self.labels, values=tuple(values), ends=self.ends, times=self.times)

    @cached_property
    def chosen(self) -> tuple[bool, ...]:
        """Which numbers kernels choose: what they leave, its frees, and the bytes of buffers among their arguments."""
        own = [label.kind == "chosen" for label in self.labels]
        return tuple(own[at] or (end != NEVER and own[end]) for at, end in enumerate(self.ends))

    def sum_of(self, kind: Kind, phase: Phase | None = None) -> int:
        """Add up the numbers of a kind; of one phase, or of all."""
        return sum(
            value
            for label, value in zip(self.labels, self.values, strict=True)
            if label.kind == kind and (phase is None or label.phase == phase)
        )

    def trace(self) -> AllocationTrace:
        """Return the step's allocations and frees, in their order."""
        events: list[Event] = []
        spans: list[Span] = []
        begun: list[tuple[Label, int]] = []
        for at, (label, value, end) in enumerate(zip(self.labels, self.values, self.ends, strict=True)):
            time = self.times[at] + at  # so that entries of one nanosecond keep their order
            if label.kind in ("allocate", "free"):
                events.append(Event(time=time, address=at if end == NEVER else end, change=value))
            elif label.kind == "begin":
                begun.append((label, time))
            elif label.kind == "end":
                opened, start = begun.pop()
                spans.append(Span(name=opened.name, start=start, stop=time, is_block=opened.is_block))
        return AllocationTrace(events, spans)


def tape_of(trace: AllocationTrace, static: Iterable[tuple[str, int]], worked: Iterable[Worked]) -> Tape:
    """Write a step down: its trace, the static bytes by name, and the FLOPs of its operators in their order."""
    entries = _Entries()
    for name, size in static:
        entries.add(Label("static", name), size)
    _write_step(trace, entries)
    for phase, operator, flops in worked:
        entries.add(Label("uncounted" if flops is None else "flops", operator, phase), flops or 0)
    return entries.tape()


class _Entries:
    """A tape that is being written."""

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self._values: list[int] = []
        self._ends: list[int] = []
        self._times: list[int] = []

    def add(self, label: Label, value: int = 0, end: int = NEVER, time: int | None = None) -> int:
        """Append an entry and return where it stands; without a time it is of that of the one before."""
        self.labels.append(label)
        self._values.append(value)
        self._ends.append(end)
        self._times.append(time if time is not None else self._times[-1] if self._times else 0)
        return len(self.labels) - 1

    def tape(self) -> Tape:
        return Tape(
            labels=tuple(self.labels), values=tuple(self._values), ends=tuple(self._ends), times=tuple(self._times)
        )


class _Moment(NamedTuple):
    """Something to be written, in the order of these: a span begins before what happens at its first nanosecond."""

    time: int
    rank: int
    order: int


def _write_step(trace: AllocationTrace, entries: _Entries) -> None:
    """Write marks, allocations and frees in their order, times from the first on."""
    moments: list[tuple[_Moment, Span | int]] = []
    for order, span in enumerate(trace.spans):
        moments.append((_Moment(span.start, 0, order), span))
        moments.append((_Moment(span.stop, 2, -order), span))
    moments += [(_Moment(time, 1, count), count) for count, time in enumerate(trace.times)]
    moments.sort(key=lambda moment: moment[0])
    allocated = {lifetime.allocated_at: lifetime for lifetime in trace.lifetimes}
    freed = {int(lifetime.freed_at): lifetime for lifetime in trace.lifetimes if lifetime.freed_at != inf}
    stands: dict[int, int] = {}
    start = moments[0][0].time if moments else 0
    running: list[Span] = []
    for (time, rank, _), what in moments:
        phase: Phase | None = next((span.name for span in running if not span.is_block), None)  # type: ignore[misc]
        module = next((span.name for span in reversed(running) if span.is_block), "")
        if isinstance(what, Span):
            label = Label("end" if rank else "begin", what.name, phase, what.is_block)
            entries.add(label, time=time - start)
            running.remove(what) if rank else running.append(what)
            continue
        if what in freed:
            size = freed[what].size_bytes
            entries.add(Label("free", module, phase), -size, stands[freed[what].allocated_at], time - start)
        if what in allocated:
            size = allocated[what].size_bytes
            # The free of what is older than the step is an allocation of less than nothing.
            stands[what] = entries.add(Label("allocate", module, phase), size, time=time - start)
