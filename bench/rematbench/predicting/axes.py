"""Which values of a size to run in place of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

NODES = 3
"""Values run on an axis: enough for a square, and to see that what is linear is no more."""

_MARGIN = 8
"""The largest value that is run is at most this part of the one asked for, where that leaves any."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One size, and the lattice of its values that are run.

    All of them leave the same remainder as the target when divided by the grain: strides, heads and tiles divide sizes,
    and what is a polynomial on such a lattice need not be one between.

    Attributes:
        target: the value asked for.
        grain: the distance of the lattice's values.
    """

    name: str
    target: int
    grain: int

    def node(self, step: int) -> int:
        """Return a value of the lattice: the first is twice the grain, as kernels treat a size of 1 apart."""
        return self.target % self.grain + (step + 2) * self.grain

    @property
    def nodes(self) -> tuple[int, ...]:
        """The values that are run on a line through the center."""
        return tuple(self.node(step) for step in range(NODES))

    @property
    def is_small(self) -> bool:
        """Whether the target is hardly larger than what would be run in its place."""
        return self.target <= self.node(NODES)

    def at_most(self, value: float) -> int:
        """Return the lattice's greatest value up to one, the last node at least."""
        steps = int((value - self.target % self.grain) // self.grain) - 2
        return self.node(max(steps, NODES - 1))

    @property
    def farthest(self) -> int:
        """The value that a fit is held against: far from the nodes, and still far from the target."""
        return self.at_most(self.target / _MARGIN)


def grains(target: int) -> list[int]:
    """Return the distances to try for a size, small ones first; each is about twice the one before.

    A divisor of the target where there is one near, as what divides a model's size mostly divides the sizes it may have.
    """
    found: list[int] = []
    level = max(1, isqrt(target) // 4)
    while level * (NODES + 1) <= target // 2 or not found:
        near = next((grain for grain in range(level, 2 * level) if target % grain == 0), level)
        if near not in found:
            found.append(near)
        level *= 2
    return found
