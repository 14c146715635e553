"""Numbers for people: known answers, and every text read back."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.units import format_bytes, format_flops, format_mib, format_percent, format_ratio, format_seconds

WORTH = {
    **{"B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3},
    **{"s": 1.0, "ms": 1e-3, "µs": 1e-6},
    **{"FLOP": 1.0, "kFLOP": 1e3, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12},
}


def read_back(text: str) -> float:
    """Read a number and its unit the way a person does."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) (\S+)", text)
    assert found, f"{text!r} is no plain number with a unit"
    return float(found[1]) * WORTH[found[2]]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (64 * 2**20, "64 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**30 - 1, "1024 MiB"),
        (2**41, "2048 GiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (1.5, "1.5 s"), (2e-6, "2 µs"), (0.0, "0 µs"), (0.9996, "1000 ms"), (1234.4, "1234 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("flops", "text"),
    [(0, "0"), (1, "1 FLOP"), (226_492_416, "226 MFLOP"), (999_900_000, "1000 MFLOP"), (31 * 10**15, "31000 TFLOP")],
)
def test_flops(flops: int, text: str) -> None:
    assert format_flops(flops) == text


def test_mib_is_a_bare_number_with_one_digit() -> None:
    assert [format_mib(count) for count in (0, 2**20, 1_572_864, 2**30)] == ["0.0", "1.0", "1.5", "1024.0"]


def test_ratio_has_two_digits() -> None:
    assert [format_ratio(ratio) for ratio in (1.0, 1.184, 12.345)] == ["1.00×", "1.18×", "12.35×"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.73, "73 %"), (0.0, "0 %"), (0.004, "0.4 %"), (1.0, "100 %"), (-1.0, "-100 %")]
)
def test_percent(share: float, text: str) -> None:
    assert format_percent(share) == text


@pytest.mark.parametrize(
    ("write", "values"),
    [
        (format_bytes, st.integers(1, 2**50)),
        (format_seconds, st.floats(1e-6, 1e6)),
        (format_flops, st.integers(1, 10**18)),
    ],
    ids=["bytes", "seconds", "flops"],
)
def test_three_digits_survive_in_print(write: Callable[[float], str], values: st.SearchStrategy[float]) -> None:
    """Half a unit in the third digit is half a percent at most."""

    @settings(deadline=None)
    @given(values)
    def survives(value: float) -> None:
        assert read_back(write(value)) == pytest.approx(value, rel=0.00501)

    survives()
