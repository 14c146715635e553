"""`rematbench baseline`: make a run the baseline, and show what changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.errors import RematbenchError
from rematbench.records.baseline import baseline_csv
from rematbench.records.run import Run
from rematbench.records.store import write_whole
from rematbench.reporting.compare import change_sheet

app = typer.Typer(help="Make a run the baseline that `check` judges by.", no_args_is_help=True)


@app.command()
def update(
    run: Annotated[Path, typer.Argument(help="The run to take: its folder or its CSV.")],
    baseline: Annotated[Path, typer.Argument(help="The baseline's CSV.")],
) -> None:
    """Rewrite the baseline from a run and show the difference; the margins of its rows stay."""
    measured = Run(run)
    failed = [row.cells for row in measured.rows.values() if not row.is_ok]
    if failed:
        raise RematbenchError(
            f"{run}: {failed[0]['model']} · {failed[0]['placement']} is {failed[0]['status']}: no baseline"
        )
    before = Run(baseline) if baseline.exists() else None
    write_whole(baseline, baseline_csv(measured, before))
    say(change_sheet(before, measured).to_text() if before else f"{len(measured.rows)} rows in {baseline}")
