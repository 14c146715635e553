"""The command `rematbench`: reads arguments, calls one function for each command, prints an error as one sentence."""

from __future__ import annotations

import io
import json
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rematbench import __version__
from rematbench.commands import baseline
from rematbench.commands.check import check
from rematbench.commands.compare import compare
from rematbench.commands.inspect import inspect
from rematbench.commands.plan import plan
from rematbench.commands.report import report
from rematbench.commands.show import show
from rematbench.errors import RematbenchError
from rematbench.loading import reference_models
from rematbench.placement.placement import Options
from rematbench.placement.strategies import STRATEGIES
from rematbench.records.columns import COLUMNS, Row, rows_of
from rematbench.records.measurement import Status
from rematbench.records.store import Store, latest, new_run, sole_writer
from rematbench.reporting.summary import sentences
from rematbench.reporting.table import model_tables, plain_table, rich_table
from rematbench.running.progress import ProgressWatcher
from rematbench.running.runner import run_suite
from rematbench.suite.suite import Suite, custom_suite, load_suite, select, shipped_suites

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure, exactly, what activation-checkpoint placements save and cost.",
)

_out = Console(soft_wrap=True, highlight=False)
_err = Console(stderr=True, soft_wrap=True)

RESULTS = Path("results")
INTERRUPTED = 130


def main() -> None:
    """Run the command line; the only place where an error becomes a sentence."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends a run as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × shows ? for it
    try:
        app()
    except RematbenchError as error:
        if "--debug" in sys.argv:
            raise
        _err.print(f"rematbench: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        _out.print(__version__)
        raise typer.Exit


Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Only this model, or your own: file.py:build?depth=24, package.module:build."),
]
Placements = Annotated[
    list[str] | None, typer.Option("--placement", help="Instead of the suite's: a strategy or a placement file.")
]


@app.command()
def run(
    suite: Annotated[str | None, typer.Argument(help="A suite's name, or the path of a .toml file.")] = None,
    model: Models = None,
    placement: Placements = None,
    device: Annotated[list[str] | None, typer.Option(help="cpu, cuda, cuda:N or auto.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A suite setting, key=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; results/<suite>-<timestamp> by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Run only what --out does not have or what failed.")] = False,
    rounds: Annotated[int | None, typer.Option(help="Timed rounds; 0 times nothing.")] = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds of timed rounds a model.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one placement of one model.")] = None,
    resident: Annotated[bool, typer.Option("--resident", help="Measure the resident set too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of tables.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    """Measure models under placements: peak memory, step time, recomputed FLOPs, and whether training stays the same.

    Exits with 0 when every row is ok, 1 when some case failed, 2 for something to mend.
    """
    pairs = [*(settings or []), *_settings(device, rounds, time_budget, timeout, resident)]
    chosen = select(_suite(suite, model), model or (), placement or (), pairs)
    chosen.check_models(Path.cwd())
    with _opened(out, chosen, resume) as store:
        _measure(chosen, store)
    rows = rows_of(store.measurements)
    _print_json(rows) if as_json else _print_tables(rows, store.folder)
    if any(row.case.status is not Status.OK for row in rows):
        raise typer.Exit(1)


def _suite(name: str | None, models: list[str] | None) -> Suite:
    return custom_suite(models) if name is None and models else load_suite(name or "default")


def _settings(
    devices: list[str] | None, rounds: int | None, time_budget: float | None, timeout: float | None, resident: bool
) -> list[str]:
    """Write the options that are settings as `key=value`, for the suite to validate like any other."""
    given = {
        "devices": devices,
        "rounds": rounds,
        "time_budget_s": time_budget,
        "timeout_s": timeout,
        "resident": True if resident else None,
    }
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


@contextmanager
def _opened(out: Path | None, suite: Suite, resume: bool) -> Iterator[Store]:
    """Open the run's folder, a new one or one to go on with, for this run alone."""
    if resume:
        folder = out or latest(RESULTS)
        with sole_writer(folder):
            yield Store.resume(folder, suite.to_toml())
    else:
        with new_run(out, RESULTS, suite.name, suite.to_toml()) as store:
            yield store


def _measure(suite: Suite, store: Store) -> None:
    jobs = len(suite.settings.devices)
    rows = jobs * sum(len(suite.cases(entry)) for entry in suite.models)
    try:
        with ProgressWatcher(_err, rows, timed=suite.settings.rounds != 0) as watcher:
            run_suite(suite, store, Path.cwd(), watcher)
    except KeyboardInterrupt:
        kept = len(store.measurements)
        _err.print(
            f"interrupted: {kept} of {rows} rows are in {store.folder}; go on with --resume --out {store.folder}",
            markup=False,
        )
        raise typer.Exit(INTERRUPTED) from None


def _print_json(rows: list[Row]) -> None:
    data = [{column.name: _json_value(column.value(row)) for column in COLUMNS} for row in rows]
    print(json.dumps(data, indent=2))


def _json_value(value: Any) -> Any:
    """Write infinity, which JSON does not have, as the CSV does."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _print_tables(rows: list[Row], folder: Path) -> None:
    tables = list(model_tables(rows))
    for table in tables:
        _out.print(rich_table(table) if _out.is_terminal else plain_table(table), markup=False)
        for note in table.notes:
            _out.print(f"  {note}", style="dim", markup=False)
        _out.print()
    if any(line.dominated for table in tables for line in table.lines):
        mark = "dimmed" if _out.is_terminal else "(in brackets)"
        _out.print(f"{mark}: another placement is at least as good in both memory and time", style="dim", markup=False)
    for sentence in sentences(rows):
        _out.print(sentence, markup=False)
    _out.print(f"{len(rows)} rows in {folder / 'results.csv'}", markup=False)


@app.command()
def models() -> None:
    """List the reference models."""
    _list(reference_models().items())


@app.command()
def placements() -> None:
    """List the placement strategies and their options."""
    _list((known.form, known.meaning) for known in STRATEGIES.values())
    form = "strategy[:argument][@path][+option=value]…"
    _out.print(f"\nwritten {form}, or the path of a placement file; options:", markup=False)
    _list((name, f"default {str(field.default).lower()}") for name, field in Options.model_fields.items())


@app.command()
def suites() -> None:
    """List the suites that come with rematbench."""
    _list((name, load_suite(name).description) for name in shipped_suites())


def _list(entries: object) -> None:
    pairs = list(entries)  # type: ignore[call-overload]
    width = max(len(name) for name, _ in pairs)
    for name, meaning in pairs:
        _out.print(f"{name:<{width}}  {meaning}", markup=False)


app.command()(compare)
app.command()(check)
app.command()(inspect)
app.command()(plan)
app.command()(report)
app.command()(show)
app.add_typer(baseline.app, name="baseline")


if __name__ == "__main__":
    main()
