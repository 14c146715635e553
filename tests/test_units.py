"""Numbers for people: known answers, and every text read back."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rematbench.errors import RematbenchError
from rematbench.units import (
    BYTES,
    FLOPS,
    SECONDS,
    SIZES,
    Scale,
    format_bytes,
    format_flops,
    format_interval,
    format_mib,
    format_number,
    format_percent,
    format_range,
    format_ratio,
    format_seconds,
    parse_bytes,
    unit_of,
)

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


def test_an_interval_in_a_sentence_and_in_a_column() -> None:
    assert format_interval(1.184, 1.1, 1.256) == "1.18× [1.10, 1.26]"
    assert format_range(1.1, 1.256) == "1.10-1.26"
    assert format_interval(1.184, None, None) == "1.18×"
    assert format_range(None, None) == ""


@pytest.mark.parametrize(
    ("number", "text"), [(0.012345, "0.0123"), (999.4, "999"), (999.5, "1000"), (12345.6, "12346")]
)
def test_a_number_has_three_digits_and_no_exponent(number: float, text: str) -> None:
    assert format_number(number) == text


@pytest.mark.parametrize(
    ("write", "scale", "values"),
    [
        (format_bytes, BYTES, st.integers(1, 2**50)),
        (format_seconds, SECONDS, st.floats(1e-9, 1e6)),
        (format_flops, FLOPS, st.integers(1, 10**18)),
    ],
    ids=["bytes", "seconds", "flops"],
)
def test_an_axis_has_the_unit_of_the_text(
    write: Callable[[float], str], scale: Scale, values: st.SearchStrategy[float]
) -> None:
    """A chart's greatest value is written in the axis's unit: 1023 MiB is 1023 on the axis, not 1020."""

    @settings(deadline=None)
    @given(values)
    def agrees(value: float) -> None:
        factor, unit = unit_of(value, scale)
        assert write(value) == f"{format_number(value / factor)} {unit}"
        assert WORTH[unit] == factor

    agrees()


def test_every_unit_of_bytes_that_is_written_can_be_read() -> None:
    assert {name: SIZES[name] for _, name in BYTES} == {name: factor for factor, name in BYTES}


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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1024", 1024),
        ("12 B", 12),
        ("300MB", 300_000_000),
        ("300 MiB", 314_572_800),
        ("1.2 GiB", 1_288_490_188),
        ("1.2 GB", 1_200_000_000),
        (" 2 kB ", 2000),
        ("2 KB", 2000),
        ("2 KiB", 2048),
        ("1 TiB", 2**40),
        ("1 TB", 10**12),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MB",
        "12 MBanana",
        "12 mb",
        "12 Mb",
        "1,5 GiB",
        "-1",
        "1e9",
        ".5 GiB",
        "1. GiB",
        "1 GiB 2",
        "nan",
        "inf",
        "٣ B",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RematbenchError, match="is not a size: write 1") as refused:
        parse_bytes(text)
    assert repr(text) in str(refused.value)


@settings(deadline=None)
@given(st.integers(0, 2**60))
def test_a_bare_number_is_bytes(count: int) -> None:
    assert parse_bytes(str(count)) == count


@settings(deadline=None)
@given(st.integers(0, 2**40 - 1))
def test_a_printed_size_is_read_back(count: int) -> None:
    """Half a unit in the third digit is half a percent at most, and the byte that is dropped."""
    assert abs(parse_bytes(format_bytes(count)) - count) <= 0.00501 * count + 1


def test_a_printed_size_is_read_back_where_both_errors_meet() -> None:
    assert (format_bytes(1111), parse_bytes("1.08 KiB")) == ("1.08 KiB", 1105)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Nd"]), max_size=12))
def test_text_without_a_number_is_no_size(text: str) -> None:
    with pytest.raises(RematbenchError, match="is not a size"):
        parse_bytes(text)


@settings(deadline=None)
@given(st.decimals(0, 10**6, places=3), st.sampled_from(["kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_binary_and_decimal_units_are_never_blurred(number: Decimal, unit: str) -> None:
    power = "KMG".index(unit[0].upper()) + 1
    worth = Fraction(number) * (1024 if "i" in unit else 1000) ** power
    assert parse_bytes(f"{number} {unit}") == worth // 1
