"""What kernels choose to allocate: taken out of a tape, as no rule tells it, and put back as they answer when asked.

A kernel allocates its outputs, which follow from its arguments, and what it needs for its work: by tiles, by threads,
by the algorithm that it finds best for a size. So a tape is abridged: in place of a call's allocations stand the whole
numbers of its arguments, which are polynomials of the model's sizes as all else is. At other sizes those numbers say
what to ask the kernel, alone, and its answer stands in the tape as if the step had been run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from rematbench.traces.polynomial import combined, weights_at
from rematbench.traces.tape import NEVER, Call, Label, Tape
from rematbench.traces.timeline import Phase

_SCALAR_BYTES = 16
"""A number that stands beside tensors is made a tensor of one element, whatever the sizes; nothing is chosen there."""

_FOLLOWED = 12
_SKIPPED = 4


class Asked(NamedTuple):
    """A call of a kernel: `kind` and `numbers` as of `Call`, and its FLOPs."""

    kind: str
    numbers: tuple[int, ...]
    flops: int = 0

    @property
    def operator(self) -> str:
        """What is called, as torch names it."""
        return self.kind.partition("|")[0]


@dataclass(frozen=True)
class Effect:
    """What one call of a kernel allocates and frees, in order.

    Attributes:
        events: bytes of an allocation, or `~n` for the free of its nth.
    """

    events: tuple[int, ...]

    @property
    def kept(self) -> list[int]:
        """The bytes of what it leaves, in the order of the allocations."""
        freed = {~event for event in self.events if event < 0}
        return [size for at, size in enumerate(event for event in self.events if event >= 0) if at not in freed]


_OTHERWISE = "alone it leaves another number of tensors than in the step"


class Ask(Protocol):
    """Asks kernels, one call at a time."""

    def __call__(self, calls: Iterable[Asked], /) -> Mapping[Asked, Effect | str]:
        """Return what each call allocates and frees; where some are not to be asked, why not, of these alone."""


class Unanswered(Exception):
    """Kernels that cannot be asked at some sizes, or answer with other outputs; the kinds of their calls, and why."""

    def __init__(self, kinds: Collection[str], why: str) -> None:
        super().__init__(why)
        self.kinds = frozenset(kinds)


class Noted(NamedTuple):
    """A call as it was seen while a tape was made: `kind`, `numbers` and `flops` as of `Call`.

    Attributes:
        sources: which numbers are the bytes of a buffer that an earlier call made, and which call; None where that is
            not known. Such a buffer has no shape but that which its kernel chose.
        is_extra: whether the step may do without this call while nobody watches.
    """

    kind: str
    numbers: tuple[int, ...]
    flops: int
    sources: Mapping[int, int | None] = MappingProxyType({})
    is_extra: bool = False


def choosy(tape: Tape) -> set[str]:
    """Return the kinds of calls that allocate more than they leave."""
    return {
        call.kind for call in tape.calls if call.kind and any(tape.values[at] > _SCALAR_BYTES for at in call.scratch)
    }


def effect_of(call: Call, tape: Tape) -> Effect:
    """Return what a call did in a tape."""
    numbered = {at: count for count, at in enumerate(call.allocated)}
    if not numbered:
        return Effect(())
    events: list[int] = []
    for at in range(call.allocated[0], len(tape.labels)):
        if at in numbered:
            events.append(tape.values[at])
        elif tape.ends[at] in call.scratch:
            events.append(~numbered[tape.ends[at]])
        if at > call.allocated[-1] and len(events) == len(call.allocated) + len(call.scratch):
            break
    return Effect(tuple(events))


# --- which call an allocation is of ---------------------------------------------------------------------------------


def with_calls(tape: Tape, marked: Tape, noted: Sequence[Noted], mark: str) -> Tape:
    """Return a tape with its calls, as they are seen in another tape of the same step.

    Watching operators makes tensors of numbers and sums of gradients that are otherwise added in place, and keeps
    arguments for a bit longer; so the step that is watched is not the one that is measured, and the two are laid side
    by side.

    Args:
        marked: has a module's call `mark0`, `mark1`, … around what each operator did.
        noted: the operators by those numbers.
    """
    theirs = _Marked(marked, noted, mark)
    ours = [at for at, label in enumerate(tape.labels) if label.kind in ("begin", "end", "allocate")]
    pairs = _aligned([_Anchor(*_token(tape, at)) for at in ours], theirs.anchors)
    here = {there: ours[at] for at, there in pairs}
    standing = {theirs.anchors[there].entry: at for there, at in here.items()}
    stood = {at: there for there, at in standing.items()}
    calls: list[Call] = []
    place = 0
    for count, (start, own, scratch) in enumerate(theirs.calls):
        while start > 0 and start - 1 not in here:
            start -= 1
        place = max(place, here[start - 1] + 1 if start else 0)
        while tape.labels[place].kind == "free" and theirs.freed.get(stood.get(tape.ends[place], NEVER), inf) <= count:
            place += 1
        allocated = tuple(standing[at] for at in own if at in standing)
        place = max(place, allocated[0]) if allocated else place
        kind, numbers, flops = noted[count][:3]
        links = _links(noted[count].sources, numbers, calls, tape)
        is_found = all(at in standing or marked.values[at] <= _SCALAR_BYTES for at in own)
        freed = frozenset(standing[at] for at in own if at in standing and at in scratch)
        calls.append(
            Call(
                kind=kind if is_found and links is not None else "", numbers=numbers, flops=flops, place=place,
                allocated=allocated, scratch=freed, links=links or (),
            )
        )  # fmt: skip
    return Tape(labels=tape.labels, values=tape.values, ends=tape.ends, times=tape.times, calls=tuple(calls))


def _links(
    sources: Mapping[int, int | None], numbers: Sequence[int], calls: Sequence[Call], tape: Tape
) -> tuple[tuple[int, int], ...] | None:
    """Return which numbers are the bytes of which allocations; None where that cannot be told."""
    found: list[tuple[int, int]] = []
    for number, source in sources.items():
        made = set(calls[source].allocated) - calls[source].scratch if source is not None else set()
        entry = max((at for at in made if tape.values[at] == numbers[number]), default=None)
        if entry is None:
            return None
        found.append((number, entry))
    return tuple(found)


class _Anchor(NamedTuple):
    """An entry that both tapes should have; `cost` of there being none, and where it stands."""

    kind: str
    name: str
    size: int
    cost: int = 10
    entry: int = NEVER


class _Marked:
    """A tape with marks around operators, taken apart.

    Attributes:
        anchors: all but the marks and the frees, which may come later here.
        calls: for each operator how many anchors came before it, its allocations, and those of them it freed.
        freed: how many operators had begun when an allocation was freed.
    """

    def __init__(self, tape: Tape, noted: Sequence[Noted], mark: str) -> None:
        self.anchors: list[_Anchor] = []
        self.calls: list[tuple[int, list[int], set[int]]] = []
        self.freed: dict[int, int] = {}
        modules: list[str] = [""]
        running = False
        for at, (label, value, end) in enumerate(zip(tape.labels, tape.values, tape.ends, strict=True)):
            if label.kind in ("begin", "end") and label.name.startswith(mark):
                running = label.kind == "begin"
                if running:
                    self.calls.append((len(self.anchors), [], set()))
            elif label.kind == "free":
                self.freed[end] = len(self.calls)
                if running and end in self.calls[-1][1]:
                    self.calls[-1][2].add(end)
            elif label.kind in ("begin", "end", "allocate"):
                if label.is_block:
                    modules.append(label.name) if label.kind == "begin" else modules.pop()
                name = modules[-1] if label.kind == "allocate" else label.name
                is_extra = running and (value <= _SCALAR_BYTES or noted[len(self.calls) - 1].is_extra)
                self.anchors.append(_Anchor(label.kind, name, value, 1 if is_extra else 10, at))
                if running and label.kind == "allocate":
                    self.calls[-1][1].append(at)


def _token(tape: Tape, at: int) -> tuple[str, str, int]:
    return tape.labels[at].kind, tape.labels[at].name, tape.values[at]


def _aligned(ours: Sequence[_Anchor], theirs: Sequence[_Anchor]) -> list[tuple[int, int]]:
    """Pair the equal entries of two rows that differ in a few, so that what is left over costs least.

    Of all ways the few that are best so far are followed.
    """
    ways: dict[int, tuple[int, object]] = {0: (0, None)}  # by how much of ours is done: what it costs, and the pairs
    for there, anchor in enumerate(theirs):
        more: dict[int, tuple[int, object]] = {}

        def add(at: int, cost: int, pairs: object, more: dict[int, tuple[int, object]] = more) -> None:
            if at not in more or cost < more[at][0]:
                more[at] = cost, pairs

        for at, (cost, pairs) in ways.items():
            if at < len(ours) and ours[at][:3] == anchor[:3]:
                add(at + 1, cost, (at, there, pairs))
            else:
                for skipped in range(1, _SKIPPED):
                    if at + skipped < len(ours) and ours[at + skipped][:3] == anchor[:3]:
                        add(at + skipped + 1, cost + 10 * skipped, (at + skipped, there, pairs))
                        break
            add(at, cost + anchor.cost, pairs)
        ways = dict(sorted(more.items(), key=lambda way: way[1][0])[:_FOLLOWED])
    rest: Any = min(ways.items(), key=lambda way: way[1][0] + 10 * (len(ours) - way[0]))[1][1]
    found: list[tuple[int, int]] = []
    while rest is not None:
        at, there, rest = rest
        found.append((at, there))
    return found[::-1]


# --- without what is chosen, and with it again ------------------------------------------------------------------------


class _Copy:
    """A tape that is written from another one, whose entries may come to stand elsewhere."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._labels: list[Label] = []
        self._values: list[int] = []
        self._ends: list[int] = []
        self._times: list[int] = []
        self._moved: dict[int, int] = {}

    def take(self, at: int, *, label: Label | None = None) -> None:
        """Append an entry of the other tape."""
        end = self._tape.ends[at]
        self._moved[at] = len(self._labels)
        self.add(label or self._tape.labels[at], self._tape.values[at], at, self._moved.get(end, NEVER))

    def add(self, label: Label, value: int, at: int, end: int = NEVER) -> int:
        """Append an entry of the time of another one and return where it stands."""
        self._labels.append(label)
        self._values.append(value)
        self._ends.append(end)
        self._times.append(self._tape.times[at] if at < len(self._tape.times) else self._tape.times[-1])
        return len(self._labels) - 1

    def moved(self, at: int) -> int:
        """Return where an entry of the other tape has come to stand; `NEVER` if it has not."""
        return self._moved.get(at, NEVER)

    def value(self, at: int) -> int:
        return self._values[at]

    @property
    def last(self) -> int:
        return len(self._labels) - 1

    def tape(self) -> Tape:
        return Tape(
            labels=tuple(self._labels), values=tuple(self._values), ends=tuple(self._ends), times=tuple(self._times)
        )


