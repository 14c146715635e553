"""What a solver answers: which ranges of units to recompute, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rematbench.solver.chain import UnitChain

NOTHING = "nothing"
OFFLOAD = "offload"
"""What a region saves that recomputes nothing: what its unit saves waits in host memory."""


@dataclass(frozen=True, kw_only=True, order=True)
class UnitRegion:
    """Units `start` to `stop - 1`, recomputed in backward.

    Regions nest by containment. One that saves `nothing` keeps its input value alone and runs what it covers again:
    units and the regions inside it. Any other `save` is a unit's selective choice.
    """

    start: int
    stop: int
    save: str = NOTHING


def even_cuts(chain: UnitChain) -> Iterator[tuple[UnitRegion, ...]]:
    """Yield what people try by hand: every run of units that join in 1, 2, 3 … regions of even length.

    Each in three ways: all of them, all but the last of a run, and as torch's `checkpoint_sequential` does it, which
    leaves what does not divide at the end of a run plain.
    """
    runs = list(_runs(chain))
    for count in range(1, max((stop - start for start, stop in runs), default=0) + 1):
        whole = [_even(start, stop, min(count, stop - start)) for start, stop in runs]
        equal = [_even(start, start + (stop - start) // count * count, count) for start, stop in runs]
        for cuts in (whole, [cut[:-1] for cut in whole], [cut[:-1] for cut in equal if cut]):
            yield tuple(region for cut in cuts for region in cut)


def _runs(chain: UnitChain) -> Iterator[tuple[int, int]]:
    """Yield the longest ranges of units that one region may cover, those of a single unit left out."""
    start = 0
    for at in range(1, len(chain.units) + 1):
        if at == len(chain.units) or not chain.joins[at - 1] or not chain.units[at].can_be_region:
            if at - start > 1 and all(unit.can_be_region and unit.begins for unit in chain.units[start:at]):
                yield start, at
            start = at


def _even(start: int, stop: int, count: int) -> list[UnitRegion]:
    """Cut a range into regions whose lengths differ by one at most, the longer ones first."""
    size, longer = divmod(stop - start, count)
    cuts = [start + index * size + min(index, longer) for index in range(count + 1)]
    return [UnitRegion(start=left, stop=right) for left, right in pairwise(cuts) if left < right]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Regions, the outer before the inner and the earlier before the later; every other unit runs plainly.

    Attributes:
        regions: ranges that nest or are apart, no two the same. Kept flat, as nesting may go a thousand levels deep.
        peak_bytes: the most that is live at any time of the step.
        cost: what is recomputed, above the plain step.
        gap: how much more that is, at most, than the least cost of any schedule with this peak; 0 where it is the
            least. Of a schedule made in another way than by solving nothing is known, and it says 0 as well.
    """

    regions: tuple[UnitRegion, ...]
    peak_bytes: int
    cost: float
    gap: float = 0.0
