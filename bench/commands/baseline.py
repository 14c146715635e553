"""`rematbench baseline`: make a run the baseline, and show what changes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BenchError
from bench.results.columns import COLUMNS, cell_text
from bench.results.compare import change_sheet
from bench.results.reading import MARGIN, Cells, Key, Run, read_run
from bench.results.record import Status
from bench.results.store import write_whole

app = typer.Typer(help="Make a run the baseline that `check` judges by.", no_args_is_help=True)


@app.command()
def update(
    run: Annotated[Path, typer.Argument(help="The run to take: its folder or its CSV.")],
    baseline: Annotated[Path, typer.Argument(help="The baseline's CSV.")],
) -> None:
    """Rewrite the baseline from a run and show the difference; the margins of its rows stay."""
    measured = read_run(run)
    failed = [cells for cells in measured.rows.values() if cells["status"] != Status.OK]
    if failed:
        raise BenchError(
            f"{run}: {failed[0]['model']} · {failed[0]['placement']} is {failed[0]['status']}: no baseline"
        )
    before = read_run(baseline) if baseline.exists() else None
    write_whole(baseline, _baseline_csv(measured, before))
    print(change_sheet(before, measured).to_text() if before else f"{len(measured.rows)} rows in {baseline}")


def _baseline_csv(run: Run, before: Run | None) -> str:
    kept: dict[Key, Cells] = dict(before.rows) if before else {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(column.name for column in COLUMNS), MARGIN])
    for key, cells in run.rows.items():
        margin = kept[key][MARGIN] if key in kept else cells[MARGIN]
        writer.writerow([*(cell_text(cells[column.name]) for column in COLUMNS), margin or ""])
    return text.getvalue()
