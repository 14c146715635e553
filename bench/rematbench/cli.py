"""The command `rematbench`: puts the verbs together, and is the one place where an error becomes a sentence."""

from __future__ import annotations

import io
import signal
import sys
import traceback
from typing import Annotated

import typer

from rematbench import __version__
from rematbench.commands import baseline
from rematbench.commands.check import check
from rematbench.commands.compare import compare
from rematbench.commands.console import err, out
from rematbench.commands.inspect import inspect
from rematbench.commands.listing import models, placements, suites
from rematbench.commands.plan import plan
from rematbench.commands.report import report
from rematbench.commands.run import run
from rematbench.commands.show import show
from rematbench.errors import RematbenchError

DEBUG = "--debug"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure, exactly, what activation-checkpoint placements save and cost.",
)
for verb in (run, models, placements, suites, compare, check, inspect, plan, report, show):
    app.command()(verb)
app.add_typer(baseline.app, name="baseline")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[  # noqa: ARG001  # declared for --help alone: main has taken it out, wherever it stood
        bool, typer.Option(DEBUG, help="Show the traceback of an error; also behind the verb.")
    ] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line, and exit with its status: 0, or what the verb's help says.

    A usage error, of ours or of the command line, exits with 2; under `--debug` it exits with the same status, after
    its traceback.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends a run as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × shows ? for it
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != DEBUG])
    except RematbenchError as error:
        if DEBUG in sys.argv:
            traceback.print_exc()
        else:
            err.print(f"rematbench: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
