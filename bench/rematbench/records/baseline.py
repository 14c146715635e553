"""A baseline's file: the columns of a run, and the margin that each row is allowed."""

from __future__ import annotations

from rematbench.records.columns import COLUMNS, MARGIN, cell_text, csv_lines
from rematbench.records.run import Run


def baseline_csv(run: Run, before: Run | None) -> str:
    """Return a run as a baseline's CSV; a row that the baseline before it had keeps the margin it had there."""
    kept = before.rows if before else {}
    lines = [[*(column.name for column in COLUMNS), MARGIN]]
    for key, row in run.rows.items():
        margin = kept.get(key, row).cells.get(MARGIN)
        lines.append([*(cell_text(row.cells[column.name]) for column in COLUMNS), cell_text(margin)])
    return csv_lines(lines)


def with_row(baseline: Run | None, run: Run) -> Run:
    """Return a baseline with the rows of a run put in or replaced; every other row stays."""
    return Run(run.source, {**(baseline.rows if baseline else {}), **run.rows}.values())
