"""What a report is made from: the rows of runs, grouped by model into series that compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rematbench.errors import RematbenchError, unknown
from rematbench.records import frontier
from rematbench.records.measurement import Structure
from rematbench.records.run import Cost, Row, Run


@dataclass(frozen=True, kw_only=True)
class Series:
    """The rows of one model that compare: of one run, device and dtype."""

    label: str
    rows: tuple[Row, ...]

    @property
    def plain(self) -> Row | None:
        """The row of the plain step, if it has a peak."""
        return next((row for row in self.rows if row.is_plain and row.fits_a_plot), None)

    @property
    def cost(self) -> Cost:
        """What its placements are set against memory by: time, or operations where nothing was timed."""
        return "time" if any(row.step_s for row in self.rows) else "flops"

    def frontier(self, cost: Cost) -> set[str]:
        """Return the placements that no other beats in peak and cost."""
        return frontier.frontier(self.rows, cost)

    @property
    def structure(self) -> Structure | None:
        """The blocks and skips of the model's step, from whichever row holds them."""
        records = (row.measurement for row in self.rows if row.measurement)
        return next((record.structure for record in records if record.structure), None)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model with all its series."""

    name: str
    series: tuple[Series, ...]

    @property
    def structure(self) -> Structure | None:
        """The blocks and skips of its step, from whichever series holds them."""
        return next((found for series in self.series if (found := series.structure)), None)


def models_of(sources: Sequence[Path]) -> tuple[Model, ...]:
    """Read runs and group their rows by model, in the order they were measured; further runs are laid over the first.

    Raises:
        StorageError: a source is no run, or cannot be read.
        CannotJudgeError: it has no rows.
    """
    found: dict[str, list[Series]] = {}
    runs = [Run(source) for source in sources]  # before their names are asked for: it refuses what is no path
    for label, run in zip(_labels(sources), runs, strict=True):
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in run.rows.values():
            model, _, device, dtype = row.key
            groups.setdefault((model, f"{device}, {dtype}"), []).append(row)
        for (model, where), rows in groups.items():
            found.setdefault(model, []).append(Series(label=f"{label} · {where}", rows=tuple(rows)))
    return tuple(Model(name=name, series=_short(series)) for name, series in found.items())


def model_named(models: Sequence[Model], name: str) -> Model:
    """Return a model by its name.

    Raises:
        RematbenchError: there is none; the closest is offered.
    """
    by_name = {model.name: model for model in models}
    if name not in by_name:
        raise RematbenchError(f"--model: {unknown('model', name, by_name)}")
    return by_name[name]


def _labels(sources: Sequence[Path]) -> Iterator[str]:
    """Name each run by its folder or file, numbered where two have one name."""
    names = [source.resolve().stem if source.is_file() else source.resolve().name for source in sources]
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield f"{name} ({seen[name]})" if names.count(name) > 1 else name


def _short(series: Sequence[Series]) -> tuple[Series, ...]:
    """Leave the run out of the labels where the model is of one run."""
    parts = [one.label.partition(" · ") for one in series]
    if len({run for run, _, _ in parts}) > 1:
        return tuple(series)
    return tuple(replace(one, label=where) for one, (_, _, where) in zip(series, parts, strict=True))
