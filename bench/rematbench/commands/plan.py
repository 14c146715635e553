"""`rematbench plan`: the best placement for a memory budget, or the whole frontier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.commands.measuring import as_settings, measure, opened_run
from rematbench.errors import RematbenchError
from rematbench.placement.goal import MOST_POINTS
from rematbench.placement.registry import parse_goal
from rematbench.records.run import Row, rows_of
from rematbench.records.store import check_writable, write_whole
from rematbench.reporting.planned import explanation
from rematbench.suite.sizes import parse_sizes
from rematbench.suite.suite import custom_suite, predicted_suite, select

_POINTS = 8


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A reference model, package.module:build or file.py:build?depth=24; behind @ the chain to plan."
        ),
    ],
    budget: Annotated[str | None, typer.Option(help="6GiB, or 60% of the plain step.")] = None,
    of: Annotated[
        str, typer.Option(help="What the budget is of: total, with what is there before, or step.")
    ] = "total",
    minimise: Annotated[str | None, typer.Option(help="time, unless told, or flops; the curve is of flops.")] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--at", help="A size that is not run, batch=64: the plan is told from small ones."),
    ] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Plan and measure the whole curve instead.")] = False,
    points: Annotated[int, typer.Option(min=2, max=MOST_POINTS, help="Points of the curve.")] = _POINTS,
    out: Annotated[Path | None, typer.Option(help="Write the placement here, for `apply` and suites.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, xpu, mps or auto.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")] = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; results/plan-<timestamp> by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the plan that --run was interrupted in.")
    ] = False,
) -> None:
    """Profile the blocks, solve, measure, and accept only a placement whose measured peak fits the budget.

    Exits with 0 when there is one, 1 when none fits, 2 for a usage error.
    """
    if frontier and (out or minimise):
        raise RematbenchError("--frontier measures a curve of the fewest FLOPs: leave out --out and --minimise")
    model, at, chain = model.partition("@")
    # Seconds of a step that is not run are not known.
    goal = _goal(budget, of, minimise or ("flops" if sizes else "time"), frontier, points, at + chain)
    whole = predicted_suite(model, parse_sizes(sizes)) if sizes else custom_suite([model])
    suite = select(whole, (), [goal], [*as_settings({"devices": [device]}), *(settings or ())])
    suite = suite.model_copy(update={"name": "plan"})
    suite.check_models(Path.cwd())
    if out:
        check_writable(out)
    with opened_run(run, suite, resume) as store:
        measure(suite, store, "--run")
    planned = [row for row in rows_of(store.measurements) if not row.is_plain]
    for row in _monotone(planned) if frontier else planned:
        say("\n  ".join(explanation(row) or [row.cells["message"].removeprefix("measuring: ")]))
    failed = [row for row in planned if not row.is_ok]
    if out and not failed and (found := planned[0].measurement) and found.regions:
        write_whole(out, found.regions.to_json())
        say(f"placement written to {out}")
    if len(failed) == len(planned):
        raise typer.Exit(1)


def _goal(budget: str | None, of: str, minimise: str, frontier: bool, points: int, at: str) -> str:
    if frontier == (budget is not None):
        raise RematbenchError("give --budget or --frontier, one of them")
    if of not in ("total", "step") or minimise not in ("time", "flops"):
        raise RematbenchError("--of is total or step, --minimise is time or flops")
    if frontier:
        return f"frontier:{points}{at}"
    text = f"{'plan' if minimise == 'time' else 'plan-flops'}:{budget}{'/step' if of == 'step' else ''}{at}"
    parse_goal(text)
    return text


def _monotone(rows: list[Row]) -> list[Row]:
    """Drop failed rows and dominated ones: with more memory, no more may be recomputed."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: row.cells["peak_bytes"] or 0):
        whole = row.cells["peak_bytes"] is not None and row.cells["forward_flops"] is not None
        if whole and (not kept or (row.cells["recompute_flops"] or 0) < (kept[-1].cells["recompute_flops"] or 0)):
            kept.append(row)
    return kept
