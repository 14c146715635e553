"""What a solver answers: which ranges of units to recompute, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass

NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True, order=True)
class Region:
    """Units `start` to `stop - 1`, recomputed in backward.

    Regions nest by containment. One that saves `nothing` keeps its input value alone and runs what it covers again:
    units and the regions inside it. Any other `save` is a unit's selective choice.
    """

    start: int
    stop: int
    save: str = NOTHING


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Regions, the outer before the inner and the earlier before the later; every other unit runs plainly.

    Attributes:
        regions: ranges that nest or are apart, no two the same. Kept flat, as nesting may go a thousand levels deep.
        peak_bytes: the most that is live at any time of the step.
        cost: what is recomputed, above the plain step.
    """

    regions: tuple[Region, ...]
    peak_bytes: int
    cost: float
