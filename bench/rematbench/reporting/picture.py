"""The trade of one model as a plain picture for a README or a paper, without a browser."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rematbench.records.run import CannotJudgeError, Row
from rematbench.records.statistics import Interval
from rematbench.records.store import write_whole
from rematbench.reporting.gathering import Model, Series
from rematbench.units import BYTES, SECONDS, unit_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers tell apart; series differ by symbol too."""

_SYMBOLS = "osD^Pp"


def write_picture(model: Model, out: Path) -> None:
    """Draw peak memory against step time, as PNG or SVG by the file's ending, and write it whole.

    Raises:
        CannotJudgeError: no placement has both a peak and a time.
        StorageError: it cannot be written.
    """
    content = io.BytesIO()
    figure = trade(model)
    figure.savefig(
        content, format=out.suffix.lstrip("."), dpi=150, metadata={"Date": None} if out.suffix == ".svg" else {}
    )
    write_whole(out, content.getvalue())


def trade(model: Model) -> Figure:
    """Return the picture.

    Raises:
        CannotJudgeError: no placement has both a peak and a time.
    """
    drawn = [point for series in model.series for point in _drawn(series)]
    if not drawn:
        raise CannotJudgeError(f"no placement of {model.name} has both a peak and a time: there is nothing to draw")
    highest = max(peak for _, peak, _ in drawn)
    times = [step.median for _, _, step in drawn]
    (size, size_unit), (second, time_unit) = unit_of(highest, BYTES), unit_of(max(times), SECONDS)
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel=f"step time ({time_unit})", ylabel=f"peak above the step's start ({size_unit})")
    for place, series in enumerate(model.series):
        _draw(axes, series, place, size, second)
    axes.set_title(literal(model.name), loc="left")
    axes.set_ylim(bottom=0, top=1.15 * highest / size)
    # about the medians, not the intervals' ends: one noisy interval would squeeze all the others
    room = 0.2 * (max(times) - min(times)) or 0.2 * max(times)
    axes.set_xlim(max(min(times) - room, 0) / second, (max(times) + 1.5 * room) / second)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if len(model.series) > 1:
        axes.legend(frameon=False)
    return figure


def _drawn(series: Series) -> list[tuple[Row, int, Interval]]:
    """Return the rows that have a peak and a step time, with both."""
    return [(row, row.cells["peak_bytes"], step) for row in series.rows if row.fits_a_plot and (step := row.step_s)]


def _draw(axes: Axes, series: Series, place: int, size: float, second: float) -> None:
    """Draw a series, the sizes and times divided by their units."""
    colour, kept, points = COLOURS[place % len(COLOURS)], series.frontier("time"), _drawn(series)
    line = sorted((peak, step.median) for row, peak, step in points if row.name in kept)
    axes.plot([time / second for _, time in line], [peak / size for peak, _ in line], color=colour, lw=1.2)
    for number, (row, peak, step) in enumerate(points):
        shown = row.name in kept or row.is_plain
        low, high = (step.median if end is None else end for end in (step.low, step.high))
        axes.errorbar(
            step.median / second,
            peak / size,
            xerr=[[max(step.median - low, 0) / second], [max(high - step.median, 0) / second]],
            fmt="*" if row.is_plain else _SYMBOLS[place % len(_SYMBOLS)],
            ms=12 if row.is_plain else 7,
            color=colour,
            alpha=1 if shown else 0.35,
            elinewidth=1,
            label=literal(series.label) if number == 0 else None,
        )
        if shown:
            at = (step.median / second, peak / size)
            axes.annotate(literal(row.name), at, xytext=(7, 6), textcoords="offset points", fontsize=9)


def literal(text: str) -> str:
    """Keep a name from being read as a formula."""
    return text.replace("$", r"\$")
