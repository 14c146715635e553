"""`rematbench predict`: what placements need at sizes that are not run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.commands.measuring import as_settings, measure, opened_run
from rematbench.commands.run import print_json
from rematbench.records.run import rows_of
from rematbench.reporting.predicted import prediction_tables
from rematbench.suite.sizes import parse_sizes
from rematbench.suite.suite import predicted_suite, select

USUAL = ("none", "each", "sqrt", "each+save=matmuls")


def predict(
    model: Annotated[str, typer.Argument(help="A reference model, package.module:build or file.py:build?depth=24.")],
    at: Annotated[list[str], typer.Option(help="A size of the model's factory, batch=64; give one for each size.")],
    placement: Annotated[
        list[str] | None, typer.Option(help="A strategy or a placement file; some usual ones by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, xpu, mps or auto.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")] = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; results/predict-<timestamp> by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the prediction that --run was interrupted in.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Predict peak memory and FLOPs at sizes that are not run, to the byte, from a few small steps.

    Exits with 0 when every row is predicted, 1 when some case failed, 2 for a usage error.
    """
    suite = select(
        predicted_suite(model, parse_sizes(at)),
        (),
        placement or USUAL,
        [*as_settings({"devices": [device]}), *(settings or ())],
    )
    suite.check_models(Path.cwd())
    with opened_run(run, suite, resume) as store:
        measure(suite, store, "--run")
    rows = rows_of(store.measurements)
    if as_json:
        print_json(rows)
    else:
        for table in prediction_tables(rows):
            say(table)
        say(f"{len(rows)} rows in {store.folder / 'results.csv'}")
    if not all(row.is_ok for row in rows):
        raise typer.Exit(1)
