"""The solver's speed, and what is lost where it is not exact, under pytest-benchmark: `make speed`.

Nothing here fails by time. Times are of the CPU. With `PYTHONPATH` set to another checkout's `bench`, it measures that.
"""

import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.solver.chains import equal_units, long_chain, ways_more

from rematbench.solver.bound import least_cost
from rematbench.solver.chain import UnitChain
from rematbench.solver.schedule import Schedule
from rematbench.solver.solve import frontier, solve

MIB = 2**20


def forward(chain: UnitChain) -> float:
    """Return the cost of one whole forward, of which gaps are told as a share."""
    return sum(unit.forward_cost for unit in chain.units)


def measured(benchmark: BenchmarkFixture, solver: Callable[..., Any], *args: Any) -> Any:
    """Run it once and say the seconds of CPU, and the most memory of this process so far."""
    start = time.process_time()
    found = benchmark.pedantic(solver, args=args, rounds=1)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{time.process_time() - start:.2f} s, {resident:.0f} MiB resident at most")
    return found


@pytest.fixture(scope="module")
def exact() -> tuple[Schedule, ...]:
    return frontier(long_chain(60), points=None)


@pytest.mark.parametrize("points", [48, 192, 400])
def test_what_is_lost_on_sixty_units(benchmark: BenchmarkFixture, exact: tuple[Schedule, ...], points: int) -> None:
    """`lost` is the cost above the optimum at the same peak, at most and as a median, as a share of one forward."""
    chain = long_chain(60)
    found = benchmark.pedantic(frontier, args=(chain,), kwargs={"points": points}, rounds=1)
    lost = [one.cost - min(best.cost for best in exact if best.peak_bytes <= one.peak_bytes) for one in found]
    benchmark.extra_info.update(points=len(found), lost=max(lost) / forward(chain), median=median(lost))
    print(
        f"\n{points} points: {len(found)} of {len(exact)}, above the optimum at the same peak by "
        f"{max(lost) / forward(chain):.2%} of a forward at most, {median(lost) / forward(chain):.2%} as a median"
    )


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(long_chain(30), id="30 unlike"),
        pytest.param(long_chain(60), id="60 unlike"),
        pytest.param(long_chain(100), id="100 unlike"),
        pytest.param(ways_more(long_chain(100), nest=False), id="100 unlike, eight ways"),
        pytest.param(ways_more(long_chain(100), nest=True), id="100 unlike, eight ways that nest"),
        pytest.param(long_chain(120), id="120 unlike"),
        pytest.param(equal_units(100), id="100 alike"),
        pytest.param(equal_units(1000), id="1000 alike"),
    ],
)
def test_a_frontier(benchmark: BenchmarkFixture, chain: UnitChain) -> None:
    found = measured(benchmark, frontier, chain)
    print(f"{len(found)} points")


@pytest.mark.parametrize("ways", ["two ways", "eight ways", "eight ways that nest"])
@pytest.mark.parametrize("mib", [200, 400, 2000])
def test_a_thousand_units_at_a_budget(benchmark: BenchmarkFixture, mib: int, ways: str) -> None:
    chain = long_chain(1000)
    chain = chain if ways == "two ways" else ways_more(chain, nest=ways.endswith("nest"))
    found = measured(benchmark, solve, chain, mib * MIB)
    gap = getattr(found, "gap", float("nan")) / forward(chain)
    print(f"{found.cost / forward(chain):.2%} of a forward, at most {gap:.2%} above the least")


@pytest.mark.parametrize("count", [40, 100])
def test_the_linear_program(benchmark: BenchmarkFixture, count: int) -> None:
    """`share` is the bound as a share of what the recursion reaches at the same peak."""
    chain = long_chain(count)
    found = frontier(chain)
    middle = found[len(found) // 2]
    bound = benchmark.pedantic(least_cost, args=(chain, middle.peak_bytes), rounds=1)
    benchmark.extra_info.update(share=bound / middle.cost)
    print(f"\nthe bound is {bound / middle.cost:.1%} of the recursion's cost")
