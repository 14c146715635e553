"""`rematbench inspect`: what is inside a model and what autograd keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.commands.measuring import as_settings
from rematbench.reporting.tree import saved_sheets, tree_sheet
from rematbench.running.single import inspect_single
from rematbench.suite.suite import custom_suite, select


def inspect(
    model: Annotated[str, typer.Argument(help="A reference model, package.module:build or file.py:build?depth=24.")],
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 3,
    saved: Annotated[bool, typer.Option("--saved", help="List every tensor autograd keeps for backward.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, xpu, mps or auto.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show a model's modules with what each keeps for backward, takes and computes in one plain step."""
    suite = select(custom_suite([model]), (), (), [*as_settings({"devices": [device]}), *(settings or ())])
    inspection = inspect_single(suite, Path.cwd())
    if as_json:
        print(json.dumps(json.loads(inspection.model_dump_json()), indent=2))  # in ASCII
        return
    say(tree_sheet(inspection, depth).to_text())
    if saved:
        for sheet in saved_sheets(inspection):
            say("\n" + sheet.to_text())
