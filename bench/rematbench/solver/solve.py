"""The best schedules of a chain: exact dynamic programming over ranges of units.

The recursion is that of optimal checkpointing for heterogeneous chains (Beaumont, Eyraud-Dubois, Herrmann, Joly and
Shilova, HAL hal-02352969), here with whole step functions instead of memory slots. To process units s to t-1 with the
input of s at hand, either run s plainly and go on at s+1, or make s to k-1 a region, go on at k, and redo the region
later by the same recursion. A state also says which tensors of value s are charged already: nothing else of the past
matters, for a tensor of a later value that was seen before s is one of value s.

A range's peaks are relative to what is held when it begins, but for gradients: what is live of them depends on the
position alone, so they are counted where they occur.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rematbench.errors import RematbenchError
from rematbench.solver.bound import least_cost
from rematbench.solver.chain import UnitChain
from rematbench.solver.follow import regions_within
from rematbench.solver.layout import layout_of
from rematbench.solver.levels import LevelTables, levels_between
from rematbench.solver.lookups import Lookups
from rematbench.solver.prices import bounds_below
from rematbench.solver.relaxed import relaxed
from rematbench.solver.schedule import Schedule, UnitRegion
from rematbench.solver.simulate import simulate
from rematbench.solver.tables import Tables, TooLongError
from rematbench.units import format_bytes

POINTS = 192
"""How many points a range's list may have unless told, and how many levels of memory there are where it has more.

Up to two dozen units of random sizes, and many more of equal ones, nothing is left out.
"""

_SHORT = 24
_POINTS_OF_SHORT = 1024
"""How many points a list may have in chains of so few units: there whole lists take no longer than levels do."""

LONG = 120
"""Units beyond which regions begin and end at multiples of a stride only, unless told."""

_LINEAR = 60
"""Up to how many units the linear program is solved for a bound."""

_UNLIMITED = 1 << 49
"""Bytes that no machine has; beyond them lists would not be kept apart (`pareto`)."""

_LEVELS_OF_LONG = 96
"""How many levels there are at most in a long chain, for one budget; for a frontier two thirds of that."""

_FRONTIER = 128
"""How many points a frontier on levels has at most; in long chains a fifth of that."""

_ROUNDING = 1e-9

_BOUNDED = 6
"""How many points of a frontier on levels have a bound made for them; it is one for the points between them too.

