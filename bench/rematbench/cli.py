"""The command `rematbench`: puts the verbs together, and is the one place where an error becomes a sentence."""

from __future__ import annotations

import errno
import functools
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from rematbench import __version__
from rematbench.commands import baseline
from rematbench.commands.check import check
from rematbench.commands.compare import compare
from rematbench.commands.console import err, out, standard_streams
from rematbench.commands.fit import fit
from rematbench.commands.inspect import inspect
from rematbench.commands.listing import models, placements, suites
from rematbench.commands.plan import plan
from rematbench.commands.predict import predict
from rematbench.commands.report import report
from rematbench.commands.run import run
from rematbench.commands.show import show
from rematbench.commands.why import why
from rematbench.errors import RematbenchError
from rematbench.interruption import INTERRUPTED, interruptible

DEBUG = "--debug"
BUG = 70
"""What the command exits with after an error that nobody foresaw, as sysexits.h has it: a verdict it is not."""


class _UnforeseenError(Exception):
    """Carries, as its cause, an error that the command line's library would make an exit of its own."""


def _whole(verb: Callable[..., None]) -> Callable[..., None]:
    """Keep an interruption, and what the verb did not foresee, from the command line's library.

    It exits with 1 for them, which means a regression.
    """

    @functools.wraps(verb)
    def run(**arguments: Any) -> None:
        try:
            with interruptible():
                verb(**arguments)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except EOFError as error:
            raise _UnforeseenError from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # of a pipe of ours: standard output has its own end
                raise _UnforeseenError from error
            raise

    return run


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure, exactly, what activation-checkpoint placements save and cost.",
)
for verb in (run, models, placements, suites, compare, check, inspect, why, plan, predict, fit, report, show):
    app.command()(_whole(verb))
app.add_typer(baseline.app, name="baseline")
for command in baseline.app.registered_commands:
    command.callback = command.callback and _whole(command.callback)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[  # noqa: ARG001  # declared for --help alone: main has taken it out, wherever it stood
        bool, typer.Option(DEBUG, help="Show the traceback of an error; also behind the verb.")
    ] = False,
) -> None:
    if version:
        out.print(__version__, markup=False)
        raise typer.Exit


def main() -> None:
    """Run the command line, and exit with its status: 0, or what the verb's help says.

    A usage error, of ours or of the command line, exits with 2, and one that nobody foresaw with `BUG`; under `--debug`
    it exits with the same status, after its traceback.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends a run as Ctrl-C does
    with standard_streams():
        sys.exit(_status())


def _status() -> int:
    """Run the command line and say what ended it."""
    try:
        try:
            app(args=[argument for argument in sys.argv[1:] if argument != DEBUG], standalone_mode=True)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where what it cannot write still becomes a status
    except RematbenchError as error:
        return _said(error, str(error), error.exit_code)
    except Exception as error:  # the one place where the unforeseen becomes a sentence
        cause = error.__cause__ if isinstance(error, _UnforeseenError) and error.__cause__ else error
        what = " ".join(f"{type(cause).__name__}: {cause}".split())
        hint = "please report it with its traceback" + ("" if DEBUG in sys.argv else f": add {DEBUG}")
        return _said(cause, f"{what}: this is a bug of ours, {hint}", BUG)
    return 0


def _said(error: BaseException, sentence: str, code: int) -> int:
    if DEBUG in sys.argv:
        trace = "".join(traceback.format_exception(error))
        err.print(trace if code != BUG else f"{trace}\nrematbench: {sentence}", end="", markup=False, highlight=False)
    else:
        err.print(f"rematbench: {sentence}", style="red", markup=False, highlight=False)
    return code


if __name__ == "__main__":
    main()
