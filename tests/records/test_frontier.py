"""The frontier against brute force over every pair of rows."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records.making import measurement, memory, rows, timing

from rematbench.records.frontier import dominated, frontier
from rematbench.records.measurement import Flops, Measurement, Timing
from rematbench.records.run import Run
from rematbench.records.store import csv_text

few = st.integers(1, 4)


@st.composite
def runs(draw: st.DrawFn) -> list[Measurement]:
    """Draw placements whose costs often tie; some failed, some lack their memory or time."""
    paired = draw(st.booleans())
    return [
        measurement(
            f"p{place}",
            status=draw(st.sampled_from(("ok", "ok", "ok", "error"))),
            memory=draw(st.none() | few.map(memory)),
            timing=draw(st.none() | few.map(lambda ratio: timing(float(ratio), paired=paired))),
        )
        for place in range(draw(st.integers(0, 7)))
    ]


@settings(deadline=None)
@given(runs())
def test_dominated_is_what_some_other_row_beats(cases: list[Measurement]) -> None:
    costs = {
        case.placement: (case.memory.peak_bytes, case.timing.step_s[0])
        for case in cases
        if case.status == "ok" and case.memory and case.timing
    }
    beaten = {
        name
        for name, (peak, step) in costs.items()
        for other, (least_peak, least_step) in costs.items()
        if other != name and least_peak <= peak and least_step <= step and (least_peak < peak or least_step < step)
    }
    assert dominated(rows(*cases)) == beaten
    assert frontier(rows(*cases)) == costs.keys() - beaten


def test_of_two_equal_rows_none_is_dominated() -> None:
    cases = [measurement(name, memory=memory(5), timing=timing(1.0)) for name in ("a", "b")]
    assert dominated(rows(*cases)) == set()


def test_a_failed_row_neither_dominates_nor_is_dominated() -> None:
    cheap = measurement("cheap", status="out_of_memory", memory=memory(1), timing=timing(1.0))
    dear = measurement("dear", status="timeout", memory=memory(9), timing=timing(9.0))
    assert dominated(rows(cheap, measurement("middle", memory=memory(5), timing=timing(5.0)), dear)) == set()


def test_time_is_the_paired_ratio_where_there_is_one() -> None:
    """`late` was slower by the clock only because the whole machine was."""
    early = Timing(step_s=(2.0, 2.0), plain_s=(1.0, 1.0))
    late = Timing(step_s=(3.0, 3.0), plain_s=(2.0, 2.0))
    cases = [measurement("early", memory=memory(5), timing=early), measurement("late", memory=memory(5), timing=late)]
    assert dominated(rows(*cases)) == {"early"}


def test_a_ratio_is_never_held_against_seconds() -> None:
    """A plain step that fails in one run and not in the next leaves rows of both kinds."""
    plain = measurement("none", memory=memory(9), timing=timing(1.0, step_s=0.01))
    alone = measurement("each", memory=memory(5), timing=timing(1.5, step_s=0.01, paired=False))
    assert dominated(rows(plain, alone)) == set()


def test_by_operations_it_needs_no_times() -> None:
    counts = {"none": (9, 0), "each": (3, 8), "all": (9, 9), "sqrt": (4, 8), "unknown": (1, None)}
    cases = [
        measurement(name, memory=memory(peak), flops=Flops(forward=9, total=30, recompute=count, uncounted_ops=()))
        for name, (peak, count) in counts.items()
    ]
    assert frontier(rows(*cases), "flops") == {"none", "each"}
    assert dominated(rows(*cases), "flops") == {"all", "sqrt"}
    assert frontier(rows(*cases)) == dominated(rows(*cases)) == set()


def test_a_csv_has_the_frontier_of_its_records(tmp_path: Path) -> None:
    times = {"none": (9, 1.0), "each": (3, 1.3), "all": (9, 1.4)}
    cases = [measurement(name, memory=memory(peak), timing=timing(ratio)) for name, (peak, ratio) in times.items()]
    (tmp_path / "run.csv").write_text(csv_text(cases))
    assert frontier(Run(tmp_path / "run.csv").rows.values()) == frontier(rows(*cases)) == {"none", "each"}


def test_rows_may_be_read_only_once() -> None:
    cases = rows(*(measurement(f"p{peak}", memory=memory(peak), timing=timing(1.0)) for peak in (1, 2)))
    assert dominated(iter(cases)) == {"p2"}
