"""Predicted rows as a table: what each placement needs, what it recomputes, and how far it is to be believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from tabulate import tabulate

from rematbench.records.run import Row
from rematbench.reporting.texts import one_line
from rematbench.units import format_bytes, format_flops, format_ratio

_HEADER = ("placement", "step", "with static", "held", "of none", "recomputes", "forward", "told by")


def prediction_tables(rows: Iterable[Row]) -> Iterator[str]:
    """Write a table for each model and device, what is worth knowing of its rows beneath it."""
    for (model, device), group in groupby(rows, key=lambda row: (row.cells["model"], row.cells["device"])):
        members = list(group)
        lines = [_line(row) for row in members]
        table = tabulate(lines, headers=_HEADER, disable_numparse=True, colalign=("left", *["right"] * 6, "left"))
        notes = dict.fromkeys(
            one_line(f"  {row.name}: {row.cells['message']}") for row in members if row.cells["message"]
        )
        yield "\n".join([one_line(f"{model} on {device}, not run at this size"), table, *notes, ""])


def _line(row: Row) -> tuple[str, ...]:
    cells = row.cells
    if not row.is_ok or cells["peak_bytes"] is None:
        return (row.name, str(cells["status"]), *[""] * 6)
    recomputed, forward = cells["recompute_flops"], cells["forward_flops"]
    low, high = cells["peak_low_bytes"], cells["peak_high_bytes"]
    exact = low == high
    return (
        row.name,
        format_bytes(cells["peak_bytes"]) if exact else f"{format_bytes(low)} to {format_bytes(high)}",
        format_bytes(cells["peak_bytes"] + cells["static_bytes"]),
        format_bytes(cells["held_bytes"]),
        format_ratio(cells["peak_ratio"]) if cells["peak_ratio"] is not None else "",
        "" if recomputed is None else format_flops(recomputed) if recomputed else "nothing",
        "" if not forward else format_flops(forward),
        f"{cells['predicted_from']} small steps{'' if exact else ', in doubt'}",
    )
