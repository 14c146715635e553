"""A run as everything that people read sees it: rows of typed cells, from its records or back from its CSV."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rematbench.errors import FigureError, RematbenchError, StorageError, shown
from rematbench.placement.placement import PLAIN
from rematbench.reading import read_text
from rematbench.records.columns import COLUMNS, MARGIN, Cells, cells_of, unshielded
from rematbench.records.measurement import Measurement, has_figures
from rematbench.records.statistics import Interval
from rematbench.records.store import RECORDS, read_measurements

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str, str, str]
"""Model, placement, device and dtype: what identifies a row in a run."""

Cost = Literal["time", "flops"]
"""What a placement costs, beside memory: the time of a step, or the operations it does again."""


class CannotJudgeError(RematbenchError):
    """There is nothing to judge by: no rows, not the same rows, or rows of another environment."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement with its cells; whatever is shown of it is read from these.

    Attributes:
        measurement: the raw record; None where the row comes from a CSV, which has neither timeline nor regions.
        plain: the cells of the plain step of the same model, device and dtype, if the run has them.
    """

    cells: Cells
    measurement: Measurement | None = None
    plain: Cells | None = None

    @property
    def key(self) -> Key:
        """What identifies the row in its run."""
        return key_of(self.cells)

    @property
    def name(self) -> str:
        """The placement's name."""
        name: str = self.cells["placement"]
        return name

    @property
    def is_plain(self) -> bool:
        """Whether it is the plain step's row."""
        return self.name == PLAIN

    @property
    def is_ok(self) -> bool:
        """Whether it ran to its end."""
        return has_figures(self.cells["status"])

    @property
    def fits_a_plot(self) -> bool:
        """Whether it has a peak that training reached."""
        return self.is_ok and self.cells["peak_bytes"] is not None

    @property
    def step_s(self) -> Interval | None:
        """Seconds a step: the plain step's median times the paired ratio with its interval, where there are both.

        The ratios are taken within rounds, so what slowed the machine between them cancels. Else it is the row's own
        median, with its interquartile range about it. None for a row without a time, or that failed.
        """
        median, plain_s = self.cells["step_median_s"], self.plain["step_median_s"] if self.plain else None
        if median is None or not self.is_ok:
            return None
        ratio = _interval(self.cells, "step_ratio")
        if plain_s is None or ratio is None:
            half = (self.cells["step_iqr_s"] or 0.0) / 2
            return Interval(median=median, low=median - half, high=median + half)
        low, high = (None if end is None else plain_s * end for end in (ratio.low, ratio.high))
        return Interval(median=plain_s * ratio.median, low=low, high=high)

    def cost(self, cost: Cost) -> float | None:
        """Return seconds a step for `time`, recomputed operations for `flops`; None where not measured."""
        if cost == "time":
            return self.step_s.median if self.step_s else None
        recompute: int | None = self.cells["recompute_flops"]
        return recompute

    @property
    def step_ratio(self) -> Interval | None:
        """Step time over the plain step's, paired within rounds; None where it was not timed with it."""
        return _interval(self.cells, "step_ratio")

    @property
    def target_step_ratio(self) -> Interval | None:
        """Step time over the target's, as `step_ratio`; None for a row that has no target."""
        return _interval(self.cells, "peer_step_ratio")

    @property
    def saved_share(self) -> float | None:
        """Share of the plain step's peak that is not needed; below zero where more is."""
        return None if self.cells["peak_ratio"] is None else 1 - self.cells["peak_ratio"]


def key_of(cells: Cells) -> Key:
    """Return what identifies a row."""
    return cells["model"], cells["placement"], cells["device"], cells["dtype"]


def _interval(cells: Cells, column: str) -> Interval | None:
    if cells[column] is None:
        return None
    return Interval(median=cells[column], low=cells[f"{column}_low"], high=cells[f"{column}_high"])


def rows_of(measurements: Iterable[Measurement]) -> list[Row]:
    """Return a run's measurements as rows, in their order."""
    every = list(measurements)
    return _joined(zip(cells_of(every), every, strict=True))


def _joined(pairs: Iterable[tuple[Cells, Measurement | None]]) -> list[Row]:
    """Make rows of a run's cells, each with the cells of its plain step."""
    every = list(pairs)
    by_key = {key_of(cells): cells for cells, _ in every}
    return [
        Row(cells=cells, measurement=measurement, plain=by_key.get((model, PLAIN, device, dtype)))
        for cells, measurement in every
        for model, _, device, dtype in [key_of(cells)]
    ]


