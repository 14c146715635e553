"""Which placements are worth having: no other is at least as good in both memory and cost, and better in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rematbench.records.run import Cost, Row


def frontier(rows: Iterable[Row], cost: Cost = "time") -> set[str]:
    """Return the placements that no other beats, of those with a peak and a cost.

    Args:
        rows: of one model, device and dtype.
        cost: `time` or recomputed `flops`. Times are ratios to the plain step, paired within rounds, where every timed
            row has one; else seconds. The two are never held against each other.
    """
    costs = _costs([row for row in rows if row.fits_a_plot], cost)
    return {name for name, own in costs.items() if not any(_beats(other, own) for other in costs.values())}


def dominated(rows: Iterable[Row], cost: Cost = "time") -> set[str]:
    """Return the placements that another beats; rows and cost as in `frontier`."""
    members = [row for row in rows if row.fits_a_plot]
    return _costs(members, cost).keys() - frontier(members, cost)


def _costs(rows: Sequence[Row], cost: Cost) -> dict[str, tuple[int, float]]:
    paired = cost == "time" and all(row.step_ratio for row in rows if row.step_s)
    found = {
        row.name: (row.cells["peak_bytes"], row.step_ratio.median if paired and row.step_ratio else row.cost(cost))
        for row in rows
    }
    return {name: (peak, spent) for name, (peak, spent) in found.items() if spent is not None}


def _beats(other: tuple[int, float], own: tuple[int, float]) -> bool:
    return other != own and other[0] <= own[0] and other[1] <= own[1]
