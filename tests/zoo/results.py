"""Rows of the zoo as they are kept: a CSV with plain, typed columns. An absent number is an empty cell."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.zoo.measuring import BY_HAND, PLANS

from rematbench.records.columns import cell_text, csv_lines, unshielded

Row = Mapping[str, Any]

_TEXTS = ("network", "library", "kinds", "own", "commit", "status", "message", "unsteady")
_COUNTS = ("static_bytes", "plain_peak_bytes", "own_peak_bytes")
_SECONDS = ("plain_step_s", "plan_s", "seconds")


def _all(names: Iterable[str], kind: Any) -> dict[str, Any]:
    return dict.fromkeys(names, kind)


COLUMNS: dict[str, Any] = (
    _all(_TEXTS, str)
    | _all(_COUNTS, int)
    | {"own_message": str}
    | _all(_SECONDS, float)
    | {
        f"{name}_{what}": kind
        for name in BY_HAND
        for what, kind in (("peak_bytes", int), ("verdict", str), ("message", str))
    }
    | {
        f"{prefix}_{what}": kind
        for prefix in PLANS
        for what, kind in (
            *(("peak_bytes", int), ("predicted_bytes", int), ("tries", int)),
            *(("verdict", str), ("regions", str), ("message", str)),
        )
    }
    | {"measured_at": str}
)
"""Every column with its type: `_bytes` of a peak are above the start of the step, `_s` are seconds.

`<placement>_message` and `<plan>_message` are the sentence in place of a peak; `least` is the least peak that a plan
reaches and `plan60` the plan at 60 % of the plain step's peak; `plan_s` is what planning both took.
"""


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a CSV by network; none where there is no such file."""
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        rows = [_typed(row) for row in csv.DictReader(lines)]
    return {row["network"]: row for row in rows}


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: (unshielded(row[name]) if kind is str else kind(row[name])) if row.get(name) else None
        for name, kind in COLUMNS.items()
    }


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write rows, in their order, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    waiting = file.with_suffix(".part")
    cells = [[cell_text(row.get(name)) for name in COLUMNS] for row in rows]
    waiting.write_text(csv_lines([COLUMNS, *cells]), newline="")
    waiting.replace(file)
