"""A fit as a picture: what a step needs by the size, a line for each placement, and the memory it has to fit into."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rematbench.records.fitting import Fit, FittedPlacement
from rematbench.records.run import CannotJudgeError
from rematbench.records.store import write_whole
from rematbench.reporting.picture import COLOURS, literal
from rematbench.units import BYTES, format_bytes, format_sizes, unit_of


def write_fit_picture(fit: Fit, out: Path) -> None:
    """Draw a fit, as PNG or SVG by the file's ending, and write it whole.

    Raises:
        CannotJudgeError: no placement has a curve.
        StorageError: it cannot be written.
    """
    content = io.BytesIO()
    metadata = {"Date": None} if out.suffix == ".svg" else {}
    fit_picture(fit).savefig(content, format=out.suffix.lstrip("."), dpi=150, metadata=metadata)
    write_whole(out, content.getvalue())


def fit_picture(fit: Fit) -> Figure:
    """Return the picture.

    Raises:
        CannotJudgeError: no placement has a curve.
    """
    drawn = [fitted for fitted in fit.placements if fitted.curve]
    if not drawn:
        raise CannotJudgeError(f"no placement of {fit.model} has an answer: there is nothing to draw")
    size, unit = unit_of(fit.memory_bytes, BYTES)
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel=literal(fit.vary), ylabel=f"peak with what is there before the step ({unit})")
    axes.axhline(fit.memory_bytes / size, color="black", lw=1, ls="--")
    axes.annotate(
        format_bytes(fit.memory_bytes), (0, fit.memory_bytes / size), xytext=(4, 4), textcoords="offset points"
    )
    for place, fitted in enumerate(drawn):
        _draw(axes, fitted, COLOURS[place % len(COLOURS)], size)
    at = f", {format_sizes(fit.at)}" if fit.at else ""
    axes.set_title(literal(f"{fit.model}{at}"), loc="left")
    axes.set_ylim(bottom=0, top=1.25 * fit.memory_bytes / size)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _draw(axes: Axes, fitted: FittedPlacement, colour: str, size: float) -> None:
    """Draw one placement's line, its answer, and what was run of it."""
    label = f"{fitted.placement}: {fitted.value}"
    axes.plot(
        [point.value for point in fitted.curve],
        [point.bytes / size for point in fitted.curve],
        color=colour,
        label=literal(label),
    )
    if fitted.value is not None and fitted.bytes is not None:
        axes.plot([fitted.value], [fitted.bytes / size], "o", color=colour, ms=6)
    run = [
        (value, needed / size)
        for value, needed in (
            (fitted.value, fitted.measured_bytes),
            (fitted.next_value, fitted.next_measured_bytes),
        )
        if value is not None and needed is not None
    ]
    axes.plot([at for at, _ in run], [needed for _, needed in run], "o", color=colour, mfc="none", ms=11)
