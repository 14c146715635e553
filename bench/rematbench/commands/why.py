"""`rematbench why`: what holds a step's memory, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.commands.measuring import as_settings
from rematbench.running.single import why_single
from rematbench.suite.suite import custom_suite, select


def why(
    model: Annotated[str, typer.Argument(help="A reference model, package.module:build or file.py:build?depth=24.")],
    placement: Annotated[
        str, typer.Option(help="The placement to explain; none for the plain step, also of what checkpoints itself.")
    ] = "each",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, xpu, mps or auto.")] = "auto",
    accumulate: Annotated[int, typer.Option(min=1, help="Micro-batches that a step has.")] = 1,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Say what holds the memory of a model's step, why a placement does not lower it, and what to try."""
    options = [*as_settings({"devices": [device]}), *(settings or ())]
    diagnosis = why_single(select(custom_suite([model]), (), [placement], options), Path.cwd(), accumulate)
    if as_json:
        print(json.dumps(json.loads(diagnosis.model_dump_json()), indent=2))  # in ASCII
        return
    say(diagnosis.explain())
