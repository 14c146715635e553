"""The cost model on steps small enough to add up by hand."""

from dataclasses import replace

import pytest

from rematbench.solver.chain import Choice, Unit, UnitChain
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import simulate

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
