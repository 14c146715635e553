"""Which values of a size to run in place of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

NODES = 3
"""Values run on an axis: enough for a square, and to see that what is linear is no more."""


_DIVISORS = 3
"""So many are tried between a power of two and the next."""


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """The values of a size that are run: a first one and equal distances.

    Attributes:
        grain: the distance.
        offset: what is left of each when divided by the grain.
    """

    grain: int
    offset: int = 0

    def node(self, step: int) -> int:
        """Return a value; the first is twice the grain, as kernels treat a size of 1 apart."""
        return self.offset + (step + 2) * self.grain

    @property
    def nodes(self) -> tuple[int, ...]:
        """The values that are run on a line through the center."""
        return tuple(self.node(step) for step in range(NODES))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One size: the value asked for, and the lattice of those that are run in its place."""

    name: str
    target: int
    lattice: Lattice

    def node(self, step: int) -> int:
        """Return a value of the lattice."""
        return self.lattice.node(step)

    @property
    def nodes(self) -> tuple[int, ...]:
        """The values that are run on a line through the center."""
        return self.lattice.nodes

    def like_the_target(self, most: float, least: int) -> int:
        """Return a value up to one that leaves the target's remainder when divided by the grain, or more if it must.

        What is a polynomial of a size where strides, heads and tiles divide it need not be one between; so a fit is
        held against a value that is as the one asked for.
        """
        grain = self.lattice.grain
        value = self.target - -(-(self.target - int(most)) // grain) * grain
        while value < least:
            value += grain
        return value


def is_small(target: int) -> bool:
    """Tell whether a size is hardly larger than what would be run in its place."""
    return target <= Lattice(grain=1).node(NODES)


def lattices(target: int) -> list[Lattice]:
    """Return the lattices to try for a size, narrow ones first: a few for each power of two.

    Of divisors of the target where there are some near, as what divides a model's size (heads, groups, strides) mostly
    divides the sizes it may have; else of powers of two, which other targets share, and then with the target's
    remainder.
    """
    found: list[Lattice] = []
    level = 1
    while 2 * level <= isqrt(target) // 4:
        level *= 2
    while level * (NODES + 1) <= target // 2 or not found:
        near = [grain for grain in range(level, 2 * level) if target % grain == 0][:_DIVISORS] or [level]
        found += [
            Lattice(grain=grain, offset=offset) for grain in near for offset in dict.fromkeys((0, target % grain))
        ]
        level *= 2
    return list(dict.fromkeys(found))
