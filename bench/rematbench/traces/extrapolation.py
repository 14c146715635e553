"""A step at sizes that nobody ran, from its tapes at a few small ones.

Every number of a tape is a polynomial of the model's sizes: a tensor's bytes are the product of its dimensions. So most
are products of polynomials of one size each, and are told by runs that change one size at a time; what a run of several
changed sizes shows to be no such product is interpolated on a grid. Nothing is rounded, and a number that does not come
out whole is a fit that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rematbench.traces.polynomial import Index, Values, box_union, combined, degrees, weights_at
from rematbench.traces.tape import Tape

Entries = npt.NDArray[np.bool_]
"""Which entries of a tape."""


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Tapes of one step at the nodes of a grid, all of one shape, and what they say of other places.

    Attributes:
        nodes: of each axis, that of the center first.
        tapes: by index; the center, and those where one axis alone is at another node, are there.
        mixed: entries that are no product of polynomials of one axis each; their tapes are there too.
    """

    nodes: tuple[tuple[int, ...], ...]
    tapes: Mapping[Index, Tape]
    mixed: Entries | None = None

    @cached_property
    def center(self) -> Tape:
        """The tape that all lines go through."""
        return self.tapes[self._on_line(0, 0)]

    def at(self, place: Sequence[int]) -> Tape | None:
        """Return the tape at a place; None where a number of it would not be whole."""
        values, whole = self._interpolated(place)
        return self.center.with_values(values.tolist()) if (whole | self._guessed).all() else None

    def near(self, place: Sequence[int]) -> Tape:
        """Return a tape of about the size of that at a place, whole or not; nothing is below nothing in it."""
        values, signs = self._interpolated(place)[0], _as_values(self.center)
        values[(values > 0) & (signs < 0) | (values < 0) & (signs >= 0)] = 0
        return self.center.with_values(values.tolist())

    def _interpolated(self, place: Sequence[int]) -> tuple[Values, Entries]:
        values, whole = self._products(place)
        if self.mixed is not None and self.mixed.any():
            lower = self.grid
            total, below = combined(weights_at(lower, self.nodes, place), [self._values(index) for index in lower])
            values[self.mixed] = total[self.mixed] // below
            whole[self.mixed] = (total % below == 0)[self.mixed]
        return values, whole

    def wrong(self, place: Sequence[int], measured: Tape) -> Entries:
        """Return which numbers differ from those of a run there."""
        _, whole = self._products(place)
        told = self.at(place)
        wrong = ~whole if told is None else np.array(told.values, dtype=object) != _as_values(measured)
        return wrong & ~self._guessed

    def with_mixed(self, entries: Entries) -> Extrapolation:
        """Return the same with more entries that are interpolated on the grid, whose tapes are to be added."""
        both = entries if self.mixed is None else self.mixed | entries
        return Extrapolation(nodes=self.nodes, tapes=self.tapes, mixed=both)

    def with_tapes(self, tapes: Mapping[Index, Tape]) -> Extrapolation:
        """Return the same with more tapes."""
        return Extrapolation(nodes=self.nodes, tapes={**self.tapes, **tapes}, mixed=self.mixed)

    @cached_property
    def exponents(self) -> npt.NDArray[np.int64]:
        """The degree of each entry in each axis, entries down and axes across."""
        lines = [
            degrees(nodes, [self._values(self._on_line(axis, step)) for step in range(len(nodes))])
            for axis, nodes in enumerate(self.nodes)
        ]
        found = np.stack(lines, axis=1)
        found[self._guessed] = 0
        return found

    @cached_property
    def grid(self) -> list[Index]:
        """The indices that the mixed entries are told by; of a tape there is more than the lines have."""
        if self.mixed is None:
            return []
        return box_union({tuple(int(top) for top in row) for row in self.exponents[self.mixed]})

    def is_settled(self, axis: int) -> bool:
        """Tell whether an axis has one node more than its degrees need, so that the last one has borne them out."""
        return bool((self.exponents[:, axis] < len(self.nodes[axis]) - 1).all())

    @cached_property
    def _guessed(self) -> Entries:
        """What kernels choose, its frees and its numbers, which no rule tells; here it is no more than likely."""
        return np.array(self.center.chosen, dtype=bool)

    def _products(self, place: Sequence[int]) -> tuple[Values, Entries]:
        """Return each number as the product over the axes, and which of them came out whole."""
        center = _as_values(self.center)
        numerator = center.copy()
        denominator = np.ones(len(center), dtype=object)
        vanishing = center == 0
        for axis, nodes in enumerate(self.nodes):
            line = [(step,) for step in range(len(nodes))]
            weights = weights_at(line, (nodes,), (place[axis],))
            values, below = combined(weights, [self._values(self._on_line(axis, step)) for (step,) in line])
            numerator = numerator * np.where(vanishing, 1, values)
            denominator = denominator * below * np.where(vanishing, 1, center)
        return numerator // denominator, numerator % denominator == 0

    def _on_line(self, axis: int, step: int) -> Index:
        return tuple(step if at == axis else 0 for at in range(len(self.nodes)))

    def _values(self, index: Index) -> Values:
        return _as_values(self.tapes[index])


def _as_values(tape: Tape) -> Values:
    return np.array(tape.values, dtype=object)
