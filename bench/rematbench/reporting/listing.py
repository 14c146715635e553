"""The table of the page: a line for each row, each cell with what it is sorted by; and the fold beneath it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rematbench.records.columns import COLUMNS
from rematbench.records.measurement import Status
from rematbench.reporting.gathering import Entry, Model, Series
from rematbench.reporting.texts import texts_of


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: its text, and the number or text that it is sorted by; None sorts last."""

    text: str = ""
    key: float | str | None = None
    bad: bool = False


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: its name, its heading, what it means, and what its cells are sorted by."""

    name: str
    text: str
    meaning: str
    key: Callable[[Entry, Series], float | str | None]
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table, its cells by the name of their column."""

    cells: Mapping[str, Cell]
    dominated: bool
    failed: bool


_MEANINGS = {column.name: column.meaning for column in COLUMNS}


def _heading(name: str, column: str, *, text: str = "", meaning: str = "", number: bool = False) -> Heading:
    """Make a column that is sorted by a column of `results.csv`, and means the same unless told."""

    def key(entry: Entry, _: Series) -> Any:
        value = entry.cells[column]
        return None if value == "" else value  # a CSV's empty text is absent, as None is in a record

    return Heading(name=name, text=text or name, meaning=meaning or _MEANINGS[column], key=key, number=number)


def _saved(entry: Entry, _: Series) -> float | None:
    return None if entry.cells["peak_ratio"] is None else 1 - entry.cells["peak_ratio"]


HEADINGS = (
    _heading("model", "model"),
    Heading(name="run", text="run", meaning="the run, device and dtype", key=lambda _, series: series.label),
    _heading("placement", "placement"),
    _heading("peak", "peak_bytes", number=True),
    Heading(name="saved", text="saved", meaning="share of none's peak that is saved", key=_saved, number=True),
    Heading(
        name="step",
        text="step",
        meaning="time of a step: none's median times the paired ratio",
        key=lambda entry, _: entry.step.median if entry.step else None,
        number=True,
    ),
    _heading("ratio", "step_ratio", number=True),
    _heading("interval", "step_ratio_high", text="95 % interval", meaning="of the ratio, by bootstrap", number=True),
    _heading("recompute", "recompute_flops", number=True),
    _heading("gradients", "gradients"),
    _heading("buffers", "buffers"),
    _heading("regions", "regions"),
    Heading(
        name="message",
        text="message",
        meaning=_MEANINGS["message"],
        key=lambda entry, _: texts_of(entry)["message"] or None,
    ),
)


def lines(models: Sequence[Model]) -> Iterator[Line]:
    """Yield the rows of the table, in the order of the figures' rows."""
    for model in models:
        for series in model.series:
            cost = "time" if any(entry.step for entry in series.entries) else "flops"
            kept = series.frontier(cost)
            yield from (_line(entry, series, entry.cells["placement"] in kept) for entry in series.entries)


def _line(entry: Entry, series: Series, kept: bool) -> Line:
    texts = texts_of(entry) | {"run": series.label}
    cells = {
        heading.name: Cell(
            text=texts[heading.name],
            key=heading.key(entry, series),
            bad=heading.name in ("gradients", "buffers") and entry.cells[heading.name] == "different",
        )
        for heading in HEADINGS
    }
    known = entry.fits_a_plot and (entry.step is not None or entry.cells["recompute_flops"] is not None)
    return Line(cells=cells, dominated=known and not kept, failed=entry.cells["status"] != Status.OK)


def environments(models: Sequence[Model]) -> list[tuple[str, str]]:
    """Return what each series was measured under, one line a series, each told once."""
    return list(
        dict.fromkeys((series.label, _environment(series.entries)) for model in models for series in model.series)
    )


def _environment(entries: Sequence[Entry]) -> str:
    columns = ("suite", "torch", "python", "device_name", "threads", "commit", "memory_meter")
    values = {name: dict.fromkeys(str(entry.cells[name]) for entry in entries if entry.cells[name]) for name in columns}
    return " · ".join(f"{name.replace('_', ' ')}: {', '.join(found)}" for name, found in values.items() if found)
