"""The table of the page: a line for each row, each cell with what it is sorted by; and the fold beneath it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rematbench.records.columns import COLUMNS
from rematbench.records.measurement import Status
from rematbench.records.run import Row
from rematbench.reporting.gathering import Model, Series
from rematbench.units import format_bytes, format_flops, format_percent, format_ratio, format_seconds

_MARKS = {"bitwise": "✓", "equal": "✓", "noise": "≈", "close": "≈", "different": "✗"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: its text, and the number or text that it is sorted by; None sorts last."""

    text: str = ""
    key: float | str | None = None
    bad: bool = False


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: its heading, and the column of `results.csv` that says what it means."""

    text: str
    meaning: str
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table."""

    cells: tuple[Cell, ...]
    dominated: bool
    failed: bool


_MEANINGS = {column.name: column.meaning for column in COLUMNS}

HEADINGS = (
    Heading(text="model", meaning=_MEANINGS["model"]),
    Heading(text="run", meaning="the run, device and dtype"),
    Heading(text="placement", meaning=_MEANINGS["placement"]),
    Heading(text="peak", meaning=_MEANINGS["peak_bytes"], number=True),
    Heading(text="saved", meaning="share of none's peak that is saved", number=True),
    Heading(text="step", meaning="time of a step: none's median times the paired ratio", number=True),
    Heading(text="ratio", meaning=_MEANINGS["step_ratio"], number=True),
    Heading(text="95 % interval", meaning="of the ratio, by bootstrap", number=True),
    Heading(text="recompute", meaning=_MEANINGS["recompute_flops"], number=True),
    Heading(text="gradients", meaning=_MEANINGS["gradients"]),
    Heading(text="buffers", meaning=_MEANINGS["buffers"]),
    Heading(text="regions", meaning=_MEANINGS["regions"]),
    Heading(text="message", meaning=_MEANINGS["message"]),
)


def lines(models: Sequence[Model]) -> Iterator[Line]:
    """Yield the rows of the table, in the order of the figures' rows."""
    for model in models:
        for series in model.series:
            kept = series.frontier(series.cost)
            yield from (_line(row, series, row.cells["placement"] in kept) for row in series.rows)


def _line(row: Row, series: Series, kept: bool) -> Line:
    failed = row.cells["status"] != Status.OK
    known = row.fits_a_plot and (row.step_s is not None or row.cells["recompute_flops"] is not None)
    return Line(cells=tuple(_cells(row, series)), dominated=known and not kept, failed=failed)


def _cells(row: Row, series: Series) -> Iterator[Cell]:
    cells = row.cells
    saved = 1 - cells["peak_ratio"] if cells["peak_ratio"] is not None else None
    yield Cell(text=cells["model"], key=cells["model"])
    yield Cell(text=series.label, key=series.label)
    yield Cell(text=cells["placement"], key=cells["placement"])
    yield _number(cells["peak_bytes"], format_bytes)
    yield _number(saved, format_percent)
    yield _number(row.step_s.median if row.step_s else None, format_seconds)
    yield _number(cells["step_ratio"], format_ratio)
    yield _interval(cells["step_ratio_low"], cells["step_ratio_high"])
    yield _number(cells["recompute_flops"], format_flops)
    yield _mark(cells["gradients"])
    yield _mark(cells["buffers"])
    yield _text(cells["regions"])
    status = "" if cells["status"] == Status.OK else f"{cells['status']}: "
    yield _text(f"{status}{cells['message'] or ''}")


def _number(value: Any, show: Any) -> Cell:
    return Cell() if value is None else Cell(text=show(value), key=value)


def _interval(low: float | None, high: float | None) -> Cell:
    return Cell() if low is None or high is None else Cell(text=f"{low:.2f}–{high:.2f}", key=high)


def _mark(verdict: str | None) -> Cell:
    return (
        Cell()
        if verdict is None
        else Cell(text=f"{_MARKS[verdict]} {verdict}", key=verdict, bad=verdict == "different")
    )


def _text(text: str | None) -> Cell:
    return Cell(text=text or "", key=text or None)


def environments(models: Sequence[Model]) -> list[tuple[str, str]]:
    """Return what each series was measured under, one line a series, each told once."""
    return list(dict.fromkeys((series.label, _environment(series.rows)) for model in models for series in model.series))


def _environment(rows: Sequence[Row]) -> str:
    columns = ("suite", "torch", "python", "device_name", "threads", "commit", "memory_meter")
    values = {name: dict.fromkeys(str(row.cells[name]) for row in rows if row.cells[name]) for name in columns}
    return " · ".join(f"{name.replace('_', ' ')}: {', '.join(found)}" for name, found in values.items() if found)
