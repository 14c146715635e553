"""Which placements are worth having: no other is at least as good in both memory and cost, and better in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rematbench.records.run import Cost, Row


def frontier(rows: Iterable[Row], cost: Cost = "time") -> set[str]:
    """Return the placements that no other beats, of those with a peak and a cost.

    Args:
        rows: of one model, device and dtype.
        cost: `time` or recomputed `flops`. Times are ratios to the plain step, paired within rounds, where every timed
            row has one; else seconds. The two are never held against each other.
    """
    return _unbeaten(_costs(rows, cost))


def dominated(rows: Iterable[Row], cost: Cost = "time") -> set[str]:
    """Return the placements that another beats; rows and cost as in `frontier`."""
    costs = _costs(rows, cost)
    return costs.keys() - _unbeaten(costs)


def _costs(every: Iterable[Row], cost: Cost) -> dict[str, tuple[int, float]]:
    rows = [row for row in every if row.fits_a_plot]
    paired = cost == "time" and all(row.step_ratio for row in rows if row.step_s)
    found = {
        row.name: (row.cells["peak_bytes"], row.step_ratio.median if paired and row.step_ratio else row.cost(cost))
        for row in rows
    }
    return {name: (peak, spent) for name, (peak, spent) in found.items() if spent is not None}


def _unbeaten(costs: Mapping[str, tuple[int, float]]) -> set[str]:
    """Return the names that no other beats, in one walk by rising peak; of equals none beats another."""
    found: set[str] = set()
    least: tuple[int, float] | None = None
    for name, own in sorted(costs.items(), key=lambda item: item[1]):
        if least is None or own[1] < least[1]:
            least = own
        if own == least:
            found.add(name)
    return found
