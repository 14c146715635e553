"""What the page answers to a budget that its reader types: a row's part in it, ready for the script that picks it."""

from __future__ import annotations

from collections.abc import Sequence

from rematbench.records.run import Cost, Row
from rematbench.reporting.gathering import Series
from rematbench.reporting.texts import texts_of

COSTS: tuple[Cost, ...] = ("time", "flops")


def choice(row: Row) -> dict[str, str]:
    """Return, by cost, what follows "the cheapest placement is" where the answer is this row."""
    texts = texts_of(row)
    ratio = f", {texts['ratio']} none's step time{_interval(row, texts)}" if texts["ratio"] else ""
    prices = {"time": f"{texts['step']} a step{ratio}", "flops": f"{texts['recompute']} recomputed"}
    return {cost: f"{texts['placement']}: it peaks at {texts['peak']} for {prices[cost]}" for cost in _costs(row)}


def brief(row: Row) -> dict[str, str]:
    """Return, by cost, a row named beside the answer."""
    texts = texts_of(row)
    prices = {"time": texts["step"], "flops": texts["recompute"]}
    return {cost: f"{texts['placement']}, {texts['peak']} for {prices[cost]}" for cost in _costs(row)}


def _costs(row: Row) -> list[Cost]:
    return [cost for cost in COSTS if row.fits_a_plot and row.cost(cost) is not None]


def _interval(row: Row, texts: dict[str, str]) -> str:
    if row.is_plain or not texts["interval"]:
        return ""
    verdict = ": not told from none's" if row.cells["step_ratio_low"] < 1 < row.cells["step_ratio_high"] else ""
    return f" (95 % interval {texts['interval']}{verdict})"


def training(row: Row) -> str:
    """Return the sentence on training where the answer is this row; nothing cheaper with equal buffers is known."""
    if row.is_plain:
        return "That is no checkpointing at all."
    return {
        None: "Whether training stays the same was not judged.",
        "equal": "Training stays the same.",
        "different": "Its gradients are none's, but buffers end up different.",
    }[row.cells["buffers"]]


def unanswerable(series: Series) -> dict[str, str | None]:
    """Return, by cost, why no budget has an answer; None where one may have."""
    peaks = [row for row in series.rows if row.fits_a_plot]
    if not peaks:
        return dict.fromkeys(COSTS, "nothing here has a peak.")
    return {
        "time": None if _any(peaks, "time") else "no placement was timed; choose recomputed FLOPs.",
        "flops": None if _any(peaks, "flops") else "no operations were counted; choose step time.",
    }


def least(series: Series) -> str:
    """Name the row with the least peak; empty where none has one."""
    peaks = [row for row in series.rows if row.fits_a_plot]
    if not peaks:
        return ""
    texts = texts_of(min(peaks, key=lambda row: row.cells["peak_bytes"]))
    return f"{texts['placement']} with {texts['peak']}"


def undrawable(rows: Sequence[Row]) -> dict[str, str | None]:
    """Return, by cost, what stands in place of a chart without points; None where there are points."""
    peaks = [row for row in rows if row.fits_a_plot]
    if not peaks:
        text = "No placement of this model has a peak: there is nothing to draw. The table says why."
        return dict.fromkeys(COSTS, text)
    return {
        "time": None if _any(peaks, "time") else "Nothing was timed here: choose recomputed FLOPs above.",
        "flops": None if _any(peaks, "flops") else "No operations were counted here: choose step time above.",
    }


def _any(rows: Sequence[Row], cost: Cost) -> bool:
    return any(row.cost(cost) is not None for row in rows)
