"""One table for each model: what every placement saves and costs, for a terminal or as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from rematbench.records.frontier import dominated
from rematbench.records.run import Row
from rematbench.reporting.texts import TEXTS, heading_of, one_line

_SHOWN = ("placement", "peak_mib", "saved", "step", "ratio", "interval", "recompute", "gradients", "buffers")
HEADER = tuple(map(heading_of, _SHOWN))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One placement: its cells in the order of `HEADER`, and why it stands out, if it does."""

    cells: tuple[str, ...]
    dominated: bool = False
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The placements of one model on one device."""

    title: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def model_tables(rows: Iterable[Row]) -> Iterator[ModelTable]:
    """Make a table for each model and device, in the order they were run."""
    for (model, device), group in groupby(rows, key=lambda row: (row.cells["model"], row.cells["device"])):
        members = list(group)
        behind = dominated(members)
        yield ModelTable(
            title=one_line(f"{model} on {device}"),
            lines=tuple(_line(row, row.name in behind) for row in members),
            notes=tuple(one_line(f"{row.name}: {row.cells['message']}") for row in members if row.cells["message"]),
        )


def _line(row: Row, behind: bool) -> Line:
    cells = tuple(one_line(TEXTS[name](row)) for name in _SHOWN)
    if row.is_ok:
        return Line(cells=cells, dominated=behind)
    # of a row that failed the memory that was measured stands, and its status where the numbers it lacks would begin
    return Line(cells=(*cells[:3], one_line(str(row.cells["status"])), *("" for _ in cells[4:])), failed=True)


def rich_table(table: ModelTable) -> Table:
    """Draw a table for a terminal: dominated placements dimmed, failures and differences in red.

    It is as wide as what it says: a narrow terminal breaks its lines, where rich would leave out whole columns.
    """
    drawn = Table(title=Text(table.title, style="bold"), title_justify="left", expand=False)
    for place, name in enumerate(HEADER):
        width = max(len(cells[place]) for cells in (HEADER, *(line.cells for line in table.lines)))
        drawn.add_column(name, justify="left" if place == 0 or place > 6 else "right", min_width=width, no_wrap=True)
    for line in table.lines:
        style = "red" if line.failed else "dim" if line.dominated else ""
        drawn.add_row(*(Text(cell, style="red" if cell == "different" else "") for cell in line.cells), style=style)
    return drawn


def plain_table(table: ModelTable) -> str:
    """Write a table without colours; a dominated placement is in brackets."""
    lines = [(f"({line.cells[0]})" if line.dominated else line.cells[0], *line.cells[1:]) for line in table.lines]
    aligned = tuple("left" if place == 0 or place > 6 else "right" for place in range(len(HEADER)))
    text = tabulate(lines, headers=HEADER, colalign=aligned, disable_numparse=True)
    return f"{table.title}\n{text}"
