"""The cells of a row as people read them: one text for each, in whichever table, chart or sentence it stands.

What comes from a model or a file may hold any character; `visible` and `one_line` make it harmless to print.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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

_STEERING = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
"""What a terminal obeys instead of showing it: control characters but for line ends and tabs, those that turn the
direction of writing, and halves of surrogate pairs, which nothing can encode."""

_LINE_ENDS = re.compile("[ \\t]*[\\n\\r\\x0b\\x0c\\x1c-\\x1e\\x85\\u2028\\u2029][\\s]*")


def visible(text: str) -> str:
    """Return a text with what would steer a terminal written out, as `\\x1b`; lines stay lines."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def clipped(text: str, most: int = 1000) -> str:
    """Return a text that is no longer than that; of a longer one the beginning, and a sign that there was more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def one_line(text: str) -> str:
    """Return a text that stands on one line and shows all its characters.

    So that nothing in it can pass for a line of ours, or for a command to the program that reads them.
    """
    return visible(_LINE_ENDS.sub(" ", text.strip("\r\n")))


def _written(show: Callable[[Any], str], value: Callable[[Row], Any]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = value(row)
        return "" if found is None else show(found)

    return text


def _column(name: str, show: Callable[[Any], str] = str) -> Callable[[Row], str]:
    return _written(show, lambda row: row.cells[name])


TEXTS: dict[str, Callable[[Row], str]] = {
    "model": _column("model"),
    "placement": _column("placement"),
    "peak": _column("peak_bytes", format_bytes),
    "peak_mib": _column("peak_bytes", format_mib),
    "peak_ratio": _column("peak_ratio", format_percent),
    "saved": _written(format_percent, lambda row: row.saved_share),
    "held": _column("held_bytes", format_bytes),
    "static": _column("static_bytes", format_bytes),
    "step": _written(format_seconds, lambda row: row.cost("time")),
    "ratio": _column("step_ratio", format_ratio),
    "interval": lambda row: format_range(row.cells["step_ratio_low"], row.cells["step_ratio_high"]),
    "recompute": _column("recompute_flops", format_flops),
    "gradients": _column("gradients"),
    "buffers": _column("buffers"),
    "regions": _column("regions"),
    "message": lambda row: ("" if row.is_ok else f"{row.cells['status']}: ") + (row.cells["message"] or ""),
}
"""By name; `message` begins with the status of a row that failed."""

_HEADINGS = {"peak_mib": "peak MiB", "interval": "95 % interval"}
_MARKS = {"bitwise": "✓", "equal": "✓", "noise": "≈", "close": "≈", "different": "✗"}


def heading_of(name: str) -> str:
    """Return what stands above a text in a table."""
    return _HEADINGS.get(name, name)


def texts_of(row: Row) -> dict[str, str]:
    """Return the texts of a row by name; empty for what is absent."""
    return {name: text(row) for name, text in TEXTS.items()}


def marked(verdict: str) -> str:
    """Return the text of a verdict on gradients or buffers with its sign, for those who read a table at a glance.

    What is no verdict, as a CSV that somebody edited may have, stands as it is.
    """
    return f"{_MARKS[verdict]} {verdict}" if verdict in _MARKS else verdict
