"""The least cost as a function of the memory allowed: a step function, told by the Pareto list of its (peak, cost).

Two parts of a step that share one memory budget add as functions; two ways to do the same thing take the minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ROOM = 1 << 50
"""More than any peak: it keeps the lists apart that are searched as one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParetoList:
    """Points by rising peak. Once `least` has made them, costs fall strictly and peaks rise strictly.

    Attributes:
        peaks: bytes, int64.
        costs: float64.
        picks: what was decided to get there, int64; the solver's code.
    """

    peaks: Array
    costs: Array
    picks: Array


FREE = ParetoList(peaks=np.zeros(1, np.int64), costs=np.zeros(1), picks=np.zeros(1, np.int64))
"""What nothing costs: no memory, no time."""


def raised(points: ParetoList, *, by: int, floor: int, cost: float, pick: int) -> ParetoList:
    """Return the points with memory held under them, a peak they cannot go below, a cost on top and a new pick."""
    peaks = np.maximum(points.peaks + by, floor)
    return ParetoList(peaks=peaks, costs=points.costs + cost, picks=np.full(len(peaks), pick))


def summed(
    firsts: Sequence[ParetoList], seconds: Sequence[ParetoList], floors: Array, costs: Array, picks: Array
) -> ParetoList:
    """Return, for every i, the points of firsts[i] + seconds[i], with a floor, a cost and a pick; not yet the least."""
    first_peaks, first_costs, first_owner = _flat(firsts)
    second_peaks, second_costs, second_owner = _flat(seconds)
    # One search finds for every point the best of its partner list within the same budget, in all pairs at once: each
    # pair has a range of keys to itself.
    first_keys = first_peaks + first_owner * _ROOM
    second_keys = second_peaks + second_owner * _ROOM
    of_first, with_second = _looked_up(first_keys, second_keys, second_owner, first_owner)
    of_second, with_first = _looked_up(second_keys, first_keys, first_owner, second_owner)
    owner = np.concatenate((first_owner[of_first], second_owner[of_second]))
    peaks = np.concatenate((first_peaks[of_first], second_peaks[of_second]))
    both = np.concatenate(
        (first_costs[of_first] + second_costs[with_second], second_costs[of_second] + first_costs[with_first])
    )
    return ParetoList(peaks=np.maximum(peaks, floors[owner]), costs=both + costs[owner], picks=picks[owner])


def _flat(lists: Sequence[ParetoList]) -> tuple[Array, Array, Array]:
    owner = np.repeat(np.arange(len(lists)), [len(one.peaks) for one in lists])
    return np.concatenate([one.peaks for one in lists]), np.concatenate([one.costs for one in lists]), owner


def _looked_up(keys: Array, table: Array, table_owner: Array, owner: Array) -> tuple[Array, Array]:
    """Return which keys have a value in their own list of the table at all, and where it stands."""
    found = np.searchsorted(table, keys, side="right") - 1
    present = np.flatnonzero((found >= 0) & (table_owner[found] == owner))
    return present, found[present]


def least(candidates: Sequence[ParetoList], *, limit: int) -> ParetoList:
    """Return the points no other is at least as good as, with peaks up to `limit`."""
    peaks = np.concatenate([one.peaks for one in candidates])
    costs = np.concatenate([one.costs for one in candidates])
    picks = np.concatenate([one.picks for one in candidates])
    order = np.argsort(peaks, kind="stable")[: np.count_nonzero(peaks <= limit)]
    costs = costs[order]
    falls = np.ones(len(order), bool)
    falls[1:] = costs[1:] < np.minimum.accumulate(costs)[:-1]
    order, costs = order[falls], costs[falls]
    peaks = peaks[order]
    # Of points at one peak the last is the cheapest, as only those that fall below all before them are left.
    last = np.ones(len(order), bool)
    last[:-1] = peaks[1:] != peaks[:-1]
    return ParetoList(peaks=peaks[last], costs=costs[last], picks=picks[order[last]])
