"""`rematbench fit`: the largest batch, length, width or depth that a memory holds, by placement."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import err, say
from rematbench.commands.measuring import as_settings, interruptible, opened_run
from rematbench.commands.report import with_ending
from rematbench.errors import StorageError, SuiteError, shown
from rematbench.reading import read_text
from rematbench.records.fitting import Fit, FittedPlacement
from rematbench.records.store import write_whole
from rematbench.reporting.fitted import answer, table
from rematbench.running.fitting import fit_suite
from rematbench.running.progress import ProgressWatcher
from rematbench.running.protocol import FitOrder
from rematbench.suite.sizes import parse_sizes
from rematbench.suite.suite import predicted_suite, select
from rematbench.units import parse_bytes

USUAL = ("none", "each", "each+save=matmuls", "nested:2")
FILE = "fit.json"


def fit(
    model: Annotated[str, typer.Argument(help="A reference model, package.module:build or file.py:build?depth=24.")],
    vary: Annotated[str, typer.Option(help="The size whose largest value is asked for: an argument of the factory.")],
    memory: Annotated[str, typer.Option(help="24GiB: for all that torch allocates, weights and batch included.")],
    at: Annotated[list[str] | None, typer.Option(help="Another size, length=4096.")] = None,
    multiple_of: Annotated[int, typer.Option(min=1, help="The answer is a multiple of it.")] = 1,
    placement: Annotated[
        list[str] | None, typer.Option(help="A strategy or a placement file; some usual ones by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, xpu, mps or auto.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")] = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; results/fit-<timestamp> by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the fit that --run was interrupted in.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw what is needed by the size, as a PNG.")] = None,
    svg: Annotated[Path | None, typer.Option(help="The same as an SVG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Find the largest value of a size that fits into a memory, from small steps; run it where that can be done here.

    Exits with 0 when every placement has an answer, 1 when some have none, 2 for a usage error.
    """
    pictures = [with_ending(path, suffix) for path, suffix in ((png, ".png"), (svg, ".svg")) if path]
    sizes = parse_sizes(at or ())
    if vary in sizes:
        raise SuiteError(f"--vary {vary}: it is held by --at {vary}={sizes[vary]}; leave one of them out")
    asked = Fit(
        model=model,
        device=device,
        vary=vary,
        at=sizes,
        memory_bytes=parse_bytes(memory),
        multiple_of=multiple_of,
    )
    suite = select(
        predicted_suite(model, sizes), (), placement or USUAL, [*as_settings({"devices": [device]}), *(settings or ())]
    )
    suite = suite.model_copy(update={"name": "fit"})
    suite.check_models(Path.cwd())
    [entry] = suite.models
    names = [case.name for case in suite.cases(entry)]
    with opened_run(run, suite, resume) as store:
        found = _Answers(store.folder / FILE, asked, resume)
        left = [name for name in names if name not in found.names]
        order = partial(FitOrder, vary=vary, memory_bytes=asked.memory_bytes, multiple_of=multiple_of)
        kept = f"go on with --resume --run {store.folder}"
        with (
            interruptible(lambda: f"{len(found.names)} of {len(names)} answers are in {store.folder / FILE}; {kept}"),
            ProgressWatcher(err, len(names), timed=False) as watcher,
        ):
            fit_suite(suite, store, Path.cwd(), watcher, order, left, found.keep)
    if pictures:
        from rematbench.reporting.fit_picture import write_fit_picture  # matplotlib takes a second

        for path in pictures:
            write_fit_picture(found.fit, path)
    if as_json:
        print(found.fit.model_dump_json(indent=2))
    else:
        say(f"{table(found.fit)}\n{answer(found.fit)}\nkept in {found.path}")
        for path in pictures:
            say(f"drawn in {path}")
    if any(fitted.value is None for fitted in found.fit.placements):
        raise typer.Exit(1)


class _Answers:
    """The file that answers are kept in as they come."""

    def __init__(self, path: Path, asked: Fit, resume: bool) -> None:
        self.path = path
        self.fit = self._read(asked) if resume and path.exists() else asked

    @property
    def names(self) -> list[str]:
        """The placements that have an answer."""
        return [fitted.placement for fitted in self.fit.placements]

    def keep(self, fitted: FittedPlacement) -> None:
        """Add an answer, and write them all."""
        self.fit = self.fit.model_copy(update={"placements": (*self.fit.placements, fitted)})
        write_whole(self.path, self.fit.model_dump_json(indent=2) + "\n")

    def _read(self, asked: Fit) -> Fit:
        """Read what an interrupted fit found.

        Raises:
            StorageError: the file cannot be read, or answers another question.
        """
        try:
            found = Fit.model_validate_json(read_text(self.path))
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.path} cannot be read: {shown(str(error))}") from error
        if found.model_copy(update={"placements": ()}) != asked:
            raise StorageError(f"{self.path} answers another question: begin a new run")
        return found
