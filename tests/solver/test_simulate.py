"""The cost model on steps small enough to add up by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rematbench.solver.chain import Choice, Unit, UnitChain
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import plain_levels, simulate

A, B, C, D = 1, 2, 4, 8
"""What travels at each boundary; gradients are ten times as large, so that a sum tells who is in it."""


def unit(at: int, **changes: object) -> Unit:
    plain = Choice(
        save="everything",
        saved_bytes=100,
        saved_tensors=frozenset({at}),
        forward_peak_bytes=130,
        backward_peak_bytes=1000,
    )
    cost = 10.0 ** (at % 3)
    given = {"choices": (plain,), "forward_bytes": 30, "forward_cost": cost, "rerun_cost": cost / 2}
    return Unit(name=f"unit{at}", **{**given, "parameter_gradient_bytes": 10_000 * (at + 1), **changes})  # type: ignore[arg-type]


def chain_of_three(**changes: object) -> UnitChain:
    return UnitChain(
        tensor_bytes=(A, B, C, D),
        tensor_gradient_bytes=(10 * A, 10 * B, 10 * C, 10 * D),
        values=tuple(frozenset({at}) for at in range(4)),
        units=(unit(0, **changes), unit(1), unit(2)),
        joins=(True, True),
    )


def test_a_plain_step() -> None:
    """The peak is the end: the gradients of all parameters and of what went in."""
    figures = simulate(chain_of_three(), ())
    assert figures.peak_bytes == 60_000 + 10 * A
    assert (figures.peak_unit, figures.cost) == (0, 0)


def without_parameters() -> UnitChain:
    chain = chain_of_three()
    units = tuple(unit(at, parameter_gradient_bytes=0) for at in range(3))
    return UnitChain(
        tensor_bytes=chain.tensor_bytes,
        tensor_gradient_bytes=chain.tensor_gradient_bytes,
        values=chain.values,
        units=units,
        joins=chain.joins,
    )


@pytest.mark.parametrize(
    ("regions", "peak_bytes", "peak_unit", "cost"),
    [
        pytest.param([], (300 + A + B + C) + 10 * D + 1000, 2, 0, id="plain: in the last backward all is held"),
        pytest.param([(0, 2)], A + (200 + B) + 10 * C + 1000, 1, 1 + 5, id="two units hold their input alone"),
        pytest.param([(0, 3)], (A + 10 * D) + (300 + B + C) + 1000, 2, 1 + 10 + 50, id="the whole chain saves nothing"),
        pytest.param([(0, 3), (0, 2)], A + (200 + B) + 10 * C + 1000, 1, (11 + 50) + (1 + 5), id="nested"),
        pytest.param([(0, 3), (1, 3)], (300 + A + B + C) + 10 * D + 1000, 2, 1 + (10 + 50), id="ends in a region"),
        pytest.param([(2, 3)], (200 + A + B + C) + 10 * D + 100 + 1000, 2, 50, id="the last block rule"),
    ],
)
def test_by_hand(regions: list[tuple[int, int]], peak_bytes: int, peak_unit: int, cost: float) -> None:
    figures = simulate(without_parameters(), [UnitRegion(start=start, stop=stop) for start, stop in regions])
    assert (figures.peak_bytes, figures.peak_unit, figures.cost) == (peak_bytes, peak_unit, cost)


def test_a_tensor_that_travels_along_counts_once() -> None:
    """Three regions that all take the same skip hold it together; it is their only charge."""
    chain = UnitChain(
        tensor_bytes=(1000,),
        tensor_gradient_bytes=(0,),
        values=(frozenset({0}),) * 4,
        units=tuple(
            Unit(
                name=str(at),
                choices=(Choice(save="everything", saved_bytes=5, forward_peak_bytes=0, backward_peak_bytes=0),),
                forward_bytes=0,
                forward_cost=1,
                rerun_cost=1,
            )
            for at in range(3)
        ),
        joins=(True, True),
    )
    regions = [UnitRegion(start=at, stop=at + 1) for at in range(3)]
    assert simulate(chain, regions).peak_bytes == 1000 + 5


def test_what_is_fixed_is_held_whatever_the_placement() -> None:
    chain = chain_of_three(fixed_bytes=10**6)
    assert simulate(chain, [UnitRegion(start=0, stop=3)]).peak_bytes > 10**6
    assert simulate(chain, ()).peak_bytes == 10**6 + (100 + A) + 50_000 + 10 * B + 1000


def test_every_region_costs_what_a_region_costs_once() -> None:
    """A nested one too, as its own backward comes once; a selective choice has it in its own cost."""
    matmuls = Choice(
        save="matmuls", saved_bytes=7, forward_peak_bytes=9, backward_peak_bytes=20_000, recompute_cost=0.25
    )
    chain = chain_of_three(choices=(unit(0).choices[0], matmuls))
    dear = replace(chain, region_cost=1000.0)
    nested = [UnitRegion(start=0, stop=2), UnitRegion(start=0, stop=1), UnitRegion(start=2, stop=3)]
    assert simulate(dear, nested).cost == simulate(chain, nested).cost + 3000
    assert simulate(dear, [UnitRegion(start=0, stop=1, save="matmuls")]).cost == 0.25


def test_a_selective_choice_holds_its_input_and_costs_what_it_redoes() -> None:
    matmuls = Choice(
        save="matmuls", saved_bytes=7, forward_peak_bytes=9, backward_peak_bytes=20_000, recompute_cost=0.25
    )
    chain = without_parameters()
    last = unit(2, parameter_gradient_bytes=0, choices=(chain.units[2].choices[0], matmuls))
    chain = UnitChain(
        tensor_bytes=chain.tensor_bytes,
        tensor_gradient_bytes=chain.tensor_gradient_bytes,
        values=chain.values,
        units=(*chain.units[:2], last),
        joins=chain.joins,
    )
    figures = simulate(chain, [UnitRegion(start=2, stop=3, save="matmuls")])
    assert (figures.peak_bytes, figures.cost) == (200 + A + B + C + 7 + 10 * D + 20_000, 0.25)
    with pytest.raises(ValueError, match="does not fit"):
        simulate(chain, [UnitRegion(start=0, stop=3), UnitRegion(start=2, stop=3, save="matmuls")])


def with_units(chain: UnitChain, change: Callable[[int], dict[str, object]], **changes: object) -> UnitChain:
    units = tuple(replace(unit, **change(at)) for at, unit in enumerate(chain.units))  # type: ignore[arg-type]
    return replace(chain, units=units, **changes)  # type: ignore[arg-type]


def test_what_passes_is_there_when_a_unit_first_runs_and_not_when_it_is_run_again() -> None:
    """In the forward alone 7000 is above all; the peak of the recomputation is as if it were not."""
    chain = with_units(without_parameters(), lambda at: {"passing_bytes": 7000} if at == 1 else {})
    assert simulate(chain, ()).peak_bytes == (100 + A) + B + 7000 + 130
    assert simulate(chain, [UnitRegion(start=0, stop=2)]).peak_bytes == A + B + 7000 + 30


def test_between_two_units() -> None:
    """Before unit 2, above what is held and goes into it; after its backward, above what is held with no gradient."""
    before = with_units(without_parameters(), lambda at: {"before_bytes": 7000} if at == 2 else {})
    after = with_units(without_parameters(), lambda at: {"after_bytes": 7000} if at == 2 else {})
    assert simulate(before, ()).peak_bytes == (200 + A + B) + C + 7000
    assert simulate(after, ()).peak_bytes == (200 + A + B) + 7000
    assert simulate(before, [UnitRegion(start=0, stop=2)]).peak_bytes == A + C + 7000
    assert simulate(after, [UnitRegion(start=0, stop=2)]).peak_bytes == A + 7000


def test_what_else_is_live_in_backward() -> None:
    """5000 when the backward of unit 1 begins, also where a region that ends with it is run again first."""
    chain = replace(without_parameters(), further_bytes=(0, 0, 5000, 0))
    assert simulate(chain, ()).peak_bytes == (200 + A + B) + 10 * C + 5000 + 1000
    assert simulate(chain, [UnitRegion(start=0, stop=2)]).peak_bytes == A + (200 + B) + 10 * C + 5000 + 1000


def test_a_recomputation_ends_at_the_last_saved_tensor() -> None:
    """Of the last unit of a region not all is run again; of those before it, and in the forward, all is."""
    chain = without_parameters()
    choices = tuple((replace(unit.choices[0], forward_peak_bytes=4000, rerun_peak_bytes=2000),) for unit in chain.units)
    chain = with_units(chain, lambda at: {"choices": choices[at]})
    assert simulate(chain, [UnitRegion(start=2, stop=3)]).peak_bytes == (100 + A) + B + 4000
    every = [UnitRegion(start=at, stop=at + 1) for at in range(3)]
    assert simulate(chain, every).peak_bytes == (A + B + C) + 10 * D + 2000
    assert simulate(replace(chain, rerun_bytes=500), every).peak_bytes == (A + B + C) + 10 * D + 2000 + 500
    assert simulate(chain, [UnitRegion(start=0, stop=2), *every[2:]]).peak_bytes == A + 10 * C + 4000


def test_what_passes_a_region_by_is_not_kept_by_it() -> None:
    """A skip of 1000 from the first unit to the last: only a plain last unit holds it then."""
    chain = without_parameters()
    values = (frozenset({0}), frozenset({1, 4}), frozenset({2, 4}), frozenset({3}))
    chain = replace(chain, tensor_bytes=(A, B, C, D, 1000), tensor_gradient_bytes=(10, 20, 40, 80, 0), values=values)
    middle = [UnitRegion(start=1, stop=2), UnitRegion(start=2, stop=3)]
    assert simulate(chain, middle).peak_bytes == (100 + A + B + 1000 + C) + 80 + (100 + 1000)
    passing = with_units(chain, lambda at: {"inputs": frozenset({at, 4} if at == 2 else {at})})
    # At unit 2 as before; but when unit 1 is run again, the skip is gone with what has read it.
    assert simulate(passing, middle).peak_bytes == (100 + A + B + 1000 + C) + 80 + (100 + 1000)
    last = with_units(
        passing, lambda at: {"choices": (replace(unit(at).choices[0], backward_peak_bytes=9000 * (at == 1)),)}
    )
    assert simulate(last, middle).peak_bytes == (100 + A + B) + 40 + (100 + 9000)
    held = with_units(last, lambda _: {"inputs": None})
    assert simulate(held, middle).peak_bytes == (100 + A + B + 1000) + 40 + (100 + 9000)


def test_a_region_inside_another_keeps_its_state_until_the_outer_one_is_run_again() -> None:
    chain = replace(without_parameters(), nested_bytes=300)
    nested = [UnitRegion(start=0, stop=2), UnitRegion(start=0, stop=1)]
    alone = simulate(without_parameters(), [*nested, UnitRegion(start=2, stop=3)])
    assert simulate(chain, [*nested, UnitRegion(start=2, stop=3)]).peak_bytes == alone.peak_bytes + 300
    # Without the last region the peak is in the outer one's backward or before it, whichever is more.
    assert simulate(chain, nested).peak_bytes == A + 300 + (100 + C) + 10 * D + 1000


def test_what_autocast_keeps_of_a_region_is_there_to_its_end() -> None:
    """A plain unit saves all but 10 of its copies of 400 anyway; a region has no less of them in the forward."""
    chain = without_parameters()
    choices = tuple((replace(unit.choices[0], lingering_bytes=10, forward_peak_bytes=5000),) for unit in chain.units)
    chain = with_units(
        chain,
        lambda at: {"choices": choices[at], "lingering_bytes": 400, "with_lingering": True, "forward_bytes": 5000},
    )
    assert simulate(chain, ()).peak_bytes == (200 + A + B) + C + 20 + 5000
    assert simulate(chain, [UnitRegion(start=0, stop=2)]).peak_bytes == A + C + 800 + 5000
    assert simulate(chain, [UnitRegion(start=0, stop=1)]).peak_bytes == A + (100 + B) + C + 410 + 5000
    outside = with_units(chain, lambda at: {"with_lingering": at < 2})
    assert simulate(outside, [UnitRegion(start=0, stop=2)]).peak_bytes == A + B + 400 + 5000


def test_the_levels_of_the_plain_step() -> None:
    first, second, third = plain_levels(chain_of_three(fixed_bytes=7))
    assert (first.forward_bytes, second.forward_bytes, third.forward_bytes) == (
        7 + A,
        (107 + A) + B,
        (207 + A + B) + C,
    )
    assert third.backward_bytes == (307 + A + B + C) + 10 * D
    assert second.backward_bytes == (207 + A + B) + 30_000 + 10 * C
    assert (third.held_before_bytes, third.end_bytes) == (207 + A + B, 207 + A + B + 30_000 + 10 * C)
    assert (first.held_before_bytes, first.end_bytes) == (0, 60_000 + 10 * A)


@pytest.mark.parametrize(
    "regions",
    [
        [UnitRegion(start=0, stop=2), UnitRegion(start=1, stop=3)],
        [UnitRegion(start=0, stop=2), UnitRegion(start=0, stop=2)],
        [UnitRegion(start=0, stop=4)],
        [UnitRegion(start=-1, stop=1)],
        [UnitRegion(start=1, stop=1)],
        [UnitRegion(start=0, stop=1, save="matmuls")],
    ],
    ids=str,
)
def test_regions_that_mean_nothing_are_refused(regions: list[UnitRegion]) -> None:
    with pytest.raises(ValueError, match="UnitRegion"):
        simulate(chain_of_three(), regions)


@pytest.mark.parametrize("ends_with_the_chain", [True, False])
def test_a_thousand_levels_of_nesting(ends_with_the_chain: bool) -> None:
    """Deeper than Python's own recursion goes. Nested by their ends, unit i runs once more per region around it."""
    count = 1000
    chain = UnitChain(
        tensor_bytes=(1,) * (count + 1),
        tensor_gradient_bytes=(0,) * (count + 1),
        values=tuple(frozenset({at}) for at in range(count + 1)),
        units=tuple(unit(at, forward_cost=1.0, rerun_cost=1.0, parameter_gradient_bytes=0) for at in range(count)),
        joins=(True,) * (count - 1),
    )
    spans = [(at, count) if ends_with_the_chain else (0, at + 1) for at in range(count)]
    figures = simulate(chain, [UnitRegion(start=start, stop=stop) for start, stop in spans])
    assert figures.cost == (count if ends_with_the_chain else count * (count + 1) / 2)
