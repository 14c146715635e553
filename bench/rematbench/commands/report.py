"""`rematbench report`: one offline page of a run, or of several laid over each other; or a plain picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.errors import RematbenchError
from rematbench.reporting.gathering import Model, model_named, models_of

_PAGE = Path("report.html")


def report(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder or CSV; further ones are laid over the first.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html by default.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the trade of --model as a PNG instead.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the trade of --model as an SVG instead.")] = None,
    model: Annotated[str | None, typer.Option(help="The only model on the page, or the one to draw.")] = None,
) -> None:
    """Write one self-contained HTML page: the trade, the step over time, the placements over the blocks, the table.

    It opens from disk, with no network.
    """
    pictures = [with_ending(path, suffix) for path, suffix in ((png, ".png"), (svg, ".svg")) if path]
    if pictures:
        _draw(_chosen(models_of(runs), model), pictures)
    if out or not pictures:
        _write(runs, out or _PAGE, model)


def with_ending(path: Path, suffix: str) -> Path:
    """Return the path of a picture.

    Raises:
        RematbenchError: its name ends otherwise.
    """
    if path.suffix != suffix:
        raise RematbenchError(f"--{suffix[1:]} {path}: the file's name has to end in {suffix}")
    return path


def _chosen(models: Sequence[Model], name: str | None) -> Model:
    if name is None and len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise RematbenchError(f"--model: the run has {len(models)} models, choose one of {names}")
    return model_named(models, name) if name is not None else models[0]


def _draw(model: Model, pictures: Sequence[Path]) -> None:
    from rematbench.reporting.picture import (
        write_picture,  # matplotlib takes a second, which no other command should wait
    )

    for path in pictures:
        write_picture(model, path)
        say(f"{model.name} in {path}")


def _write(runs: Sequence[Path], out: Path, model: str | None) -> None:
    from rematbench.reporting.page import write_page  # nor for plotly and jinja2

    write_page(runs, out, model)
    say(f"page in {out}")
