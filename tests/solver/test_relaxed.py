"""The chain that bounds are made of: no schedule peaks higher in it, and the search knows all of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from tests.solver.brute import best, schedules
from tests.solver.chains import chains, chains_beyond, equal_units, long_chain

from rematbench.solver.chain import UnitChain
from rematbench.solver.relaxed import relaxed
from rematbench.solver.simulate import simulate
from rematbench.solver.solve import InfeasibleError, cost_bound, frontier, solve


@given(chains_beyond(most=4))
@settings(max_examples=60, deadline=None)
def test_no_schedule_peaks_higher_and_all_cost_the_same(chain: UnitChain) -> None:
    less = relaxed(chain)
    for regions in schedules(chain):
        there, here = simulate(chain, regions), simulate(less, regions)
        assert here.peak_bytes <= there.peak_bytes
        assert here.cost == there.cost


@given(chains_beyond(most=5))
@settings(max_examples=60, deadline=None)
def test_the_search_is_exact_in_it(chain: UnitChain) -> None:
    less = relaxed(chain)
    assert [(found.peak_bytes, found.cost) for found in frontier(less, points=None)] == best(less)
    assert relaxed(less) == less


@given(chains(most=8))
@settings(max_examples=40, deadline=None)
def test_what_the_search_is_exact_in_is_as_it_was(chain: UnitChain) -> None:
    told = replace(chain, units=tuple(replace(unit, inputs=chain.values[at]) for at, unit in enumerate(chain.units)))
    assert relaxed(chain) is chain
    assert relaxed(told) is told


@given(chains_beyond(most=5))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("points", [None, 2])
def test_gaps_bounds_and_budgets_hold(points: int | None, chain: UnitChain) -> None:
    """By whole lists, and on levels of memory."""
    every = best(chain)
    for found in frontier(chain, points=points):
        optimum = min(cost for peak, cost in every if peak <= found.peak_bytes)
        assert found.cost - found.gap <= optimum + 1e-3
    for peak, cost in every:
        assert cost_bound(chain, peak) <= cost + 1e-3
        try:
            found = solve(chain, peak, points=points)
        except InfeasibleError:
            continue
        assert found.peak_bytes <= peak
        assert cost - 1e-3 <= found.cost
        assert found.cost - found.gap <= cost + 1e-3


def test_a_skip_that_passes_by_is_counted_where_it_is_taken() -> None:
    """The last two units take it, the one before them does not: what it held earlier is nobody's in the bound."""
    chain = long_chain(5)
    skip = len(chain.tensor_bytes)
    values = tuple(value | {skip} if 1 <= at <= 4 else value for at, value in enumerate(chain.values))
    taking = [
        unit if at in (0, 3, 4) else replace(unit, inputs=chain.values[at]) for at, unit in enumerate(chain.units)
    ]
    chain = replace(
        chain,
        tensor_bytes=(*chain.tensor_bytes, 2**30),
        tensor_gradient_bytes=(*chain.tensor_gradient_bytes, 2**20),
        values=values,
        units=tuple(taking),
    )
    less = relaxed(chain)
    assert [skip in value for value in less.values] == [False, False, False, True, True, False]
    assert [less.gradient_bytes(at) for at in range(6)] == [chain.gradient_bytes(at) for at in range(6)]


def test_an_exact_answer_that_nests_is_held_against_one_that_keeps_nothing_for_it() -> None:
    chain = replace(equal_units(16), nested_bytes=2**20)
    exact = {found.cost: found.peak_bytes for found in frontier(equal_units(16))}
    for found in frontier(chain):
        assert found.gap <= found.cost
        assert min(cost for cost, peak in exact.items() if peak <= found.peak_bytes) >= found.cost - found.gap - 1e-12
