"""Step functions against their plain definition, budget by budget."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rematbench.solver.pareto import ParetoList, least, raised, summed

PEAKS = st.integers(0, 30)
POINTS = st.lists(st.tuples(PEAKS, st.integers(0, 30)), min_size=1, max_size=8)
BUDGETS = range(100)


def list_of(points: list[tuple[int, int]], pick: int = 0) -> ParetoList:
    peaks, costs = np.array(points).T
    return ParetoList(peaks=peaks, costs=costs.astype(float), picks=np.full(len(points), pick))


def tidy(points: list[tuple[int, int]]) -> ParetoList:
    return least([list_of(points)], limit=1000)


def value(points: ParetoList, budget: int) -> float:
    return min(
        (cost for peak, cost in zip(points.peaks, points.costs, strict=True) if peak <= budget), default=math.inf
    )


@given(POINTS, POINTS, PEAKS)
def test_least_is_the_minimum_at_every_budget(
    one: list[tuple[int, int]], two: list[tuple[int, int]], limit: int
) -> None:
    found = least([list_of(one, 1), list_of(two, 2)], limit=limit)
    assert (np.diff(found.peaks) > 0).all()
    assert (np.diff(found.costs) < 0).all()
    for budget in range(limit + 1):
        assert value(found, budget) == min(value(list_of(one), budget), value(list_of(two), budget))
    for peak, cost, pick in zip(found.peaks, found.costs, found.picks, strict=True):
        assert peak <= limit
        assert (peak, cost) in (one, two)[pick - 1]


@given(st.lists(st.tuples(POINTS, POINTS, PEAKS, PEAKS), min_size=1, max_size=4))
def test_sums_share_one_budget(pairs: list[tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]]) -> None:
    firsts, seconds = [tidy(pair[0]) for pair in pairs], [tidy(pair[1]) for pair in pairs]
    floors, costs = np.array([pair[2] for pair in pairs]), np.array([float(pair[3]) for pair in pairs])
    every = summed(firsts, seconds, floors, costs, np.arange(len(pairs)))
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        mine = every.picks == number
        found = ParetoList(peaks=every.peaks[mine], costs=every.costs[mine], picks=every.picks[mine])
        for budget in BUDGETS:
            expected = value(first, budget) + value(second, budget) + costs[number]
            assert value(found, budget) == (expected if budget >= floors[number] else math.inf)


@given(POINTS, PEAKS, PEAKS, PEAKS)
def test_raised_holds_memory_under_a_list(points: list[tuple[int, int]], by: int, floor: int, cost: int) -> None:
    found = raised(tidy(points), by=by, floor=floor, cost=float(cost), pick=7)
    assert set(found.picks) == {7}
    for budget in BUDGETS:
        expected = value(tidy(points), budget - by) + cost if budget >= floor else math.inf
        assert value(found, budget) == expected


def test_nothing_fits_below_every_peak() -> None:
    assert len(least([list_of([(5, 1), (7, 0)])], limit=4).peaks) == 0
