"""`rematbench compare`: the placements of one run side by side, or runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.errors import RematbenchError, StorageError
from rematbench.records.run import Run
from rematbench.records.store import write_whole
from rematbench.reporting.compare import by_sheet, change_sheet, frontier_sheets
from rematbench.reporting.sheet import Sheet, to_csv, to_json, to_latex


def compare(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder or CSV; the first of several is the reference.")],
    by: Annotated[str | None, typer.Option(help="Set device or dtype of one run side by side.")] = None,
    sort: Annotated[str, typer.Option(help="Order of the frontier: peak or time.")] = "peak",
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown too.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write LaTeX too, for booktabs.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write CSV too.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write JSON too.")] = None,
) -> None:
    """Compare the placements of one run, or runs: who is better, who is worse, who is within noise.

    In a GitHub job the Markdown also goes to the step's summary.
    """
    sheets = _sheets(runs, by, sort)
    say("\n\n".join(sheet.to_text() for sheet in sheets))
    text = "\n\n".join(sheet.to_markdown() for sheet in sheets) + "\n"
    files = ((markdown, text), (latex, to_latex(sheets)), (csv, to_csv(sheets)), (json, to_json(sheets)))
    for path, content in files:
        if path is not None:
            write_whole(path, content)
    append_to_step_summary(text)


def _sheets(runs: Sequence[Path], by: str | None, sort: str) -> list[Sheet]:
    first, *others = [Run(path) for path in runs]
    if others and by:
        raise RematbenchError("--by sets the rows of one run side by side: give one run")
    if others:
        return [change_sheet(first, other) for other in others]
    return [by_sheet(first, by)] if by else list(frontier_sheets(first, sort))


def append_to_step_summary(markdown: str) -> None:
    """Show Markdown on the page of the GitHub job that this runs in, if it runs in one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(f"\n{markdown}")
        except OSError as error:
            raise StorageError(f"GITHUB_STEP_SUMMARY {summary}: {error.strerror}") from error
