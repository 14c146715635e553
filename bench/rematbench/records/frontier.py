"""Which placements are worth having: no other is better in both memory and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rematbench.records.columns import Row
from rematbench.records.measurement import Status
from rematbench.records.statistics import step_median_s, step_ratio


def cost(row: Row, paired: bool) -> tuple[int, float] | None:
    """Return (peak bytes, step time) of a row that has both; `paired` takes the time as a ratio to the plain step."""
    memory, timing = row.case.memory, row.case.timing
    if row.case.status is not Status.OK or memory is None or timing is None:
        return None
    return memory.peak_bytes, step_ratio(timing).median if paired else step_median_s(timing)


def dominated(rows: Iterable[Row]) -> set[str]:
    """Return the placements of one model that another is at least as good as in both, and better in one.

    Times are ratios to the plain step where every row has one, else seconds; the two are never held against each other.
    """
    members = list(rows)
    paired = all(row.case.timing.plain_s for row in members if row.case.timing)
    costs = {row.case.placement: found for row in members if (found := cost(row, paired)) is not None}
    return costs.keys() - not_beaten(costs)


def not_beaten(costs: Mapping[str, tuple[int, float]]) -> set[str]:
    """Return the names whose (bytes, time) no other is at least as good as in both, and better in one."""
    return {name for name, own in costs.items() if not any(_beats(other, own) for other in costs.values())}


def _beats(other: tuple[int, float], own: tuple[int, float]) -> bool:
    return other != own and other[0] <= own[0] and other[1] <= own[1]
