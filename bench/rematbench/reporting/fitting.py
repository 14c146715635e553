"""What of a large run stands on a page: what matters first, as much as its bytes have room for, and a word on the rest.

Of a series these are the plain step, then what no other placement beats in memory and cost (of all, of those that leave
the gradients alone, and of those that leave the buffers alone too, so that every budget still has its answer), then the
others. Where not all of a kind fit, those that do are spread evenly over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rematbench.records.frontier import frontier
from rematbench.records.run import Row
from rematbench.reporting.budgets import COSTS
from rematbench.reporting.gathering import Model, Series
from rematbench.reporting.strip import DRAWN, cell_names
from rematbench.reporting.texts import clipped

T = TypeVar("T")

_ROW_BYTES = 1700
"""What a row takes in the table and among the points, its names and texts left out."""

_SECTION_BYTES = 3000
"""And a model, with its sentences."""

_SERIES_BYTES = 700


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The models of a page with the rows that it has room for, in their order.

    Attributes:
        models: those with a section of their own.
        rows: how many rows each model has in all, by its name.
        left_out: the names of the models that there is no room for.
        used_bytes: what they take, about.
    """

    models: tuple[Model, ...]
    rows: dict[str, int]
    left_out: tuple[str, ...]
    used_bytes: int


def fitted(models: Sequence[Model], room_bytes: int) -> Fitted:
    """Choose what a page of so many bytes shows; whatever the room, it has the first model with its first row."""
    here = _with_room(models, room_bytes // 2)
    used_bytes = sum(map(_section_bytes, here))
    kept: set[int] = set()
    for row in by_importance(here):
        size = _row_bytes(row)
        if used_bytes + size > room_bytes and kept:
            break
        used_bytes += size
        kept.add(id(row))
    return Fitted(
        models=tuple(
            replace(model, series=tuple(_narrowed(series, kept) for series in model.series)) for model in here
        ),
        rows={model.name: _count(model) for model in models},
        left_out=tuple(model.name for model in models[len(here) :]),
        used_bytes=used_bytes,
    )


def by_importance(models: Sequence[Model]) -> Iterator[Row]:
    """Yield every row, that which matters most first; series take turns."""
    ranked = [
        (kind, turn, row)
        for model in models
        for series in model.series
        for kind, rows in enumerate(_kinds(series))
        for turn, row in enumerate(rows)
    ]
    yield from (row for _, _, row in sorted(ranked, key=lambda found: found[:2]))


def rows_left_out(found: Fitted, model: Model) -> list[str]:
    """Say how many rows of a model are not on the page, and where they are; nothing where all of them are."""
    return _left_out(_count(model), found.rows[model.name], "of this model's ")


def all_left_out(found: Fitted) -> list[str]:
    """Say how many rows of all models are not on the page; nothing where all of them are."""
    return _left_out(sum(map(_count, found.models)), sum(found.rows.values()), "of ")


def _left_out(here: int, every: int, of: str) -> list[str]:
    if here == every:
        return []
    return [
        f"{here:,} {of}{every:,} rows are drawn and listed here: none, the placements that no other beats, and of the "
        f"rest an even choice. The other {every - here:,} are in the run's results.csv; a CSV with the lines of your "
        "choice can be reported, too."
    ]


def models_left_out(found: Fitted) -> list[str]:
    """Say which models have no section; nothing where all have one."""
    if not found.left_out:
        return []
    few = ", ".join(clipped(name, 60) for name in found.left_out[:3])
    return [
        f"{len(found.models):,} of {len(found.rows):,} models are on this page; left out are {few}"
        f"{' …' if len(found.left_out) > 3 else ''}. `rematbench report --model NAME` makes the page of one."
    ]


def _count(model: Model) -> int:
    return sum(len(series.rows) for series in model.series)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return so many of the items at most, evenly from the first to the last, in their order."""
    if len(items) <= most:
        return list(items)
    return [items[at * (len(items) - 1) // max(most - 1, 1)] for at in range(most)]


def _kinds(series: Series) -> Iterator[Sequence[Row]]:
    """Yield the rows of a series in kinds, the first of which matter most, each kind in an order that covers it."""
    same = [row for row in series.rows if row.cells["gradients"] != "different"]
    untouched = [row for row in same if row.cells["buffers"] == "equal"]
    unbeaten = {name for rows in (series.rows, same, untouched) for cost in COSTS for name in frontier(rows, cost)}
    yield [row for row in series.rows if row.is_plain]
    rows = [row for row in series.rows if not row.is_plain]
    yield _spread(
        sorted((row for row in rows if row.name in unbeaten), key=lambda row: (row.cells["peak_bytes"], row.name))
    )
    yield _spread([row for row in rows if row.name not in unbeaten])


def _spread(rows: Sequence[Row]) -> Sequence[Row]:
    """Return rows in an order whose every beginning is spread over all of them: by their places' bits, reversed."""
    digits = max(len(rows) - 1, 1).bit_length()
    return [rows[at] for at in sorted(range(len(rows)), key=lambda at: int(f"{at:0{digits}b}"[::-1], 2))]


def _with_room(models: Sequence[Model], room_bytes: int) -> Sequence[Model]:
    for count, model in enumerate(models):
        room_bytes -= _section_bytes(model) + _ROW_BYTES * len(model.series)
        if room_bytes < 0 and count:
            return models[:count]
    return models


def _section_bytes(model: Model) -> int:
    """Return what a model takes without its rows: its sentences, and once a series the blocks and skips of its step."""
    found = model.structure
    blocks = sum(_bytes(name) + 1 for name in cell_names(found.blocks)) if found else 0
    skips = 200 * min(len(found.skips), DRAWN) if found else 0
    return _SECTION_BYTES + 4 * _bytes(model.name) + len(model.series) * (_SERIES_BYTES + blocks + skips)


def _row_bytes(row: Row) -> int:
    """Return no less than what a row takes: its texts stand in the table, in its key, and in what is told of it."""
    cells = row.cells
    texts = 14 * _bytes(row.name) + 4 * _bytes(str(cells["model"])) + 2 * _bytes(str(cells["device"]))
    return _ROW_BYTES + texts + 5 * sum(_bytes(str(cells[name] or "")) for name in ("regions", "message"))


def _bytes(text: str) -> int:
    """Return the bytes of a text, where it is escaped as a script's data or as markup."""
    return len(json.dumps(clipped(text))) + 5 * sum(map(text.count, "<>&\"'"))


def _narrowed(series: Series, kept: set[int]) -> Series:
    return replace(series, rows=tuple(row for row in series.rows if id(row) in kept))
