"""The best schedules of a chain: exact dynamic programming over ranges of units.

The recursion is that of optimal checkpointing for heterogeneous chains (Beaumont, Eyraud-Dubois, Herrmann, Joly and
Shilova, HAL hal-02352969), here with whole step functions instead of memory slots. To process units s to t-1 with the
input of s at hand, either run s plainly and go on at s+1, or make s to k-1 a region, go on at k, and redo the region
later by the same recursion. A state also says which tensors of value s are charged already: nothing else of the past
matters, for a tensor of a later value that was seen before s is one of value s.

A range's peaks are relative to what is held when it begins, but for gradients: what is live of them depends on the
position alone, so they are counted where they occur.
"""

from __future__ import annotations

from rematbench.errors import RematbenchError
from rematbench.solver.chain import UnitChain
from rematbench.solver.schedule import Schedule
from rematbench.solver.simulate import simulate
from rematbench.solver.tables import Tables
from rematbench.units import format_bytes

POINTS = 192
"""How many points a range's list has unless told.

On 100 blocks of random sizes that takes a few seconds, where the exact frontier of ten thousand points takes half a
minute; it costs at most 4 % of a forward more than the optimum at the same peak. Up to a dozen such blocks nothing is
left out.
"""

LONG = 120
"""Units beyond which regions begin and end at multiples of a stride only, unless told."""

_UNLIMITED = 1 << 49


class InfeasibleError(RematbenchError):
    """A budget below what any schedule needs.

    Attributes:
        least_peak_bytes: the least peak of any schedule.
        unit: the name of the unit at which it occurs.
    """

    def __init__(self, budget_bytes: int, least_peak_bytes: int, unit: str) -> None:
        super().__init__(
            f"no schedule fits into {format_bytes(budget_bytes)} ({budget_bytes} bytes): "
            f"{unit} needs {format_bytes(least_peak_bytes)} ({least_peak_bytes} bytes), whatever is recomputed"
        )
        self.least_peak_bytes = least_peak_bytes
        self.unit = unit


def frontier(chain: UnitChain, *, points: int | None = POINTS, stride: int | None = None) -> tuple[Schedule, ...]:
    """Return every schedule that no other beats in peak and cost, by rising peak and falling cost.

    Args:
        chain: the cost model.
        points: how many points the list of a range may have; None for all. Where a list would be longer some are left
            out, so that schedules stay valid and their figures true, but a better one may have been missed. The
            least peak and the cost 0 are always there.
        stride: regions longer than twice this begin and end at its multiples only; 1 considers every region. Unless
            told it is 1 up to `LONG` units and grows with them from there, the lists as much shorter: 1,000 units take
            some 20 seconds.
    """
    points, stride = _effort(chain, points, stride)
    tables = Tables(chain, limit=_UNLIMITED, points=points, stride=stride)
    every = [tables.schedule(number) for number in range(len(tables.top[0, frozenset()].peaks))]
    kept: list[Schedule] = []
    for schedule in sorted(every, key=lambda schedule: (schedule.peak_bytes, schedule.cost)):
        if not kept or schedule.cost < kept[-1].cost:
            kept.append(schedule)
    return tuple(kept)


def solve(chain: UnitChain, budget_bytes: int, *, points: int | None = POINTS, stride: int | None = None) -> Schedule:
    """Return the cheapest schedule that fits; `points` and `stride` as for `frontier`.

    Raises:
        InfeasibleError: none fits, whatever `points`; of those considered where `stride` is above 1.
    """
    points, stride = _effort(chain, points, stride)
    tables = Tables(chain, limit=budget_bytes, points=points, stride=stride)
    if found := len(tables.top[0, frozenset()].peaks):
        return tables.schedule(found - 1)
    best = Tables(chain, limit=_UNLIMITED, points=1, stride=stride).schedule(0)
    unit = chain.units[simulate(chain, best.regions).peak_unit].name
    raise InfeasibleError(budget_bytes, best.peak_bytes, unit)


def _effort(chain: UnitChain, points: int | None, stride: int | None) -> tuple[int | None, int]:
    """Fill in a stride that was not given; lists are as much shorter then."""
    if stride is not None:
        return points, stride
    stride = max(1, -(-len(chain.units) // LONG))
    return points if points is None else max(1, points // stride), stride
