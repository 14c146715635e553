"""The trade as a small plot in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rematbench.records.run import Cost, Row
from rematbench.reporting.fitting import evenly
from rematbench.reporting.gathering import Series
from rematbench.reporting.texts import one_line
from rematbench.units import format_bytes, format_flops, format_seconds

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MANY = "#"
"""Stands where several placements fall on one spot."""


def plot(series: Series, width: int = 64, height: int = 14) -> str:
    """Return peak against step time, each placement a letter, with the key beneath; those in brackets are dominated.

    Where nothing was timed, the cost is the recomputed operations. With fewer than two to draw it is a sentence.
    """
    cost = series.cost
    placed = [(row, found) for row in series.rows if row.fits_a_plot and (found := row.cost(cost)) is not None]
    if len(placed) < 2:
        return "there are no two placements with a peak and a cost: nothing to draw"
    kept = series.frontier(cost)
    every = len(placed)
    placed = _few(placed, kept) if every > len(_LETTERS) else placed
    points = [(found, float(row.cells["peak_bytes"])) for row, found in placed]
    key = [
        one_line(f"{letter} {row.name if row.name in kept else f'({row.name})'}")
        for letter, (row, _) in zip(_LETTERS, placed, strict=False)
    ]
    lines = ["  ".join(key[start : start + 4]) for start in range(0, len(key), 4)]
    if len(placed) < every:
        lines.append(f"{len(placed)} of {every:,} placements are drawn: those that no other beats, then an even choice")
    return "\n".join([*_framed(_grid(points, width, height), points, cost), *lines])


def _few(placed: list[tuple[Row, float]], kept: set[str]) -> list[tuple[Row, float]]:
    """Return no more than there are letters for: the plain step, what no other beats, and then the others.

    Where there are more of a kind, they are an even choice of it.
    """
    kinds: list[list[tuple[Row, float]]] = [[], [], []]
    for found in placed:
        kinds[0 if found[0].is_plain else 1 if found[0].name in kept else 2].append(found)
    kinds[1].sort(key=lambda found: int(found[0].cells["peak_bytes"]))
    few: list[tuple[Row, float]] = []
    for kind in kinds:
        few += evenly(kind, len(_LETTERS) - len(few))
    return few


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


def _framed(grid: Sequence[str], points: Sequence[tuple[float, float]], cost: Cost) -> list[str]:
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
