"""Bounds never exceed what some schedule reaches."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from scipy.optimize import Bounds, LinearConstraint, milp
from tests.solver.brute import best
from tests.solver.chains import chains, chains_beyond, long_chain

from rematbench.solver.bound import least_cost, least_working_set_bytes
from rematbench.solver.chain import UnitChain
from rematbench.solver.simulate import simulate
from rematbench.solver.solve import frontier

ROUNDING = 1e-6


@given(chains(most=4) | chains_beyond(most=4))
@settings(max_examples=150, deadline=None)
def test_no_schedule_beats_the_bounds(chain: UnitChain) -> None:
    for peak, cost in best(chain):
        assert least_working_set_bytes(chain) <= peak
        assert least_cost(chain, peak) <= cost + ROUNDING


@given(chains(most=9))
@settings(max_examples=40, deadline=None)
def test_the_bound_falls_as_the_budget_rises_to_nothing_for_the_plain_step(chain: UnitChain) -> None:
    peaks = [found.peak_bytes for found in frontier(chain, points=4)] + [simulate(chain, ()).peak_bytes]
    bounds = [least_cost(chain, peak) for peak in sorted(peaks)]
    assert all(after <= before + ROUNDING for before, after in pairwise(bounds))
    assert bounds[-1] == 0


def test_below_the_largest_working_set_nothing_fits() -> None:
    chain = long_chain(6)
    assert least_cost(chain, least_working_set_bytes(chain) - 1) == math.inf


def test_the_bound_says_something() -> None:
    """On twelve blocks it is a good part of the optimum somewhere, and never zero where memory is short."""
    chain = long_chain(12)
    found = frontier(chain, points=12)
    shares = [least_cost(chain, one.peak_bytes) / one.cost for one in found if one.cost]
    assert max(shares) > 0.5
    assert shares[0] > 0.1
    assert max(shares) <= 1 + ROUNDING


def test_another_way_to_solve_the_program_comes_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixed-integer program without integers, which goes through another part of HiGHS."""
    chain = long_chain(12)
    peaks = [one.peak_bytes for one in frontier(chain, points=12)]
    expected = [least_cost(chain, peak) for peak in peaks]

    def by_milp(costs: Any, A_ub: Any, b_ub: Any, **_options: object) -> Any:  # noqa: N803
        return milp(costs, bounds=Bounds(0, 1), constraints=LinearConstraint(A_ub, ub=b_ub))

    monkeypatch.setattr("scipy.optimize.linprog", by_milp)
    assert [least_cost(chain, peak) for peak in peaks] == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert max(expected) > 0


def test_the_working_set_is_reached_by_a_single_unit() -> None:
    chain = long_chain(1)
    assert least_working_set_bytes(chain) == frontier(chain, points=None)[0].peak_bytes
