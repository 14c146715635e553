"""One table for each model: what every placement saves and costs, for a terminal or as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from rematbench.records.columns import Row
from rematbench.records.frontier import dominated
from rematbench.records.measurement import Status
from rematbench.records.statistics import step_median_s, step_ratio
from rematbench.units import format_flops, format_mib, format_percent, format_ratio, format_seconds

HEADER = ("placement", "peak MiB", "saved", "step", "ratio", "95 % interval", "recompute", "gradients", "buffers")


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
    for (model, device), group in groupby(rows, key=lambda row: (row.case.model, row.case.device)):
        members = list(group)
        behind = dominated(members)
        yield ModelTable(
            title=f"{model} on {device}",
            lines=tuple(_line(row, row.case.placement in behind) for row in members),
            notes=tuple(f"{row.case.placement}: {row.case.message}" for row in members if row.case.message),
        )


def _line(row: Row, behind: bool) -> Line:
    if row.case.status is not Status.OK:
        cells = (row.case.placement, *_memory_cells(row), str(row.case.status), *("" for _ in range(5)))
        return Line(cells=cells, failed=True)
    cells = (row.case.placement, *_memory_cells(row), *_time_cells(row), *_equality_cells(row))
    return Line(cells=cells, dominated=behind)


def _memory_cells(row: Row) -> tuple[str, str]:
    if row.case.memory is None:
        return "", ""
    saved = format_percent(1 - row.peak_ratio) if row.peak_ratio is not None else ""
    return format_mib(row.case.memory.peak_bytes), saved


def _time_cells(row: Row) -> tuple[str, str, str]:
    timing = row.case.timing
    if timing is None:
        return "", "", ""
    step = format_seconds(step_median_s(timing))
    if not timing.plain_s:
        return step, "", ""
    ratio = step_ratio(timing)
    interval = f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio.low is not None and ratio.high is not None else ""
    return step, format_ratio(ratio.median), interval


def _equality_cells(row: Row) -> tuple[str, str, str]:
    flops, equality = row.case.flops, row.case.equality
    recompute = format_flops(flops.recompute) if flops and flops.recompute is not None else ""
    return recompute, equality.gradients if equality else "", equality.buffers if equality else ""


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