In long chains it is a third of that.
"""


class InfeasibleError(RematbenchError):
    """A budget below what any schedule needs.

    Attributes:
        least_peak_bytes: the least peak of any schedule.
        unit: the name of the unit at which it occurs.
    """

    def __init__(self, budget_bytes: int, least_peak_bytes: int, unit: str) -> None:
        super().__init__(
            f"no schedule fits into {format_bytes(budget_bytes)} ({budget_bytes} bytes): "
            f"{unit} needs {format_bytes(least_peak_bytes)} ({least_peak_bytes} bytes), whatever is recomputed"
        )
        self.least_peak_bytes = least_peak_bytes
        self.unit = unit


def frontier(chain: UnitChain, *, points: int | None = POINTS, stride: int | None = None) -> tuple[Schedule, ...]:
    """Return every schedule that no other beats in peak and cost, by rising peak and falling cost.

    Args:
        chain: the cost model.
        points: how many points the list of a range may have; None for all. Where a list would be longer the answer is
            no longer exact: schedules are found along the curve, valid and with true figures, but better ones may have
            been missed, by no more than their `gap`. The least peak and the cost 0 are always there.
        stride: regions longer than twice this begin and end at its multiples only; 1 considers every region. Unless
            told it is 1 up to `LONG` units and grows with them from there.
    """
    stride = _stride(chain, stride)
    plain = _plain_peak_bytes(chain)
    tables = _listed(chain, _UNLIMITED, points, stride)
    if tables is not None:
        found = _unbeaten([tables.schedule(number) for number in range(len(tables.whole.peaks))])
        if stride == 1 and (listed := _listed_bounds(chain, tables)):
            return tuple(_with_gap(schedule, listed) for schedule in found)
        levels = _levels(chain, plain, _LEVELS_OF_LONG * 2 // 3, stride)
    else:
        levels = _levels(
            chain, plain, min(points or POINTS, POINTS if stride == 1 else _LEVELS_OF_LONG * 2 // 3), stride
        )
        rooms = _along(levels, min(points or POINTS, _FRONTIER if stride == 1 else _FRONTIER // 5))
        found = _unbeaten([_schedule(chain, regions) for regions in regions_within(levels, rooms)])
    some = found[:: -(-len(found) // (_BOUNDED if stride == 1 else _BOUNDED // 3))]
    bounds = bounds_below(
        levels,
        [(schedule.regions, schedule.peak_bytes) for schedule in some],
        widths=(0.05,) if stride > 1 else (0.05, 0.3),
    )
    return tuple(_with_gap(schedule, bounds) for schedule in found)


def solve(chain: UnitChain, budget_bytes: int, *, points: int | None = POINTS, stride: int | None = None) -> Schedule:
    """Return the cheapest schedule that fits; `points` and `stride` as for `frontier`.

    Where the search reckons with less than a schedule takes (`relaxed`), it looks further down until one does fit.

    Raises:
        InfeasibleError: none fits, whatever `points`; of those considered where `stride` is above 1.
    """
    stride = _stride(chain, stride)
    most = min(budget_bytes, _plain_peak_bytes(chain))
    tables = _listed(chain, most, points, stride)
    found = _fitting(tables, budget_bytes) if tables else None
    if tables and found and stride == 1 and (listed := _listed_bounds(chain, tables)):
        return _with_gap(found, listed, most)
    levels = _levels(chain, most, points or POINTS, stride)
    found = found or _fitting_on(levels, budget_bytes)
    if found:
        return _with_gap(found, bounds_below(levels, [(found.regions, most)]), most)
    least = int(levels.top.least[levels.beginning])
    best = simulate(chain, *regions_within(levels, [least]))
    raise InfeasibleError(budget_bytes, best.peak_bytes, chain.units[best.peak_unit].name)


def cost_bound(chain: UnitChain, budget_bytes: int) -> float:
    """Return a lower bound on the cost of any schedule of units within the budget; infinite where there is none.

    Up to 60 units it is that of the linear program, which holds for more than regions can do; the program of 100 takes
    seconds, so that it is the solver's own from there on.
    """
    if len(chain.units) <= _LINEAR:
        return least_cost(chain, budget_bytes)
    try:
        found = solve(relaxed(chain), budget_bytes)
    except InfeasibleError:
        return math.inf
    return max(0.0, found.cost - found.gap)


def _plain_peak_bytes(chain: UnitChain) -> int:
    """Return the peak of the plain step.

    Raises:
        RematbenchError: it is more than any machine has.
    """
    if (peak := simulate(chain, ()).peak_bytes) >= _UNLIMITED:
        raise RematbenchError(
            f"{chain.units[0].name} and what follows it: the plain step takes {format_bytes(peak)}, more than any "
            f"machine has: give the sizes in bytes"
        )
    return peak


def _stride(chain: UnitChain, stride: int | None) -> int:
    return max(1, -(-len(chain.units) // LONG)) if stride is None else stride


def _listed(chain: UnitChain, limit: int, points: int | None, stride: int) -> Tables | None:
    """Return the tables with whole lists; None where they are too long."""
    if points is not None and points >= POINTS and len(chain.units) <= _SHORT:
        points = max(points, _POINTS_OF_SHORT)
    try:
        return Tables(chain, limit=limit, points=points, stride=stride)
    except TooLongError:
        return None


def _listed_bounds(chain: UnitChain, tables: Tables) -> Callable[[int], float] | None:
    """Return the least cost of any schedule in a room, by whole lists; None where those are too long.

    Args:
        tables: of the chain, every region considered.
    """
    less = relaxed(chain)
    # The search takes nested regions to keep nothing, so that its tables are those of both.
    same = replace(less, nested_bytes=chain.nested_bytes) == chain
    whole = tables if same else _listed(less, tables.limit, tables.points, 1)
    if whole is None:
        return None
    peaks, costs = whole.whole.peaks, whole.whole.costs
    return lambda room: float(costs[max(0, bisect_right(peaks, room) - 1)])


def _fitting(tables: Tables, budget_bytes: int) -> Schedule | None:
    """Return the cheapest listed schedule that fits; None where there is none."""
    every = (tables.schedule(number) for number in reversed(range(len(tables.whole.peaks))))
    return next((schedule for schedule in every if schedule.peak_bytes <= budget_bytes), None)


def _fitting_on(levels: LevelTables, budget_bytes: int) -> Schedule | None:
    """Return the schedule that is best by estimate and fits; None where not even that of the least room does."""
    room, least = budget_bytes, int(levels.top.least[levels.beginning])
    while room >= least:
        schedule = _schedule(levels.at.chain, *regions_within(levels, [room]))
        if schedule.peak_bytes <= budget_bytes:
            return schedule
        # By as much as it has taken more than told, or all the way down.
        room = max(least, room - (schedule.peak_bytes - budget_bytes)) if room > least else least - 1
    return None


def _levels(chain: UnitChain, most: int, points: int, stride: int) -> LevelTables:
    """Return the tables on levels up to so many bytes, as many as the number of ranges lets be worked out in time."""
    layout = layout_of(Lookups(chain=chain, stride=stride))
    least = min(choice.backward_peak_bytes for unit in chain.units for choice in unit.choices)
    more = min(4.0, max(1.0, (100 / len(chain.units)) ** 2))
    count = max(2, min(points, _LEVELS_OF_LONG) if stride > 1 else round(points * more))
    return LevelTables(layout, rooms=levels_between(min(least, most - 1), most, count))


def _with_gap(schedule: Schedule, bounds: Callable[[int], float], room: int | None = None) -> Schedule:
    """Return a schedule that says how far it is from the bound of its peak, or of the room that it was found for."""
    gap = schedule.cost - bounds(room or schedule.peak_bytes)
    # The same sum in another order is no gap.
    return replace(schedule, gap=gap if gap > _ROUNDING * schedule.cost else 0.0)


def _along(levels: LevelTables, count: int) -> list[int]:
    """Return rooms along the curve, evenly in memory and cost, its ends among them."""
    begin = levels.beginning
    least, plain = int(levels.top.least[begin]), int(levels.top.plain[begin])
    rooms = np.array([least, *levels.rooms[levels.rooms > least].tolist(), plain])
    costs = levels.estimates(levels.top, np.full(len(rooms), begin), rooms)
    costs[-1] = 0.0
    costs = np.minimum.accumulate(costs)
    along = (rooms - least) / max(plain - least, 1) + (costs[0] - costs) / max(costs[0], 1e-9)
    return np.interp(np.linspace(0.0, along[-1], count), along, rooms).astype(np.int64).tolist()


def _schedule(chain: UnitChain, regions: tuple[UnitRegion, ...]) -> Schedule:
    figures = simulate(chain, regions)
    return Schedule(regions=regions, peak_bytes=figures.peak_bytes, cost=figures.cost)


def _unbeaten(schedules: list[Schedule]) -> tuple[Schedule, ...]:
    kept: list[Schedule] = []
    for schedule in sorted(schedules, key=lambda schedule: (schedule.peak_bytes, schedule.cost)):
        if not kept or schedule.cost < kept[-1].cost:
            kept.append(schedule)
    return tuple(kept)
