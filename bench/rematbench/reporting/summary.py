"""Two or three sentences that a person would say about a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rematbench.placement.placement import PLAIN
from rematbench.records.columns import Row
from rematbench.records.measurement import Measurement, Status
from rematbench.records.statistics import step_ratio
from rematbench.units import format_percent, format_ratio


def sentences(rows: Sequence[Row]) -> list[str]:
    """Say what saves most, what costs memory instead, and whether training stays the same."""
    ok = [row for row in rows if row.case.status is Status.OK and row.case.placement != PLAIN]
    return [*_best(ok), *_worst(ok), *_sameness(ok), *_failures(rows)]


def _best(rows: Sequence[Row]) -> Iterator[str]:
    """Name the greatest saving among the placements that leave training alone, the cheaper of two alike."""
    saving = [
        row for row in rows if row.peak_ratio is not None and row.peak_ratio < 0.99 and not _changes_training(row)
    ]
    if not saving:
        return
    best = min(saving, key=lambda row: (row.peak_ratio, _time_ratio(row) or 0.0))
    saved = format_percent(1 - (best.peak_ratio or 1.0))
    yield f"`{best.case.placement}` saves {saved} of the peak of {best.case.model}{_price(best)}."


def _changes_training(row: Row) -> bool:
    return row.case.equality is not None and row.case.equality.gradients == "different"


def _time_ratio(row: Row) -> float | None:
    timing = row.case.timing
    return step_ratio(timing).median if timing and timing.plain_s else None


def _price(row: Row) -> str:
    ratio = _time_ratio(row)
    return "" if ratio is None else f" for {format_ratio(ratio)} the step time"


def _worst(rows: Sequence[Row]) -> Iterator[str]:
    """Name the placement that makes a model hold most more than its plain step does."""
    held = {ratio: row for row in rows if (ratio := _held_ratio(row)) is not None and ratio > 1.01}
    if held:
        ratio = max(held)
        row = held[ratio].case
        more = f"after forward it holds {format_ratio(ratio)} what `none` does"
        yield f"`{row.placement}` on {row.model} costs memory: {more}."


def _held_ratio(row: Row) -> float | None:
    plain = row.reference.memory if row.reference else None
    if row.case.memory is None or plain is None or not plain.held_bytes:
        return None
    return row.case.memory.held_bytes / plain.held_bytes


def _sameness(rows: Sequence[Row]) -> Iterator[str]:
    judged = [row.case for row in rows if row.case.equality]
    wrong = [row.case for row in rows if _changes_training(row)]
    touched = [case for case in judged if case.equality and case.equality.buffers == "different"]
    if wrong:
        yield f"Gradients are different under {_named(wrong)}: training changes."
    elif judged:
        bitwise = sum(1 for case in judged if case.equality and case.equality.gradients == "bitwise")
        yield f"Gradients are bitwise equal in {bitwise} of {len(judged)} rows, different in none{_but(touched)}."


def _but(touched: Sequence[Measurement]) -> str:
    if not touched:
        return ""
    return f"; buffers differ in {len(touched)} ({_named(touched)}), which batch_norm=once cures for batch norm"


def _named(cases: Sequence[Measurement]) -> str:
    names = [f"{case.model} `{case.placement}`" for case in cases[:2]]
    return ", ".join(names) + (" and others" if len(cases) > 2 else "")


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    failed = [row.case for row in rows if row.case.status is not Status.OK]
    if failed:
        first = f"{failed[0].model} `{failed[0].placement}`: {failed[0].message}"
        yield f"{len(failed)} of {len(rows)} rows failed, first {first}."