def abridged(tape: Tape, kinds: Collection[str]) -> Tape:
    """Return a tape in which calls of some kinds stand with their numbers, and without what they freed themselves."""
    starts: dict[int, list[Call]] = {}
    scratch: set[int] = set()
    kept: set[int] = set()
    for call in tape.calls:
        if call.kind in kinds:
            starts.setdefault(call.place, []).append(call)
            scratch |= call.scratch
            kept |= set(call.allocated) - call.scratch
    phases = _phases(tape)
    copy = _Copy(tape)
    for at, label in enumerate(tape.labels):
        for call in starts.get(at, ()):
            # A call that allocates nothing here has to say itself where it stands.
            name = next((tape.labels[own].name for own in call.allocated), phases[at][1])
            copy.add(Label("call", name, phases[at][0], call=call.kind), call.flops, at)
            linked = dict(call.links)
            for count, number in enumerate(call.numbers):
                label_of = Label("number", "", phases[at][0], call=call.kind)
                copy.add(label_of, number, at, copy.moved(linked[count]) if count in linked else NEVER)
        if at in scratch or tape.ends[at] in scratch:
            continue
        copy.take(at, label=label._replace(kind="chosen") if at in kept else None)
    return copy.tape()


def _phases(tape: Tape) -> list[tuple[Phase | None, str]]:
    """Return the phase and the innermost module at each entry, before it."""
    running: list[Label] = []
    found: list[tuple[Phase | None, str]] = []
    for label in tape.labels:
        phase: Phase | None = next((mark.name for mark in running if not mark.is_block), None)  # type: ignore[misc]
        found.append((phase, next((mark.name for mark in reversed(running) if mark.is_block), "")))
        if label.kind == "begin":
            running.append(label)
        elif label.kind == "end":
            running.pop()
    return found


