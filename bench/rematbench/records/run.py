"""Read a run back from its CSV: rows as cells with types, refused when anything about the file is not whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rematbench.errors import RematbenchError, StorageError
from rematbench.records.columns import COLUMNS

Cells = Mapping[str, Any]
"""One row of `results.csv` by column; numbers are numbers, an absent one is None."""

Key = tuple[str, str, str, str]
"""Model, placement, device and dtype: what identifies a row in a run."""

MARGIN = "margin"
"""A further column that a baseline may have: the growth of memory a row is allowed, as in `2%`."""


class CannotJudgeError(RematbenchError):
    """There is nothing to judge by: no rows, not the same rows, or rows of another environment."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Run:
    """The rows of one run, by key, in file order."""

    source: Path
    rows: Mapping[Key, Cells]


def read_run(source: Path) -> Run:
    """Read a run's folder or a CSV file.

    Raises:
        StorageError: it is not there, has not the columns, or a cell is not of its column's kind.
        CannotJudgeError: it has no rows, or was cut short.
    """
    path = source / "results.csv" if source.is_dir() else source
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is no CSV of a run: it is not text") from error
    table = _table(path, text)
    if len(table) < 2:
        raise CannotJudgeError(f"{path} holds no rows: nothing was measured")
    header, *lines = table
    _refuse_foreign(path, header)
    if not text.endswith("\n") or len(lines[-1]) < len(header):
        raise CannotJudgeError(f"{path} was cut short in its last row: {lines[-1][:3]}")
    rows = [_cells(path, number, header, line) for number, line in enumerate(lines, start=2)]
    return Run(source=source, rows=_by_key(path, rows))


def key_of(cells: Cells) -> Key:
    """Return what identifies a row."""
    return cells["model"], cells["placement"], cells["device"], cells["dtype"]


def _table(path: Path, text: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise StorageError(f"{path} is no CSV of a run: {error}") from error


def _by_key(path: Path, rows: Iterable[Cells]) -> Mapping[Key, Cells]:
    found: dict[Key, Cells] = {}
    for cells in rows:
        if key_of(cells) in found:
            raise StorageError(f"{path} has two rows of {' · '.join(key_of(cells))}")
        found[key_of(cells)] = cells
    return found


def _refuse_foreign(path: Path, header: list[str]) -> None:
    missing = [column.name for column in COLUMNS if column.required and column.name not in header]
    if missing:
        raise StorageError(f"{path} is no CSV of a run: it has no column {missing[0]}")


def _cells(path: Path, number: int, header: list[str], line: list[str]) -> Cells:
    if len(line) != len(header):
        raise StorageError(f"{path}, line {number}: {len(line)} cells where the header has {len(header)}")
    texts = dict(zip(header, line, strict=True))
    cells: dict[str, Any] = {MARGIN: texts.get(MARGIN) or None}
    for column in COLUMNS:
        try:
            cells[column.name] = column.parse(texts.get(column.name, ""))
        except (ValueError, KeyError) as error:
            value = texts[column.name]
            raise StorageError(f"{path}, line {number}: {column.name} is {value!r}, not a {column.unit}") from error
    return cells
