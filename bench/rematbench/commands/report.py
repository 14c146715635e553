"""`rematbench report`: one offline page of a run, or of several laid over each other; or a plain picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.console import say
from rematbench.errors import RematbenchError, unknown
from rematbench.reporting.gathering import Model, models_of

_PAGE = Path("report.html")


def report(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder or CSV; further ones are laid over the first.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html by default.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the trade of --model as a PNG instead.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the trade of --model as an SVG instead.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to draw; not needed where there is one.")] = None,
) -> None:
    """Write one self-contained HTML page: the trade, the step over time, the placements over the blocks, the table.

    It opens from disk, with no network.
    """
    pictures = [_ending(path, suffix) for path, suffix in ((png, ".png"), (svg, ".svg")) if path]
    if model is not None and not pictures:
        raise RematbenchError("--model names what --png or --svg draws: give one of them; the page shows every model")
    if pictures:
        _draw(_chosen(models_of(runs), model), pictures)
    if out or not pictures:
        _write(runs, out or _PAGE)


def _ending(path: Path, suffix: str) -> Path:
    if path.suffix != suffix:
        raise RematbenchError(f"--{suffix[1:]} {path}: the file's name has to end in {suffix}")
    return path


def _chosen(models: Sequence[Model], name: str | None) -> Model:
    by_name = {model.name: model for model in models}
    if name is None and len(by_name) > 1:
        raise RematbenchError(f"--model: the run has {len(by_name)} models, choose one of {', '.join(by_name)}")
    if name is not None and name not in by_name:
        raise RematbenchError(f"--model: {unknown('model', name, by_name)}")
    return by_name[name] if name is not None else models[0]


def _draw(model: Model, pictures: Sequence[Path]) -> None:
    from rematbench.reporting.picture import (
        write_picture,  # matplotlib takes a second, which no other command should wait
    )

    for path in pictures:
        write_picture(model, path)
        say(f"{model.name} in {path}")


def _write(runs: Sequence[Path], out: Path) -> None:
    from rematbench.reporting.page import write_page  # nor for plotly and jinja2

    write_page(runs, out)
    say(f"page in {out}")
