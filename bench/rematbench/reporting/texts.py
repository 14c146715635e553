"""The cells of a row as people read them on the page: one text for each, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rematbench.records.measurement import Status
from rematbench.reporting.gathering import Entry
from rematbench.units import format_bytes, format_flops, format_percent, format_range, format_ratio, format_seconds

_MARKS = {"bitwise": "✓", "equal": "✓", "noise": "≈", "close": "≈", "different": "✗"}


def texts_of(entry: Entry) -> dict[str, str]:
    """Return the texts of a row by name; empty for what is absent."""
    cells, step = entry.cells, entry.step
    share = cells["peak_ratio"]
    status = "" if cells["status"] == Status.OK else f"{cells['status']}: "
    return {
        "model": cells["model"],
        "placement": cells["placement"],
        "peak": _text(cells["peak_bytes"], format_bytes),
        "peak_ratio": _text(share, format_percent),
        "saved": _text(None if share is None else 1 - share, format_percent),
        "held": _text(cells["held_bytes"], format_bytes),
        "static": _text(cells["static_bytes"], format_bytes),
        "step": _text(step.median if step else None, format_seconds),
        "ratio": _text(cells["step_ratio"], format_ratio),
        "interval": format_range(cells["step_ratio_low"], cells["step_ratio_high"]),
        "recompute": _text(cells["recompute_flops"], format_flops),
        "gradients": _text(cells["gradients"], _marked),
        "buffers": _text(cells["buffers"], _marked),
        "regions": cells["regions"] or "",
        "message": f"{status}{cells['message'] or ''}",
    }


def _text(value: Any, show: Callable[[Any], str]) -> str:
    return "" if value is None else show(value)


def _marked(verdict: str) -> str:
    return f"{_MARKS[verdict]} {verdict}"
