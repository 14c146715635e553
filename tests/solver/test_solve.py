"""The solver against every schedule there is, and on chains too long for that."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from tests.solver.brute import best
from tests.solver.chains import chains, equal_units, long_chain

from rematbench.errors import RematbenchError
from rematbench.solver.chain import Choice, Unit, UnitChain
from rematbench.solver.simulate import simulate
from rematbench.solver.solve import InfeasibleError, frontier, solve


@given(chains(most=5))
@settings(max_examples=150, deadline=None)
def test_the_frontier_is_that_of_every_schedule(chain: UnitChain) -> None:
    assert [(found.peak_bytes, found.cost) for found in frontier(chain, points=None)] == best(chain)


@given(chains(most=7))
@settings(max_examples=5, deadline=None)
def test_up_to_seven_units(chain: UnitChain) -> None:
    assert [(found.peak_bytes, found.cost) for found in frontier(chain, points=None)] == best(chain)


@given(chains(most=14))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("effort", [{"points": None}, {"points": 3}, {"points": None, "stride": 3}], ids=str)
def test_a_schedule_simulates_to_what_it_claims(effort: dict[str, int], chain: UnitChain) -> None:
    every = frontier(chain, **effort)
    for found in every:
        figures = simulate(chain, found.regions)
        assert (figures.peak_bytes, figures.cost) == (found.peak_bytes, found.cost)
    assert [found.peak_bytes for found in every] == sorted({found.peak_bytes for found in every})
    assert [found.cost for found in every] == sorted({found.cost for found in every}, reverse=True)


def test_a_thinned_list_claims_what_its_regions_are_worth() -> None:
    """Found by the test above: the way back is cheaper than the sum that led there, whose cheaper half was thinned."""

    def choice(save: str, saved: int = 0, backward: int = 0, recompute: float = 0.0) -> Choice:
        return Choice(
            save=save,
            saved_bytes=saved,
            forward_peak_bytes=0,
            backward_peak_bytes=backward,
            recompute_cost=recompute,
        )

    def unit(*choices: Choice, cost: float = 0.0, gradients: int = 0, can_be_region: bool = True) -> Unit:
        return Unit(
            name="unit",
            choices=choices,
            forward_bytes=0,
            forward_cost=cost,
            rerun_cost=cost,
            parameter_gradient_bytes=gradients,
            can_be_region=can_be_region,
        )

    chain = UnitChain(
        tensor_bytes=(0, 0),
        tensor_gradient_bytes=(4, 0),
        values=(frozenset(), frozenset(), frozenset({1}), frozenset(), frozenset({0})),
        units=(
            unit(choice("everything", backward=5), choice("matmuls", recompute=1.0), gradients=6),
            unit(choice("everything"), gradients=7, can_be_region=False),
            unit(choice("everything", saved=10, backward=3), choice("matmuls", recompute=2.0), cost=1.0),
            unit(choice("everything")),
        ),
        joins=(True, True, True),
    )
    assert [(found.peak_bytes, found.cost) for found in frontier(chain, points=3)] == [(13, 1.0), (14, 0.0)]


@given(chains(most=10))
@settings(max_examples=60, deadline=None)
def test_a_budget_gets_the_cheapest_that_fits(chain: UnitChain) -> None:
    every = frontier(chain, points=None)
    for number, found in enumerate(every):
        assert solve(chain, found.peak_bytes, points=None).cost == found.cost
        if number:
            assert solve(chain, found.peak_bytes - 1, points=None).cost == every[number - 1].cost


@given(chains(most=10))
@settings(max_examples=60, deadline=None)
def test_too_small_a_budget_names_the_least_peak_and_its_unit(chain: UnitChain) -> None:
    least = frontier(chain, points=None)[0]
    with pytest.raises(InfeasibleError, match="no schedule fits into") as caught:
        solve(chain, least.peak_bytes - 1)
    assert isinstance(caught.value, RematbenchError)
    assert caught.value.least_peak_bytes == least.peak_bytes
    assert caught.value.unit in {unit.name for unit in chain.units}


def test_the_unit_named_is_the_one_that_needs_most() -> None:
    chain = long_chain(8)
    hungry = replace(chain.units[5], choices=(replace(chain.units[5].choices[0], backward_peak_bytes=2**30),))
    chain = replace(chain, units=(*chain.units[:5], hungry, *chain.units[6:]))
    with pytest.raises(InfeasibleError, match=r"blocks\[5\] needs 1\.0\d GiB"):
        solve(chain, 2**20)


def test_thinning_loses_little_and_never_the_ends() -> None:
    """On 30 units the lists hold up to 700 points; the bound is what was seen, rounded up."""
    chain = long_chain(30)
    exact, thinned = frontier(chain, points=None), frontier(chain, points=100)
    assert len(thinned) <= 100 < len(exact)
    assert thinned[0].peak_bytes == exact[0].peak_bytes
    assert thinned[-1].cost == 0 == exact[-1].cost
    forward = sum(unit.forward_cost for unit in chain.units)
    for found in thinned:
        optimum = min(other.cost for other in exact if other.peak_bytes <= found.peak_bytes)
        assert optimum - 1e-12 <= found.cost <= optimum + 0.05 * forward


@pytest.mark.parametrize("solver", [frontier, lambda chain: (solve(chain, 2**40),)])
def test_one_unit(solver: Callable[[UnitChain], tuple[object, ...]]) -> None:
    assert len(solver(long_chain(1))) >= 1


@pytest.mark.parametrize("scale", [1, 2**20, 2**30, 2**45])
def test_two_equal_units_of_any_size(scale: int) -> None:
    """Sizes that no machine has are refused, where a frontier without a point came of them."""
    chain = equal_units(2)
    units = tuple(
        replace(unit, choices=tuple(replace(choice, saved_bytes=choice.saved_bytes * scale) for choice in unit.choices))
        for unit in chain.units
    )
    chain = replace(chain, units=units)
    if scale > 2**20:
        for solver in (frontier, lambda one: solve(one, 2**70)):
            with pytest.raises(RematbenchError, match="more than any machine has"):
                solver(chain)
    else:
        assert frontier(chain)[-1].cost == solve(chain, 2**70).cost == 0
