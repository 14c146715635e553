"""The solver's speed, and what thinning costs, under pytest-benchmark: `make speed`. Nothing here fails by time."""

from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.solver.chains import long_chain

from rematbench.solver.bound import least_cost
from rematbench.solver.chain import UnitChain
from rematbench.solver.schedule import Schedule
from rematbench.solver.solve import POINTS, frontier, solve


@pytest.fixture(scope="module")
def hundred() -> UnitChain:
    return long_chain(100)


@pytest.fixture(scope="module")
def exact(hundred: UnitChain) -> tuple[Schedule, ...]:
    return frontier(hundred, points=None)


@pytest.mark.parametrize(("points", "stride"), [(48, 1), (POINTS, 1), (400, 1), (POINTS, 2), (POINTS // 4, 4), (24, 8)])
def test_the_frontier_of_a_hundred_units(
    benchmark: BenchmarkFixture, hundred: UnitChain, exact: tuple[Schedule, ...], points: int, stride: int
) -> None:
    """`gap` is the cost above the optimum at the same peak, at most and as a median, as a share of one forward."""
    found = benchmark.pedantic(frontier, args=(hundred,), kwargs={"points": points, "stride": stride}, rounds=1)
    forward = sum(unit.forward_cost for unit in hundred.units)
    gaps = [one.cost - min(best.cost for best in exact if best.peak_bytes <= one.peak_bytes) for one in found]
    benchmark.extra_info.update(points=len(found), gap=max(gaps) / forward, median_gap=median(gaps) / forward)
    print(
        f"\n{points} points a list, stride {stride}: {len(found)} of {len(exact)} points, above the optimum at the "
        f"same peak by {max(gaps) / forward:.2%} of a forward at most, {median(gaps) / forward:.2%} as a median"
    )


def test_a_thousand_units_at_a_budget(benchmark: BenchmarkFixture) -> None:
    chain = long_chain(1000)
    found = benchmark.pedantic(solve, args=(chain, 400 * 2**20), rounds=1)
    print(f"\n{len(found.regions)} regions, peak {found.peak_bytes} bytes, cost {found.cost:.3f}")


@pytest.mark.parametrize("count", [40, 100])
def test_the_linear_program(benchmark: BenchmarkFixture, count: int) -> None:
    """`share` is the bound as a share of what the recursion reaches at the same peak."""
    chain = long_chain(count)
    found = frontier(chain)
    middle = found[len(found) // 2]
    bound = benchmark.pedantic(least_cost, args=(chain, middle.peak_bytes), rounds=1)
    benchmark.extra_info.update(share=bound / middle.cost)
    print(f"\nthe bound is {bound / middle.cost:.1%} of the recursion's cost")
