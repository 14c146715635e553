"""A chain refuses numbers that mean nothing."""

from dataclasses import replace

import pytest
from tests.solver.chains import long_chain

from rematbench.solver.chain import Choice, Unit, UnitChain

CHAIN = long_chain(3)
UNIT = CHAIN.units[1]
SELECTIVE = Choice(save="half", saved_bytes=0, forward_peak_bytes=0, backward_peak_bytes=0, recompute_cost=1.0)


def test_sizes_add_up() -> None:
    assert CHAIN.bytes_of({0, 2}) == CHAIN.tensor_bytes[0] + CHAIN.tensor_bytes[2]
    assert CHAIN.gradient_bytes(3) == CHAIN.tensor_gradient_bytes[3]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"joins": (True,)}, "n - 1 joins"),
        ({"values": CHAIN.values[:3]}, r"n \+ 1 values"),
        ({"units": (), "values": (frozenset(),), "joins": ()}, "one at least"),
        ({"tensor_gradient_bytes": (0,)}, "its gradient's bytes"),
        (
            {"values": (frozenset({0}), frozenset({1}), frozenset({0}), frozenset({3}))},
            "values 0 and 2 is not in value 1",
        ),
        (
            {"values": (frozenset({0}), frozenset({2}), frozenset({2}), frozenset({3}))},
            "neither its input nor its output",
        ),
        ({"units": (CHAIN.units[0], replace(UNIT, fixed_bytes=1), CHAIN.units[2])}, "cannot join the unit before it"),
    ],
)
def test_a_chain_that_does_not_fit_together(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(CHAIN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"choices": ()}, "the plain one"),
        ({"choices": (SELECTIVE,)}, "recomputes nothing"),
        ({"rerun_cost": 2 * UNIT.forward_cost}, "rerun_cost"),
        ({"can_be_region": False}, "cannot be one"),
    ],
)
def test_a_unit_that_contradicts_itself(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(UNIT, **changes)  # type: ignore[arg-type]


def test_fixed_bytes_may_stand_where_nothing_joins() -> None:
    units: tuple[Unit, ...] = (CHAIN.units[0], replace(UNIT, fixed_bytes=1), CHAIN.units[2])
    assert isinstance(replace(CHAIN, units=units, joins=(False, True)), UnitChain)
