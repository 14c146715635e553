"""Numbers for people. In memory everything is SI or bytes; here, and only here, it becomes text.

MiB is 2**20 bytes and GiB 2**30; MB and GB are never printed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from rematbench.errors import RematbenchError

_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_SIZES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP"))


def _scaled(value: float, scale: Sequence[tuple[float, str]]) -> str:
    factor, unit = next((step for step in scale if abs(value) >= step[0]), scale[-1])
    count = value / factor
    return f"{count:.3g} {unit}" if abs(count) < 999.5 else f"{count:.0f} {unit}"


def format_bytes(count: int) -> str:
    """`64 MiB`, `1.5 GiB`: three digits, binary units."""
    return _scaled(count, _BYTES)


def format_mib(count: int) -> str:
    """A column's number in MiB, one digit after the point, no unit."""
    return f"{count / 2**20:.1f}"


def format_seconds(seconds: float) -> str:
    """`12.3 ms`, `1.5 s`."""
    return _scaled(seconds, _SECONDS)


def format_flops(flops: int) -> str:
    """`226 MFLOP`; `0` for none at all."""
    return _scaled(flops, _FLOPS) if flops else "0"


def format_ratio(ratio: float) -> str:
    """`1.18×`."""
    return f"{ratio:.2f}×"


def format_percent(share: float) -> str:
    """`73 %` of a share of 0.73; a fraction of a percent keeps one digit."""
    percent = 100 * share
    if abs(percent) < 0.05:
        return "0 %"
    return f"{percent:.0f} %" if abs(percent) >= 10 else f"{percent:.1f} %"


def parse_percent(text: str) -> float:
    """Read `5%`, `0.5 %` or `0` as a share.

    Raises:
        RematbenchError: it is none, or below zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%|0", text.strip())
    if match is None:
        raise RematbenchError(f"{text!r} is not a percentage: write 5% or 0.5%")
    return float(match[1] or 0) / 100


def parse_bytes(text: str) -> int:
    """Read `1.2 GiB`, `300MB` or a bare number of bytes; a fraction of a byte is dropped.

    Raises:
        RematbenchError: it is none of these.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", text.strip())
    if match is None or match[2] not in _SIZES:
        raise RematbenchError(f"{text!r} is not a size: write 1.2 GiB, 300 MB or a number of bytes")
    return int(Decimal(match[1]) * _SIZES[match[2]])
