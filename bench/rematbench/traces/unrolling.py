"""Depth: a step whose blocks repeat, with more of them than were run.

One block more puts the same entries once more into a tape, at a few places: into the forward, into the backward, into
the optimizer's loop. Where they go is found from two depths, and believed once it makes the tape of a third.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rematbench.traces.tape import ALLOCATIONS, NEVER, Label, Tape

_NUMBER = re.compile(r"\d+")
_MOST_PLACES = 64
"""Where a block more goes: a handful in forward and backward, and one for each pass of an optimizer."""


class Repeat(NamedTuple):
    """The entries before a place of a tape that stand there once more for each step in depth."""

    place: int
    entries: int


@dataclass(frozen=True, kw_only=True)
class Unrolling:
    """How a tape grows with the depth.

    Attributes:
        repeats: in order of their places.
    """

    repeats: tuple[Repeat, ...]

    def order(self, length: int, times: int) -> list[int]:
        """Return which entries of the tape the longer one consists of."""
        found: list[int] = []
        before = 0
        for place, count in self.repeats:
            found += range(before, place)
            found += list(range(place - count, place)) * times
            before = place
        return [*found, *range(before, length)]

    def unrolled(self, tape: Tape, times: int) -> Tape:
        """Return the tape so many steps deeper."""
        order = self.order(len(tape.labels), times)
        labels = [tape.labels[at] for at in order]
        return Tape(
            labels=tuple(labels),
            values=tuple(tape.values[at] for at in order),
            ends=_linked(tape, order),
            times=_continued(tape, order),
        )


def unrolling_of(shallow: Tape, deeper: Tape) -> Unrolling | None:
    """Return how one tape becomes the other by repeating entries once; None where it does not."""
    missing = len(deeper.labels) - len(shallow.labels)
    if missing <= 0:
        return None
    before, after = _tokens(shallow, deeper)
    repeats: list[Repeat] = []
    at = moved = 0
    while len(repeats) <= _MOST_PLACES:
        at += _common(before[at:], after[at + moved :])
        if moved == missing:
            break
        count = _inserted(before, after, at, moved, missing - moved)
        if count == 0:
            return None
        repeats.append(Repeat(at, count))
        moved += count
    return Unrolling(repeats=tuple(repeats)) if at == len(before) and moved == missing else None


def are_alike(one: Tape, other: Tape) -> bool:
    """Tell whether two tapes are equal but for which block an entry is of."""
    first, second = _tokens(one, other)
    return np.array_equal(first, second)


def _inserted(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], at: int, moved: int, most: int) -> int:
    """Return how many entries the longer tape repeats here; 0 if it does not.

    Of the counts after which the two go on alike for longest the least one.
    """
    rest = before[at:]
    best, found = -1, 0
    # Where nothing comes after it, it is all that is left.
    for count in range(1 if len(rest) else most, min(most, at) + 1):
        start = at + moved + count
        if after[start - 1] != before[at - 1] or not np.array_equal(
            after[start - count : start], before[at - count : at]
        ):
            continue
        length = _common(rest, after[start:])
        if length > best:
            best, found = length, count
    return found


def _common(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """Return how many entries two rows have in common from their beginning."""
    length = min(len(one), len(other))
    unequal = np.flatnonzero(one[:length] != other[:length])
    return int(unequal[0]) if len(unequal) else length


def _tokens(*tapes: Tape) -> list[npt.NDArray[np.int64]]:
    """Number the entries of tapes: those that differ in nothing but which block they are of have one number."""
    numbers: dict[tuple[Label, int], int] = {}
    plain: dict[Label, Label] = {}
    rows: list[npt.NDArray[np.int64]] = []
    for tape in tapes:
        row = []
        for label, value in zip(tape.labels, tape.values, strict=True):
            if label not in plain:
                plain[label] = label._replace(name=_NUMBER.sub("#", label.name))
            row.append(numbers.setdefault((plain[label], value), len(numbers)))
        rows.append(np.array(row, dtype=np.int64))
    return rows


def _linked(tape: Tape, order: Sequence[int]) -> tuple[int, ...]:
    """Give each free a live allocation of its size; the last one made, as what a block keeps is freed backward."""
    live: dict[int, list[int]] = defaultdict(list)
    ends: list[int] = []
    for at, entry in enumerate(order):
        kind, value = tape.labels[entry].kind, tape.values[entry]
        if kind in ALLOCATIONS:
            live[value].append(at)
        ends.append(live[-value].pop() if kind == "free" and live[-value] else NEVER)
    return tuple(ends)


def _continued(tape: Tape, order: Sequence[int]) -> tuple[int, ...]:
    """Return times that go on: each entry is as long after the one before as it was."""
    times: list[int] = []
    for entry in order:
        width = tape.times[entry] - tape.times[entry - 1] if entry else 0
        times.append((times[-1] if times else 0) + max(0, width))
    return tuple(times)
