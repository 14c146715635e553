"""The trade of one model as a plain picture for a README or a paper, without a browser."""

from __future__ import annotations

import io
import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rematbench.errors import StorageError
from rematbench.placement.placement import PLAIN
from rematbench.records.run import CannotJudgeError
from rematbench.reporting.gathering import Entry, Model, Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers tell apart; series differ by symbol too."""

_SYMBOLS = "osD^Pp"
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


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
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.getvalue())
        temporary.replace(out)
    except OSError as error:
        raise StorageError(f"{out}: {error.strerror or error}; is the folder there and writable?") from error
    finally:
        temporary.unlink(missing_ok=True)


def trade(model: Model) -> Figure:
    """Return the picture.

    Raises:
        CannotJudgeError: no placement has both a peak and a time.
    """
    drawn = [entry for series in model.series for entry in _drawn(series)]
    if not drawn:
        raise CannotJudgeError(f"no placement of {model.name} has both a peak and a time: there is nothing to draw")
    highest = max(_peak(entry) for entry in drawn)
    factor, unit = next(step for step in _UNITS if highest >= step[0] or step[0] == 1)
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step time (ms)", ylabel=f"peak above the step's start ({unit})")
    for place, series in enumerate(model.series):
        _draw(axes, series, factor, place)
    axes.set_title(_literal(model.name), loc="left")
    axes.set_ylim(bottom=0, top=1.15 * highest / factor)
    axes.set_xlim(*_across([_ms(entry)[0] for entry in drawn]))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if len(model.series) > 1:
        axes.legend(frameon=False)
    return figure


def _across(times: list[float]) -> tuple[float, float]:
    """Return the ends of the time axis: about the medians, for one noisy interval would squeeze them all."""
    room = 0.2 * (max(times) - min(times)) or 0.2 * max(times)
    return max(min(times) - room, 0), max(times) + 1.5 * room


def _drawn(series: Series) -> list[Entry]:
    return [entry for entry in series.entries if entry.fits_a_plot and entry.step]


def _peak(entry: Entry) -> int:
    peak: int = entry.cells["peak_bytes"]
    return peak


def _ms(entry: Entry) -> tuple[float, float, float]:
    assert entry.step is not None
    low = entry.step.median if entry.step.low is None else entry.step.low
    high = entry.step.median if entry.step.high is None else entry.step.high
    return 1e3 * entry.step.median, 1e3 * low, 1e3 * high


def _draw(axes: Axes, series: Series, factor: int, place: int) -> None:
    colour, kept = COLOURS[place % len(COLOURS)], series.frontier("time")
    line = sorted((entry for entry in _drawn(series) if entry.cells["placement"] in kept), key=_peak)
    axes.plot([_ms(entry)[0] for entry in line], [_peak(entry) / factor for entry in line], color=colour, lw=1.2)
    for number, entry in enumerate(_drawn(series)):
        name, (median, low, high), peak = entry.cells["placement"], _ms(entry), _peak(entry) / factor
        shown = name in kept or name == PLAIN
        axes.errorbar(
            median,
            peak,
            xerr=[[max(median - low, 0)], [max(high - median, 0)]],
            fmt="*" if name == PLAIN else _SYMBOLS[place % len(_SYMBOLS)],
            ms=12 if name == PLAIN else 7,
            color=colour,
            alpha=1 if shown else 0.35,
            elinewidth=1,
            label=_literal(series.label) if number == 0 else None,
        )
        if shown:
            axes.annotate(_literal(name), (median, peak), xytext=(7, 6), textcoords="offset points", fontsize=9)


def _literal(text: str) -> str:
    """Keep a name from being read as a formula."""
    return text.replace("$", r"\$")