class Run:
    """The rows of one run: `Run("results/latest")` reads them.

    Args:
        source: a run's folder or a CSV. Of a folder its records are read; its CSV only where there are none.
        rows: the rows, where they are not to be read.

    Attributes:
        rows: by key, in the order they were measured.

    Raises:
        StorageError: it is not there, has not the columns, or a record or a cell is none of ours.
        CannotJudgeError: it has no rows, was cut short, or has a column twice.
    """

    def __init__(self, source: Path | str, rows: Iterable[Row] | None = None) -> None:
        self.source = Path(source)
        self.rows: Mapping[Key, Row] = {row.key: row for row in (_read(self.source) if rows is None else rows)}

    def __repr__(self) -> str:
        return f"<Run {self.source}: {len(self.rows)} rows>"

    @property
    def cells(self) -> list[Cells]:
        """The cells of every row, in order."""
        return [row.cells for row in self.rows.values()]

    def dataframe(self) -> pd.DataFrame:
        """Return the cells as a data frame, a measurement a row, a column of `results.csv` a column.

        What is counted is `Int64`, times and ratios are `float64`, texts are `string`, and what is absent is missing.
        """
        import pandas as pd  # takes half a second, which no command should wait for

        def values(name: str) -> list[Any]:
            """Read a column; a text that says nothing is absent, as it is in the CSV."""
            return [None if cells[name] == "" else cells[name] for cells in self.cells]

        return pd.DataFrame({column.name: pd.Series(values(column.name), dtype=column.dtype) for column in COLUMNS})


def _read(source: Path) -> list[Row]:
    if os.path.lexists(source / RECORDS):
        rows = rows_of(read_measurements(source))
        if not rows:
            raise CannotJudgeError(f"{source} holds no rows: nothing was measured")
        return rows
    table = source / "results.csv" if os.path.isdir(source) else source  # noqa: PTH112  # no error for an odd name
    return _joined((cells, None) for cells in _read_csv(table))


def _read_csv(path: Path) -> list[Cells]:
    """Read a CSV back; anything about it that is not whole is refused."""
    try:
        text = read_text(path)
        table = list(csv.reader(io.StringIO(text, newline="")))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise StorageError(f"{path} is no CSV of a run: {error}") from error
    if len(table) < 2:
        raise CannotJudgeError(f"{path} holds no rows: nothing was measured")
    header, *lines = table
    missing = [column.name for column in COLUMNS if column.required and column.name not in header]
    if missing:
        raise StorageError(f"{path} is no CSV of a run: it has no column {missing[0]}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise CannotJudgeError(f"{path} has the column {twice[0][:40]!r} twice: which of them counts cannot be known")
    if not text.endswith("\n") or len(lines[-1]) < len(header):
        raise CannotJudgeError(f"{path} was cut short in its last row: {lines[-1][:3]}")
    found: dict[Key, Cells] = {}
    for number, line in enumerate(lines, start=2):
        cells = _parsed(path, number, header, line)
        if key_of(cells) in found:
            raise StorageError(f"{path} has two rows of {' · '.join(key_of(cells))}")
        found[key_of(cells)] = cells
    return list(found.values())


def _parsed(path: Path, number: int, header: list[str], line: list[str]) -> Cells:
    if len(line) != len(header):
        raise StorageError(f"{path}, line {number}: {len(line)} cells where the header has {len(header)}")
    texts = dict(zip(header, line, strict=True))
    cells: dict[str, Any] = {MARGIN: unshielded(texts[MARGIN])} if texts.get(MARGIN) else {}
    for column in COLUMNS:
        try:
            cells[column.name] = column.parse(texts.get(column.name, ""))
        except FigureError as error:
            what = f"{column.name} {error}: nothing can be judged by that"
            raise FigureError(f"{path}, line {number} has {what}") from error
        except (ValueError, KeyError) as error:
            value = shown(texts[column.name])
            raise StorageError(f"{path}, line {number}: {column.name} is {value}, not a {column.unit}") from error
    for name in _NEEDED:
        if cells[name] is None:
            raise StorageError(f"{path}, line {number}: {name} is empty; each row says what it is of, and its status")
    return cells


_NEEDED = ("model", "placement", "device", "dtype", "status")
