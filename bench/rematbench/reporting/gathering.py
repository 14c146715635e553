"""What a report is made from: runs read from their folders or CSV files, grouped by model into series that compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rematbench.placement.placement import PLAIN
from rematbench.records.columns import COLUMNS, rows_of
from rematbench.records.frontier import not_beaten
from rematbench.records.measurement import Measurement, Status
from rematbench.records.run import CannotJudgeError, Cells, Key, read_run
from rematbench.records.step_time import Seconds, step_time
from rematbench.records.store import RECORDS, read_measurements


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a report.

    Attributes:
        record: None where the row comes from a CSV alone, which has neither timeline nor regions.
        step: as `step_time` has it; None where the row was not timed.
    """

    cells: Cells
    record: Measurement | None
    step: Seconds | None

    @property
    def fits_a_plot(self) -> bool:
        """Whether the row has a peak that training reached."""
        return self.cells["status"] == Status.OK and self.cells["peak_bytes"] is not None


@dataclass(frozen=True, kw_only=True)
class Series:
    """The placements of one model that compare: of one run, device and dtype."""

    label: str
    entries: tuple[Entry, ...]

    @property
    def plain(self) -> Entry | None:
        """The row of the plain step, if it has a peak."""
        found = (entry for entry in self.entries if entry.cells["placement"] == PLAIN)
        return next((entry for entry in found if entry.fits_a_plot), None)

    def frontier(self, cost: str) -> set[str]:
        """Return the placements that no other beats in peak and cost, `time` or `flops`."""
        costs = {
            entry.cells["placement"]: (entry.cells["peak_bytes"], value)
            for entry in self.entries
            if entry.fits_a_plot and (value := cost_of(entry, cost)) is not None
        }
        return not_beaten(costs)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model with all its series."""

    name: str
    series: tuple[Series, ...]


def cost_of(entry: Entry, cost: str) -> float | None:
    """Return seconds a step for `time`, recomputed operations for `flops`; None where not measured."""
    if cost == "time":
        return entry.step.median if entry.step else None
    recompute: float | None = entry.cells["recompute_flops"]
    return recompute


def models_of(sources: Sequence[Path]) -> tuple[Model, ...]:
    """Read runs and group their rows by model, in the order they were measured; further runs are laid over the first.

    Raises:
        StorageError: a source is no run, or cannot be read.
        CannotJudgeError: it has no rows.
    """
    found: dict[str, list[Series]] = {}
    for label, source in zip(_labels(sources), sources, strict=True):
        for (model, where), members in _by_model(source).items():
            found.setdefault(model, []).append(Series(label=f"{label} · {where}", entries=tuple(members)))
    return tuple(Model(name=name, series=_short(series)) for name, series in found.items())


def _labels(sources: Sequence[Path]) -> Iterator[str]:
    """Name each run by its folder or file, numbered where two have one name."""
    names = [source.resolve().stem if source.is_file() else source.resolve().name for source in sources]
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield f"{name} ({seen[name]})" if names.count(name) > 1 else name


def _short(series: Sequence[Series]) -> tuple[Series, ...]:
    """Leave the run out of the labels where the model is of one run."""
    runs = {entry.label.partition(" · ")[0] for entry in series}
    if len(runs) > 1:
        return tuple(series)
    return tuple(Series(label=one.label.partition(" · ")[2], entries=one.entries) for one in series)


def _by_model(source: Path) -> Mapping[tuple[str, str], list[Entry]]:
    groups: dict[tuple[str, str], list[tuple[Cells, Measurement | None]]] = {}
    for cells, record in _rows(source):
        groups.setdefault((cells["model"], f"{cells['device']}, {cells['dtype']}"), []).append((cells, record))
    return {key: list(_entries(members)) for key, members in groups.items()}


def _rows(source: Path) -> Iterable[tuple[Cells, Measurement | None]]:
    """Read a folder's records, or where there are none its CSV."""
    if not (source / RECORDS).exists():
        return [(cells, None) for cells in read_run(source).rows.values()]
    rows = rows_of(read_measurements(source))
    if not rows:
        raise CannotJudgeError(f"{source} holds no rows: nothing was measured")
    by_key: Mapping[Key, Measurement] = {row.case.key: row.case for row in rows}
    return [({column.name: column.value(row) for column in COLUMNS}, by_key[row.case.key]) for row in rows]


def _entries(rows: Sequence[tuple[Cells, Measurement | None]]) -> Iterator[Entry]:
    plain = next((cells["step_median_s"] for cells, _ in rows if cells["placement"] == PLAIN), None)
    for cells, record in rows:
        yield Entry(cells=cells, record=record, step=step_time(cells, plain))
