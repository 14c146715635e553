"""Comparisons of rows made up for them, against arithmetic by hand."""

from math import prod

import pytest
from tests.records.making import CPU, MIB, equality, measurement, memory, run_of, timing

from rematbench.errors import RematbenchError
from rematbench.records.measurement import Flops, Measurement
from rematbench.reporting.compare import _mean, by_sheet, change_sheet, frontier_sheets


def case(placement: str, mib: int, ratio: float, **values: object) -> Measurement:
    usual = {"memory": memory(mib * MIB), "timing": timing(ratio), "equality": equality(), "environment": CPU}
    return measurement(placement, **usual | values)


RUN = run_of(case("none", 100, 1.0), case("each", 40, 1.3), case("sqrt", 60, 1.1), case("all", 100, 1.5))


def test_the_frontier_is_priced_step_by_step() -> None:
    """A plain step takes 10 ms: 1 ms for 40 MiB, then 2 ms for 20 MiB more."""
    (sheet,) = frontier_sheets(RUN)
    assert [(row[0], row[1], row[2], row[5]) for row in sheet.rows] == [
        ("none", "100.0", "0 %", ""),
        ("sqrt", "60.0", "40 %", "0.025"),
        ("each", "40.0", "60 %", "0.1"),
    ]
    assert sheet.notes == ("dominated (1): all",)


def test_the_order_is_asked_for_by_a_known_name() -> None:
    assert [row[0] for row in next(frontier_sheets(RUN, "time")).rows] == ["none", "sqrt", "each"]
    with pytest.raises(RematbenchError, match="--sort: unknown order 'tme': did you mean 'time'"):
        list(frontier_sheets(RUN, "tme"))


def test_devices_stand_side_by_side() -> None:
    sheet = by_sheet(run_of(case("none", 10, 1.0), case("none", 8, 1.0, device="cuda:0")), "device")
    assert sheet.header == (
        "model",
        "placement",
        "dtype",
        "cpu peak MiB",
        "cpu ratio",
        "cuda:0 peak MiB",
        "cuda:0 ratio",
    )
    assert sheet.rows == (("toy", "none", "float32", "10.0", "1.00×", "8.0", "1.00×"),)
    with pytest.raises(RematbenchError, match="--by: unknown column 'model'"):
        by_sheet(RUN, "model")


def test_changes_are_marked_and_the_rest_is_folded() -> None:
    new = run_of(case("none", 100, 1.0), case("each", 50, 1.3), case("sqrt", 30, 1.1), case("last:1", 90, 1.0))
    sheet = change_sheet(RUN, new)
    marks = {row[1]: row[2] for row in sheet.rows if row[1]}
    assert marks == {"each": "worse", "sqrt": "better", "all": "gone", "last:1": "new"}
    assert "within noise (1): toy/none" in sheet.notes
    mean = prod([1.0, 50 / 40, 30 / 60]) ** (1 / 3)
    assert sheet.rows[-1][0] == "geometric mean"
    assert f"{mean:.3f}×" in sheet.rows[-1]


def test_time_counts_only_when_the_intervals_part() -> None:
    slower = run_of(case("none", 100, 1.0), case("each", 40, 1.5), case("sqrt", 60, 1.1), case("all", 100, 1.5))
    assert [row[1:3] for row in change_sheet(RUN, slower).rows[:-1]] == [("each", "worse")]
    few = run_of(case("each", 40, 1.5, timing=timing(1.5, rounds=3)))
    assert [row for row in change_sheet(run_of(case("each", 40, 1.3)), few).rows if row[1] == "each"] == []


def test_other_environments_are_said() -> None:
    other = CPU.model_copy(update={"torch": "2.14.0", "threads": 8})
    notes = " ".join(change_sheet(RUN, run_of(case("none", 100, 1.0, environment=other))).notes)
    assert "different torch: 2.13.0 → 2.14.0" in notes
    assert "different threads: 2 → 8" in notes


def test_the_plain_step_is_shown_even_where_noise_puts_another_before_it() -> None:
    (sheet,) = frontier_sheets(run_of(case("none", 100, 1.0), case("each", 40, 0.9)))
    assert [row[0] for row in sheet.rows] == ["none", "each"]
    assert [row[5] for row in sheet.rows] == ["", ""]
    assert sheet.notes == ()


def test_training_and_recomputation_that_changed_are_never_folded_away() -> None:
    def flops(recompute: int) -> Flops:
        return Flops(forward=1, total=9, recompute=recompute, uncounted_ops=())

    old = run_of(case("each", 40, 1.3, flops=flops(5)), case("sqrt", 40, 1.3, flops=flops(5)))
    new = run_of(
        case("each", 40, 1.3, flops=flops(5), equality=equality("different")), case("sqrt", 40, 1.3, flops=flops(6))
    )
    marks = {row[1]: row[2] for row in change_sheet(old, new).rows if row[1]}
    assert marks == {"each": "training", "sqrt": "worse"}


def test_recomputation_that_begins_or_ends_is_never_folded_away() -> None:
    """There is no ratio to nothing, and yet a placement that begins to recompute got worse."""

    def flops(recompute: int | None) -> Flops:
        return Flops(forward=1, total=9, recompute=recompute, uncounted_ops=())

    counts = {"begins": (0, 5), "ends": (5, 0), "same": (0, 0), "unknown": (None, 5)}
    old, new = (run_of(*(case(name, 40, 1.3, flops=flops(both[at])) for name, both in counts.items())) for at in (0, 1))
    assert {row[1]: row[2] for row in change_sheet(old, new).rows if row[1]} == {"begins": "worse", "ends": "better"}


def test_prices_have_three_digits_however_great() -> None:
    (sheet,) = frontier_sheets(run_of(case("none", 100, 1.0), case("each", 99, 123.456)))
    assert [row[5] for row in sheet.rows] == ["", "1225"]


def test_a_geometric_mean_with_a_zero_is_zero() -> None:
    assert (_mean([0.5, 2.0, None]), _mean([0.0, 2.0]), _mean([None])) == (1.0, 0.0, None)
