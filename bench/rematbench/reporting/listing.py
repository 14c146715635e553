"""The table of the page: a line for each row, each cell with what it is sorted by; and the fold beneath it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rematbench.records.columns import COLUMNS
from rematbench.records.run import Row
from rematbench.reporting.gathering import Model, Series
from rematbench.reporting.texts import clipped, heading_of, marked, texts_of


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: its text, and the number or text that it is sorted by; None sorts last."""

    text: str = ""
    key: float | str | None = None
    bad: bool = False


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: the name of its texts, what it means, and what its cells are sorted by."""

    name: str
    meaning: str
    key: Callable[[Row, Series], float | str | None]
    number: bool = False

    @property
    def text(self) -> str:
        """What stands above the column."""
        return heading_of(self.name)


@dataclass(frozen=True, kw_only=True)
class ListedRow:
    """A row of the table, its cells by the name of their column."""

    cells: Mapping[str, Cell]
    dominated: bool
    failed: bool


_MEANINGS = {column.name: column.meaning for column in COLUMNS}


def _heading(name: str, column: str, *, number: bool = False) -> Heading:
    """Make a column that means what a column of `results.csv` means, and is sorted by it."""

    def key(row: Row, _: Series) -> Any:
        value = row.cells[column]
        return None if value == "" else value  # a record's text that says nothing is absent, as it is from a CSV

    return Heading(name=name, meaning=_MEANINGS[column], key=key, number=number)


HEADINGS = (
    _heading("model", "model"),
    Heading(name="run", meaning="the run, device and dtype", key=lambda _, series: series.label),
    _heading("placement", "placement"),
    _heading("peak", "peak_bytes", number=True),
    Heading(
        name="saved",
        meaning="share of none's peak that is saved",
        key=lambda row, _: row.saved_share,
        number=True,
    ),
    Heading(
        name="step",
        meaning="time of a step: none's median times the paired ratio",
        key=lambda row, _: row.cost("time"),
        number=True,
    ),
    _heading("ratio", "step_ratio", number=True),
    Heading(
        name="interval",
        meaning="of the ratio, by bootstrap",
        key=lambda row, _: row.cells["step_ratio_high"],
        number=True,
    ),
    _heading("recompute", "recompute_flops", number=True),
    _heading("gradients", "gradients"),
    _heading("buffers", "buffers"),
    _heading("regions", "regions"),
    Heading(
        name="message",
        meaning=_MEANINGS["message"],
        key=lambda row, _: texts_of(row)["message"] or None,
    ),
)
_VERDICTS = ("gradients", "buffers")


def lines(models: Sequence[Model]) -> Iterator[ListedRow]:
    """Yield the rows of the table, in the order of the figures' rows."""
    for model in models:
        for series in model.series:
            kept = series.frontier(series.cost)
            yield from (_line(row, series, row.name in kept) for row in series.rows)


def _line(row: Row, series: Series, kept: bool) -> ListedRow:
    plain = {name: clipped(text) for name, text in texts_of(row).items()}
    texts = plain | {"run": series.label} | {name: marked(plain[name]) for name in _VERDICTS}
    cells = {
        heading.name: Cell(
            text=texts[heading.name],
            key=clipped(key) if isinstance(key := heading.key(row, series), str) else key,
            bad=heading.name in _VERDICTS and row.cells[heading.name] == "different",
        )
        for heading in HEADINGS
    }
    known = row.fits_a_plot and (row.step_s is not None or row.cells["recompute_flops"] is not None)
    return ListedRow(cells=cells, dominated=known and not kept, failed=not row.is_ok)


def environments(models: Sequence[Model]) -> list[tuple[str, str]]:
    """Return what each series was measured under, one line a series, each told once."""
    return list(dict.fromkeys((series.label, _environment(series.rows)) for model in models for series in model.series))


def _environment(rows: Sequence[Row]) -> str:
    columns = ("suite", "torch", "python", "device_name", "threads", "commit", "memory_meter")
    values = {name: dict.fromkeys(str(row.cells[name]) for row in rows if row.cells[name]) for name in columns}
    return " · ".join(f"{name.replace('_', ' ')}: {', '.join(found)}" for name, found in values.items() if found)
