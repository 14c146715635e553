"""The trade as a small plot in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rematbench.reporting.gathering import Entry, Series, cost_of
from rematbench.units import format_bytes, format_flops, format_seconds

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MANY = "#"
"""Stands where several placements fall on one spot."""


def plot(series: Series, width: int = 64, height: int = 14) -> str:
    """Return peak against step time, each placement a letter, with the key beneath; those in brackets are dominated.

    Where nothing was timed, the cost is the recomputed operations. With fewer than two to draw it is a sentence.
    """
    cost = "time" if any(entry.step for entry in series.entries) else "flops"
    drawn = [entry for entry in series.entries if entry.fits_a_plot and cost_of(entry, cost) is not None]
    drawn = drawn[: len(_LETTERS)]
    if len(drawn) < 2:
        return "there are no two placements with a peak and a cost: nothing to draw"
    points = [(cost_of(entry, cost) or 0.0, float(entry.cells["peak_bytes"])) for entry in drawn]
    return "\n".join([*_framed(_grid(points, width, height), points, cost), *_key(drawn, series.frontier(cost))])


def _grid(points: Sequence[tuple[float, float]], width: int, height: int) -> list[str]:
    """Put a letter for each point into lines of text, both axes from the least value to the greatest."""
    columns, lines = _places([x for x, _ in points], width), _places([-y for _, y in points], height)
    grid = [[" "] * width for _ in range(height)]
    for letter, column, line in zip(_LETTERS, columns, lines, strict=False):
        grid[line][column] = letter if grid[line][column] == " " else _MANY
    return ["".join(line) for line in grid]


def _places(values: Sequence[float], count: int) -> list[int]:
    low, high = min(values), max(values)
    return [round((value - low) / (high - low) * (count - 1)) if high > low else 0 for value in values]


def _framed(grid: Sequence[str], points: Sequence[tuple[float, float]], cost: str) -> list[str]:
    """Label the ends of both axes."""
    ends = [format_bytes(int(edge([y for _, y in points]))) for edge in (max, min)]
    labels = [ends[0], *("" for _ in grid[2:]), ends[1]]
    left, right = (
        format_seconds(value) if cost == "time" else format_flops(int(value))
        for value in (min(x for x, _ in points), max(x for x, _ in points))
    )
    room = max(map(len, ends))
    body = [f"{label:>{room}} │{line}".rstrip() for label, line in zip(labels, grid, strict=True)]
    what = "step time" if cost == "time" else "recomputed"
    axis = f"{left}{what:^{len(grid[0]) - len(left) - len(right)}}{right}"
    return ["peak", *body, f"{'':>{room}} └{'─' * len(grid[0])}", f"{'':>{room}}  {axis}"]


def _key(drawn: Sequence[Entry], kept: set[str]) -> list[str]:
    """Name the letters, a few a line."""
    names = [entry.cells["placement"] for entry in drawn]
    entries = [
        f"{letter} {name if name in kept else f'({name})'}" for letter, name in zip(_LETTERS, names, strict=False)
    ]
    return ["  ".join(entries[start : start + 4]) for start in range(0, len(entries), 4)]
