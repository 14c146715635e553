"""How each kind of cell is written in a table for people, by its heading; an absent number is an empty cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rematbench.records.run import Row
from rematbench.units import (
    format_bytes,
    format_flops,
    format_mib,
    format_percent,
    format_range,
    format_ratio,
    format_seconds,
)


def _written(show: Callable[[Any], str], value: Callable[[Row], Any]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = value(row)
        return "" if found is None else show(found)

    return text


def _column(name: str, show: Callable[[Any], str] = str) -> Callable[[Row], str]:
    return _written(show, lambda row: row.cells[name])


TEXTS: Mapping[str, Callable[[Row], str]] = {
    "model": _column("model"),
    "placement": _column("placement"),
    "peak": _column("peak_bytes", format_bytes),
    "peak MiB": _column("peak_bytes", format_mib),
    "saved": _written(format_percent, lambda row: row.saved_share),
    "step": _written(format_seconds, lambda row: row.cost("time")),
    "ratio": _column("step_ratio", format_ratio),
    "95 % interval": lambda row: format_range(row.cells["step_ratio_low"], row.cells["step_ratio_high"]),
    "recompute": _column("recompute_flops", format_flops),
    "gradients": _column("gradients"),
    "buffers": _column("buffers"),
    "regions": _column("regions"),
    "message": _column("message"),
}


def texts(row: Row, headings: tuple[str, ...]) -> tuple[str, ...]:
    """Return a row's cells under the headings, of those in `TEXTS`."""
    return tuple(TEXTS[heading](row) for heading in headings)
