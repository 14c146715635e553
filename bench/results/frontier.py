"""Which placements are worth having: no other is better in both memory and time."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results.columns import Row
from bench.results.record import Status
from bench.results.statistics import step_median_s, step_ratio


def cost(row: Row) -> tuple[int, float] | None:
    """Return (peak bytes, step time) of a row that has both, the time as a ratio to the plain step if there is one."""
    memory, timing = row.case.memory, row.case.timing
    if row.case.status is not Status.OK or memory is None or timing is None:
        return None
    return memory.peak_bytes, step_ratio(timing).median if timing.reference_s else step_median_s(timing)


def dominated(rows: Iterable[Row]) -> set[str]:
    """Return the placements of one model that another is at least as good as in both, and better in one."""
    costs = {row.case.placement: found for row in rows if (found := cost(row)) is not None}
    return {name for name, own in costs.items() if any(_beats(other, own) for other in costs.values())}


def _beats(other: tuple[int, float], own: tuple[int, float]) -> bool:
    return other != own and other[0] <= own[0] and other[1] <= own[1]
