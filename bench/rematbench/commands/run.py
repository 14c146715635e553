"""`rematbench run`: measure models under placements."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rematbench.commands.console import out as console
from rematbench.commands.measuring import as_settings, measure, opened_run
from rematbench.records.run import Row, rows_of
from rematbench.reporting.summary import sentences
from rematbench.reporting.table import model_tables, plain_table, rich_table
from rematbench.reporting.texts import one_line
from rematbench.suite.suite import custom_suite, load_suite, select


def run(
    suite: Annotated[str | None, typer.Argument(help="A suite's name, or the path of a .toml file.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this model, or your own: file.py:build?depth=24, package.module:build."),
    ] = None,
    placement: Annotated[
        list[str] | None, typer.Option(help="Instead of the suite's: a strategy or a placement file.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="cpu, cuda, cuda:N, xpu, mps or auto.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A suite setting, key=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; results/<suite>-<timestamp> by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Run only what --out does not have or what failed.")] = False,
    rounds: Annotated[int | None, typer.Option(help="Timed rounds; 0 times nothing.")] = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds of timed rounds a model.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one placement of one model.")] = None,
    resident: Annotated[bool, typer.Option("--resident", help="Measure the resident set too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of tables.")] = False,
) -> None:
    """Measure models under placements: peak memory, step time, recomputed FLOPs, and whether training stays the same.

    Exits with 0 when every row is ok, 1 when some case failed, 2 for a usage error.
    """
    options = {
        "devices": device,
        "rounds": rounds,
        "time_budget_s": time_budget,
        "timeout_s": timeout,
        "resident": resident or None,
    }
    whole = custom_suite(model) if suite is None and model else load_suite("default" if suite is None else suite)
    chosen = select(whole, model or (), placement or (), [*(settings or ()), *as_settings(options)])
    chosen.check_models(Path.cwd())
    with opened_run(out, chosen, resume) as store:
        measure(chosen, store, "--out")
    rows = rows_of(store.measurements)
    if as_json:
        print_json(rows)
    else:
        _print_tables(rows, store.folder)
    if not all(row.is_ok for row in rows):
        raise typer.Exit(1)


def print_json(rows: Sequence[Row]) -> None:
    """Print rows as JSON, every column of each."""
    data = [{name: _json_value(value) for name, value in row.cells.items()} for row in rows]
    print(json.dumps(data, indent=2))


def _json_value(value: Any) -> Any:
    """Write infinity, which JSON does not have, as the CSV does."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _print_tables(rows: Sequence[Row], folder: Path) -> None:
    tables = list(model_tables(rows))
    for table in tables:
        console.print(rich_table(table) if console.is_terminal else plain_table(table), markup=False)
        for note in table.notes:
            console.print(f"  {note}", style="dim", markup=False)
        console.print()
    if any(line.dominated for table in tables for line in table.lines):
        mark = "dimmed" if console.is_terminal else "(in brackets)"
        remark = f"{mark}: another placement is at least as good in both memory and time"
        console.print(remark, style="dim", markup=False)
    for sentence in sentences(rows):
        console.print(one_line(sentence), markup=False)
    console.print(f"{len(rows)} rows in {folder / 'results.csv'}", markup=False)
