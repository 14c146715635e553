"""`rematbench show`: the frontier of a run as text, with a small plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.errors import RematbenchError, unknown
from rematbench.records.store import write_whole
from rematbench.reporting.compare import frontier_sheet
from rematbench.reporting.gathering import models_of
from rematbench.reporting.sheet import Sheet, to_latex
from rematbench.reporting.terminal import plot

_LINES = 60
"""Placements of one frontier that are shown at most; `rematbench compare` lists all of them."""


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder or CSV.")],
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables as LaTeX too, for booktabs.")] = None,
) -> None:
    """Show what each model's placements save and cost: a small plot, and the placements that no other beats."""
    models = models_of([run])
    if model is not None and model not in (names := [one.name for one in models]):
        raise RematbenchError(f"--model: {unknown('model', model, names)}")
    sheets: list[Sheet] = []
    for one in models:
        for series in one.series if model in (None, one.name) else ():
            sheets.append(frontier_sheet(f"{one.name} on {series.label}", series.rows, most=_LINES))
            say(f"{sheets[-1].to_text()}\n\n{plot(series)}\n")
    if latex is not None:
        write_whole(latex, to_latex(sheets))