def with_kept(tape: Tape, ask: Ask) -> tuple[Tape, Mapping[Asked, Effect]]:
    """Return an abridged tape with the bytes of what its calls leave, and what each call does.

    Asked are first the calls whose numbers are known, then those that take buffers that others made.

    Raises:
        Unanswered: a call is not answered, or it leaves another number of pieces than where the tape is from.
    """
    answers: dict[Asked, Effect] = {}
    while True:
        found, waiting = _settled(tape, answers)
        if not waiting:
            return found, answers
        asked = ask(waiting)
        refused = {call.kind: why for call, why in asked.items() if isinstance(why, str)}
        if refused:
            sentences = dict.fromkeys(f"{call.operator}: {why}" for call, why in asked.items() if isinstance(why, str))
            raise Unanswered(refused, "; ".join(sentences))
        answers |= {call: effect for call, effect in asked.items() if isinstance(effect, Effect)}


def _settled(tape: Tape, answers: Mapping[Asked, Effect]) -> tuple[Tape, list[Asked]]:
    """Return an abridged tape with what its calls leave, as far as they have answered, and those to be asked."""
    values = list(tape.values)
    waiting: dict[Asked, None] = {}
    unsettled: set[int] = set()
    left: list[int] = []
    current: Asked | None = None

    def close() -> None:
        if left:
            raise Unanswered([current.kind] if current else (), _OTHERWISE)

    for at, (label, end) in enumerate(zip(tape.labels, tape.ends, strict=True)):
        if label.kind == "call":
            close()
            numbers = range(at + 1, at + 1 + _numbers_after(tape, at))
            links = {entry: tape.ends[entry] for entry in numbers if tape.ends[entry] != NEVER}
            for entry, source in links.items():
                values[entry] = values[source]
            current, left = Asked(label.call, tuple(values[entry] for entry in numbers), values[at]), []
            if unsettled.isdisjoint(links.values()):
                if current in answers:
                    left = answers[current].kept[::-1]
                else:
                    waiting[current] = None
        elif label.kind == "chosen":
            if current in answers:
                if not left:
                    raise Unanswered([current.kind] if current else (), _OTHERWISE)
                values[at] = left.pop()
            else:
                unsettled.add(at)
        elif label.kind == "free" and end != NEVER:
            values[at] = -values[end]
    close()
    return tape.with_values(values), list(waiting)


