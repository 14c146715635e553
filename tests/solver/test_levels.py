"""Schedules found on levels of memory fit, and are as far from the optimum as they say at most."""

import os
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.solver.brute import best
from tests.solver.chains import chains, chains_beyond, equal_units, long_chain

from rematbench.solver import prices
from rematbench.solver.chain import UnitChain
from rematbench.solver.follow import regions_within
from rematbench.solver.layout import layout_of
from rematbench.solver.levels import LevelTables, levels_between
from rematbench.solver.lookups import Lookups
from rematbench.solver.prices import bounds_below
from rematbench.solver.simulate import simulate
from rematbench.solver.solve import frontier, solve

EXAMPLES = int(os.environ.get("REMATBENCH_EXAMPLES", "30"))


def tables(chain: UnitChain, *, levels: int = 24, stride: int = 1) -> LevelTables:
    most = max(simulate(chain, ()).peak_bytes, 1)
    return LevelTables(layout_of(Lookups(chain=chain, stride=stride)), rooms=levels_between(0, most, levels))


def cheapest(chain: UnitChain) -> dict[int, float]:
    """Return the least cost of any schedule, by listing them, in every room from the least one on."""
    every = best(chain)
    most = simulate(chain, ()).peak_bytes
    return {room: min(cost for peak, cost in every if peak <= room) for room in range(every[0][0], most + 1)}


@given(chains(most=5), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_what_is_found_fits_and_the_least_room_is_exact(chain: UnitChain, levels: int) -> None:
    optimum = cheapest(chain)
    made = tables(chain, levels=levels)
    assert made.top.least[made.beginning] == min(optimum)
    for (room, cost), regions in zip(optimum.items(), regions_within(made, list(optimum)), strict=True):
        figures = simulate(chain, regions)
        assert figures.peak_bytes <= room
        assert figures.cost >= cost
    assert figures.cost == 0


@given(chains(most=14), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_what_is_found_fits_where_regions_are_left_out(chain: UnitChain, stride: int) -> None:
    made = tables(chain, stride=stride)
    least = int(made.top.least[made.beginning])
    rooms = range(least, simulate(chain, ()).peak_bytes + 1)
    for room, regions in zip(rooms, regions_within(made, rooms), strict=True):
        assert simulate(chain, regions).peak_bytes <= room


@given(chains(most=5) | chains_beyond(most=5), st.integers(1, 6), st.integers(1, 3), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_schedule_is_cheaper_than_the_bound(
    chain: UnitChain, longest: int, stride: int, data: st.DataObject
) -> None:
    """Whatever the prices, and however short the pieces that longer regions are bounded by."""
    optimum = cheapest(chain)
    with patch.object(prices, "_LONGEST", longest):
        made = tables(chain, stride=stride)
        rooms = sorted(optimum)[:: max(1, len(optimum) // 6)]
        rooms = [room for room in rooms if room >= made.top.least[made.beginning]]
        found = list(zip(regions_within(made, rooms), rooms, strict=True))
        bounds = bounds_below(made, found) if found else lambda _room: 0.0
        assert all(bounds(room) <= cost + 1e-3 for room, cost in optimum.items())
        scale = data.draw(st.sampled_from([0.001, 0.03, 0.3]))
        falls = data.draw(st.lists(st.integers(0, 5), min_size=len(chain.units), max_size=len(chain.units)))
        any_prices = np.cumsum([0, *falls])[::-1] * scale
        bounded = prices.PriceTables(chain, max(rooms or [1]))
        least, price = bounded.bound(any_prices)
        assert all(made.scale * (least - price * room) <= cost + 1e-3 for room, cost in optimum.items())


def test_the_bound_is_close_on_long_chains() -> None:
    """As shares of one forward; the costs themselves are from 0.15 to 0.73."""
    chain = long_chain(100)
    forward = sum(unit.forward_cost for unit in chain.units)
    found = [solve(chain, mib * 2**20, stride=1) for mib in (80, 200, 400)]
    assert [one.gap / forward for one in found] == [pytest.approx(most, abs=most) for most in (0.05, 0.02, 0.01)]
    assert all(0 < one.gap < one.cost for one in found)


@pytest.mark.parametrize("seed", [0, 1])
def test_levels_lose_little(seed: int) -> None:
    """On 30 units the exact frontier has up to 700 points; the limits are what was seen, rounded up."""
    chain = long_chain(30, seed=seed)
    exact, found = frontier(chain, points=None), frontier(chain)
    assert found[0].peak_bytes == exact[0].peak_bytes
    assert found[-1].cost == 0
    forward = sum(unit.forward_cost for unit in chain.units)
    gaps = []
    for one in found:
        optimum = min(other.cost for other in exact if other.peak_bytes <= one.peak_bytes)
        assert one.cost - one.gap <= optimum + 1e-9 * forward
        gaps.append((one.cost - optimum) / forward)
    assert max(gaps) < 0.05
    assert np.mean(gaps) < 0.005


def test_exact_answers_have_no_gap() -> None:
    assert {one.gap for one in frontier(long_chain(10))} == {0}
    assert {one.gap for one in frontier(equal_units(16))} == {0}
    chain = long_chain(16)
    assert len(exact := frontier(chain, points=None)) > 192
    assert frontier(chain) == exact
    assert solve(long_chain(10), 30 * 2**20).gap == 0
