"""Two or three sentences that a person would say about a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rematbench.records.run import Row
from rematbench.reporting.sentences import failures, training
from rematbench.units import format_percent, format_ratio


def sentences(rows: Sequence[Row]) -> list[str]:
    """Say what saves most, what costs memory instead, and whether training stays the same."""
    placed = [row for row in rows if row.is_ok and not row.is_plain]
    return [*_best(placed), *_worst(placed), *training(rows, _named), *failures(rows, _named)]


def _named(row: Row) -> str:
    return f"{row.cells['model']} `{row.name}`"


def _best(rows: Sequence[Row]) -> Iterator[str]:
    """Name the greatest saving among the placements that leave training alone, the cheaper of two alike."""
    saving = [
        (row.cells["peak_ratio"], row.step_ratio.median if row.step_ratio else 0.0, place)
        for place, row in enumerate(rows)
        if row.cells["peak_ratio"] is not None
        and row.cells["peak_ratio"] < 0.99  # less is not worth a sentence
        and row.cells["gradients"] != "different"
    ]
    if saving:
        best = rows[min(saving)[-1]]
        price = f" for {format_ratio(best.step_ratio.median)} the step time" if best.step_ratio else ""
        saved = format_percent(1 - best.cells["peak_ratio"])
        yield f"`{best.name}` saves {saved} of the peak of {best.cells['model']}{price}."


def _worst(rows: Sequence[Row]) -> Iterator[str]:
    """Name the placement that makes a model hold most more than its plain step does."""
    ratios = {
        row.cells["held_bytes"] / row.plain["held_bytes"]: row
        for row in rows
        if row.cells["held_bytes"] is not None and row.plain and row.plain["held_bytes"]
    }
    worst = max(ratios, default=0.0)
    if worst > 1.01:
        row = ratios[worst]
        more = f"after forward it holds {format_ratio(worst)} what `none` does"
        yield f"`{row.name}` on {row.cells['model']} costs memory: {more}."
