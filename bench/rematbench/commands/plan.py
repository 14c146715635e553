"""`rematbench plan`: the best placement for a memory budget, or the whole frontier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rematbench.errors import RematbenchError
from rematbench.placement.placement import PLAIN
from rematbench.placement.strategies import parse_goal
from rematbench.records.columns import Row, rows_of
from rematbench.records.measurement import Status
from rematbench.records.store import new_run
from rematbench.reporting.planned import explanation
from rematbench.running.progress import ProgressWatcher
from rematbench.running.runner import run_suite
from rematbench.suite.suite import Suite, custom_suite, select

_POINTS = 8
_err = Console(stderr=True, soft_wrap=True)


def plan(
    model: Annotated[str, typer.Argument(help="A reference model, package.module:build or file.py:build?depth=24.")],
    budget: Annotated[str | None, typer.Option(help="6GiB, or 60% of the plain step.")] = None,
    of: Annotated[
        str, typer.Option(help="What the budget is of: total, with what is there before, or step.")
    ] = "total",
    minimise: Annotated[str, typer.Option(help="time or flops.")] = "time",
    frontier: Annotated[bool, typer.Option("--frontier", help="Plan and measure the whole curve instead.")] = False,
    points: Annotated[int, typer.Option(min=2, help="Points of the curve.")] = _POINTS,
    out: Annotated[Path | None, typer.Option(help="Write the placement here, for `apply` and suites.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")] = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; results/plan-<timestamp> by default.")] = None,
) -> None:
    """Profile the blocks, solve, measure, and accept only a placement whose measured peak fits the budget.

    Exits with 0 when there is one, 1 when none fits, 2 for something to mend.
    """
    goal = _goal(budget, of, minimise, frontier, points)
    suite = select(custom_suite([model]), (), [goal], [f'devices=["{device}"]', *(settings or [])])
    suite = suite.model_copy(update={"name": "plan"})
    suite.check_models(Path.cwd())
    rows = _measured(suite, run)
    planned = [row for row in rows if row.case.placement != PLAIN]
    for row in _monotone(planned) if frontier else planned:
        print("\n  ".join(explanation(row) or [row.case.message.removeprefix("measuring: ")]))
    failed = [row for row in planned if row.case.status is not Status.OK]
    if out and not frontier and not failed and planned[0].case.regions:
        planned[0].case.regions.save(out)
        print(f"placement written to {out}")
    if len(failed) == len(planned):
        raise typer.Exit(1)


def _goal(budget: str | None, of: str, minimise: str, frontier: bool, points: int) -> str:
    if frontier == (budget is not None):
        raise RematbenchError("give --budget or --frontier, one of them")
    if of not in ("total", "step") or minimise not in ("time", "flops"):
        raise RematbenchError("--of is total or step, --minimise is time or flops")
    if frontier:
        return f"frontier:{points}"
    text = f"{'plan' if minimise == 'time' else 'plan-flops'}:{budget}{'/step' if of == 'step' else ''}"
    parse_goal(text)
    return text


def _measured(suite: Suite, run: Path | None) -> list[Row]:
    with new_run(run, Path("results"), suite.name, suite.to_toml()) as store:
        count = sum(len(suite.cases(entry)) for entry in suite.models)
        with ProgressWatcher(_err, count, timed=suite.settings.rounds != 0) as watcher:
            run_suite(suite, store, Path.cwd(), watcher)
        return rows_of(store.measurements)


def _monotone(rows: list[Row]) -> list[Row]:
    """Drop failed rows and dominated ones: with more memory, no more may be recomputed."""
    kept: list[Row] = []
    for row in sorted(rows, key=_peak):
        flops = row.case.flops
        if row.case.memory and flops and (not kept or _recompute(row) < _recompute(kept[-1])):
            kept.append(row)
    return kept


def _peak(row: Row) -> int:
    return row.case.memory.peak_bytes if row.case.memory else 0


def _recompute(row: Row) -> int:
    return (row.case.flops.recompute or 0) if row.case.flops else 0