def _numbers_after(tape: Tape, at: int) -> int:
    """Return how many numbers a call has."""
    stop = at + 1
    while stop < len(tape.labels) and tape.labels[stop].kind == "number":
        stop += 1
    return stop - at - 1


def calls_of(tape: Tape) -> dict[int, Asked]:
    """Return the calls of an abridged tape by where they stand, but for those that take buffers of others."""
    found: dict[int, Asked] = {}
    for at, label in enumerate(tape.labels):
        if label.kind == "call":
            numbers = range(at + 1, at + 1 + _numbers_after(tape, at))
            if all(tape.ends[entry] == NEVER for entry in numbers):
                found[at] = Asked(label.call, tuple(tape.values[entry] for entry in numbers), tape.values[at])
    return found


def continued(effects: Sequence[Effect], step: int) -> Effect | None:
    """Return what a call does so many equal steps of its sizes further, from what it does at the first ones.

    None where it does not do the same each time, or the last one is not as those before tell it.
    """
    rows = [np.array(effect.events, dtype=object) for effect in effects]
    if len({tuple(event if event < 0 else 0 for event in effect.events) for effect in effects}) > 1:
        return None
    if not rows[0].size:
        return effects[0]
    line = [(at,) for at in range(len(rows) - 1)]
    nodes = (range(len(rows) - 1),)
    last, below = combined(weights_at(line, nodes, (len(rows) - 1,)), rows[:-1])
    told, under = combined(weights_at(line, nodes, (step,)), rows[:-1])
    sizes = rows[0] >= 0
    if (last != rows[-1] * below)[sizes].any() or (told % under != 0)[sizes].any() or (told < 0)[sizes].any():
        return None
    return Effect(tuple(np.where(sizes, told // under, rows[0]).tolist()))


def completed(tape: Tape, answers: Mapping[Asked, Effect]) -> Tape:
    """Return the tape that an abridged one is of, its calls with all that they allocate and free."""
    copy = _Copy(tape)
    rest: list[int] = []
    mine: list[int] = []
    freed: set[int] = set()
    call = Label("call", "")

    def until_kept(at: int) -> None:
        """Write what a call does up to its next allocation that it leaves."""
        while rest and (rest[0] < 0 or len(mine) in freed):
            event = rest.pop(0)
            if event >= 0:
                mine.append(copy.add(Label("allocate", call.name, call.phase), event, at))
            else:
                which = mine[~event]
                copy.add(Label("free", call.name, call.phase), -copy.value(which), at, which)

    for at, label in enumerate(tape.labels):
        if label.kind == "call":
            numbers = tape.values[at + 1 : at + 1 + _numbers_after(tape, at)]
            rest = list(answers[Asked(label.call, numbers, tape.values[at])].events)
            freed, mine, call = {~event for event in rest if event < 0}, [], label
            until_kept(at)
        elif label.kind == "chosen":
            copy.take(at, label=label._replace(kind="allocate"))
            mine.append(copy.last)
            rest.pop(0)
            until_kept(at)
        elif label.kind != "number":
            copy.take(at)
    return copy.tape()
