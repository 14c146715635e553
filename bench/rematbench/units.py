"""Numbers for people. In memory everything is SI or bytes; here, and only here, it becomes text.

MiB is 2**20 bytes and GiB 2**30; MB and GB are never printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from rematbench.errors import RematbenchError, shown
from rematbench.reading import BEYOND

Scale = Sequence[tuple[float, str]]
"""Units of one kind as (factor, name), the largest first; the page's script reads them too."""

BYTES: Scale = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
SECONDS: Scale = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
FLOPS: Scale = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP"))
SIZES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

MOST_PERCENT = 1_000_000
"""Ten thousand times as much; a greater margin is a slip, and one of 400 digits would be infinite."""


def unit_of(value: float, scale: Scale) -> tuple[float, str]:
    """Return the (factor, name) a value is written in: the largest unit it has one of, else the smallest."""
    return next((step for step in scale if abs(value) >= step[0]), scale[-1])


def format_number(number: float) -> str:
    """Three digits, or all before the point: `12.3`, `1023`; never with an exponent for a large one."""
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"


def _scaled(value: float, scale: Scale) -> str:
    factor, unit = unit_of(value, scale)
    return f"{format_number(value / factor)} {unit}"


def format_bytes(count: int) -> str:
    """`64 MiB`, `1.5 GiB`: three digits, binary units."""
    return _scaled(count, BYTES)


def format_sizes(sizes: Mapping[str, int]) -> str:
    """`batch=64 length=512`: arguments of a model's factory that are sizes."""
    return " ".join(f"{name}={size}" for name, size in sizes.items())


def format_mib(count: int) -> str:
    """A column's number in MiB, one digit after the point, no unit."""
    return f"{count / 2**20:.1f}"


def format_seconds(seconds: float) -> str:
    """`12.3 ms`, `1.5 s`."""
    return _scaled(seconds, SECONDS)


def format_flops(flops: int) -> str:
    """`226 MFLOP`; `0` for none at all."""
    return _scaled(flops, FLOPS) if flops else "0"


def format_ratio(ratio: float, places: int = 2) -> str:
    """`1.18×`."""
    return f"{ratio:.{places}f}×"


def format_range(low: float | None, high: float | None) -> str:
    """`1.10-1.25`, for a column of its own; nothing where an end is not known."""
    return "" if low is None or high is None else f"{low:.2f}-{high:.2f}"


def format_interval(ratio: float, low: float | None, high: float | None) -> str:
    """`1.18× [1.10, 1.25]`, for a sentence; the ratio alone where an end is not known."""
    return format_ratio(ratio) if low is None or high is None else f"{format_ratio(ratio)} [{low:.2f}, {high:.2f}]"


def format_percent(share: float) -> str:
    """`73 %` of a share of 0.73; a fraction of a percent keeps one digit."""
    percent = 100 * share
    if abs(percent) < 0.05:
        return "0 %"
    return f"{percent:.0f} %" if abs(percent) >= 10 else f"{percent:.1f} %"


def parse_percent(text: str) -> float:
    """Read `5%`, `0.5 %` or `0` as a share.

    Raises:
        RematbenchError: it is none, below zero, or beyond `MOST_PERCENT`.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%|0", text.strip())
    if match is None:
        raise RematbenchError(f"{shown(text)} is not a percentage: write 5% or 0.5%")
    percent = float(match[1] or 0)
    if percent > MOST_PERCENT:
        raise RematbenchError(f"a percentage of {len(match[1])} digits is beyond {MOST_PERCENT:,} %: write 5% or 0.5%")
    return percent / 100


def parse_bytes(text: str) -> int:
    """Read `1.2 GiB`, `300MB` or a bare number of bytes; a fraction of a byte is dropped.

    Raises:
        RematbenchError: it is none of these.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", text.strip())
    if match is None or match[2] not in SIZES:
        raise RematbenchError(f"{shown(text)} is not a size: write 1.2 GiB, 300 MB or a number of bytes")
    count = int(Decimal(match[1]) * SIZES[match[2]])
    if count >= BEYOND:
        raise RematbenchError(f"a size of {len(match[1])} digits is beyond any machine: write 1.2 GiB or 300 MB")
    return count
