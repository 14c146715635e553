"""What the verbs that measure share: their options, their folder, and a suite measured in sight of a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer

from rematbench.commands.console import err
from rematbench.interruption import INTERRUPTED
from rematbench.records.store import Store, latest, new_run, sole_writer
from rematbench.running.progress import ProgressWatcher
from rematbench.running.runner import run_suite
from rematbench.suite.suite import Suite

RESULTS = Path("results")


def as_settings(options: Mapping[str, object]) -> list[str]:
    """Write options that are settings as `key=value`, for the suite to validate like any other; None was not given."""
    return [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]


@contextmanager
def opened_run(folder: Path | None, suite: Suite, resume: bool) -> Iterator[Store]:
    """Open a run's folder for the length of a `with` block, and keep other runs out of it.

    Args:
        folder: None is one of its own in `results`, or with `resume` the run last begun there.
        resume: go on with the run in the folder, which has to be of the same suite.

    Raises:
        StorageError: the folder cannot be used.
    """
    if resume:
        folder = folder or latest(RESULTS)
        with sole_writer(folder):
            yield Store.resume(folder, suite.to_toml())
    else:
        with new_run(folder, RESULTS, suite.name, suite.to_toml()) as store:
            yield store


def measure(suite: Suite, store: Store, folder_option: str) -> None:
    """Measure what the store does not have yet of a suite, and show how it goes.

    Args:
        folder_option: the verb's option that names the run's folder, for the sentence that says how to go on.

    Raises:
        RematbenchError: as `run_suite` does.
        typer.Exit: with `INTERRUPTED`, after saying what is kept.
    """
    rows = len(suite.settings.devices) * sum(len(suite.cases(entry)) for entry in suite.models)
    folder = store.folder
    go_on = f"rows are in {folder}; go on with --resume {folder_option} {folder}"
    with (
        interruptible(lambda: f"{len(store.measurements)} of {rows} {go_on}"),
        ProgressWatcher(err, rows, timed=suite.settings.rounds != 0) as watcher,
    ):
        run_suite(suite, store, Path.cwd(), watcher)


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """End the command at Ctrl-C with one sentence on what there is by then."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"interrupted: {kept()}", markup=False)
        raise typer.Exit(INTERRUPTED) from None
