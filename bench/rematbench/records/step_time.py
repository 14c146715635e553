"""A row's step time as tables and charts show it."""

from __future__ import annotations

from dataclasses import dataclass

from rematbench.records.measurement import Status
from rematbench.records.run import Cells


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """A step time with what is known of its spread; `low` and `high` are None where nothing is."""

    median: float
    low: float | None = None
    high: float | None = None


def step_time(cells: Cells, plain_s: float | None) -> Seconds | None:
    """Return the plain step's median times the paired ratio with its interval, where there are both.

    Else the row's own median with its quartiles' distance about it; None for a row without a time, or that failed.
    """
    median = cells["step_median_s"]
    if median is None or cells["status"] != Status.OK:
        return None
    if plain_s is None or cells["step_ratio"] is None:
        half = (cells["step_iqr_s"] or 0.0) / 2
        return Seconds(median=median, low=median - half, high=median + half)
    ends = [None if cells[end] is None else plain_s * cells[end] for end in ("step_ratio_low", "step_ratio_high")]
    return Seconds(median=plain_s * cells["step_ratio"], low=ends[0], high=ends[1])
