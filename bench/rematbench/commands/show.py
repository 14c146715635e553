"""`rematbench show`: the frontier of a run as text, with a small plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rematbench.errors import RematbenchError, unknown
from rematbench.reporting.compare import frontier_sheet
from rematbench.reporting.gathering import models_of
from rematbench.reporting.terminal import plot


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder or CSV.")],
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
) -> None:
    """Show what each model's placements save and cost: a small plot, and the placements that no other beats."""
    models = models_of([run])
    if model is not None and model not in (names := [one.name for one in models]):
        raise RematbenchError(f"--model: {unknown('model', model, names)}")
    for one in models:
        for series in one.series if model in (None, one.name) else ():
            sheet = frontier_sheet(f"{one.name} on {series.label}", series.rows)
            print(f"{sheet.to_text()}\n\n{plot(series)}\n")
