"""The columns of `results.csv`: which, in which order, and where each number comes from."""

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records.making import CPU, equality, measurement, measurements, memory, timing

from rematbench.errors import FigureError
from rematbench.placement.placement import Placement, Region
from rematbench.records.columns import COLUMNS, Cells, Column, Context, cells_of
from rematbench.records.measurement import Flops, Measurement, PlanFacts, Timing
from rematbench.records.store import csv_text

EXPECTED = """
suite, model, placement, device, dtype, status, message, regions, checkpointed_blocks, static_bytes,
peak_bytes, peak_ratio, held_bytes, peak_phase, repeatable, step_median_s, step_iqr_s, step_ratio, step_ratio_low,
step_ratio_high, rounds, forward_flops, recompute_flops, uncounted_ops, gradients, gradients_max_abs_diff,
gradients_worst, loss, buffers, rng_state, resident_bytes, reserved_bytes, memory_meter, torch, python, device_name,
threads, commit, measured_at, held_by_block, peer, peer_peak_ratio, peer_step_ratio, peer_step_ratio_low,
peer_step_ratio_high, predicted_ratio, compile_s, allocated_bytes, active_bytes, device_used_bytes, plan_reserved_bytes,
device_software, device_allocator, predicted_from, checked_at, peak_low_bytes, peak_high_bytes
"""
ALWAYS_THERE = {"suite", "model", "placement", "device", "dtype", "status", "message", "measured_at"}


def cells(*cases: Measurement) -> list[Cells]:
    """Return the cells of a run's measurements."""
    return cells_of(cases)


def test_the_columns_are_these_in_this_order() -> None:
    assert [column.name for column in COLUMNS] == [name.strip() for name in EXPECTED.split(",")]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_column_says_what_it_means_and_in_what_unit(column: Any) -> None:
    assert column.meaning
    unit = {"bytes": "bytes", "s": "s", "flops": "FLOP", "ratio": "×"}.get(column.name.rpartition("_")[2])
    assert unit is None or column.unit == unit


def test_a_full_row() -> None:
    region = Region(path="blocks[0:2]", save="matmuls")
    plain = measurement(memory=memory(200))
    case = measurement(
        "each",
        message="buffer bn.running_mean differs",
        regions=Placement(name="each", regions=(region, Region(path="blocks[2]"))),
        checkpointed_blocks=3,
        memory=memory(
            50,
            20,
            static_bytes=7,
            passes_peak_bytes=(50, 51),
            reserved_bytes=64,
            meter="counters",
            held_by_block={"a": 20},
        ),
        equality=equality("close", gradients_max_abs_diff=1e-7, gradients_worst="w", buffers="different", buffer="bn"),
        flops=Flops(forward=100, total=400, recompute=90, uncounted_ops=("aten.a", "aten.b")),
        timing=Timing(step_s=(3.0, 1.0, 2.0), plain_s=(1.0, 1.0, 1.0)),
        resident_bytes=4096,
        environment=CPU,
    )
    assert cells(plain, case)[1] == {
        **{"suite": "mine", "model": "toy", "placement": "each", "device": "cpu", "dtype": "float32", "status": "ok"},
        **{"message": "buffer bn.running_mean differs", "regions": "blocks[0:2]+save=matmuls blocks[2]"},
        **{"checkpointed_blocks": 3, "static_bytes": 7, "peak_bytes": 50, "peak_ratio": 0.25, "held_bytes": 20},
        **{"peak_phase": "backward", "repeatable": False, "step_median_s": 2.0, "step_iqr_s": 1.0},
        **{"step_ratio": 2.0, "step_ratio_low": None, "step_ratio_high": None, "rounds": 3},
        **{"forward_flops": 100, "recompute_flops": 90, "uncounted_ops": "aten.a aten.b", "gradients": "close"},
        **{"gradients_max_abs_diff": 1e-7, "gradients_worst": "w", "loss": "equal", "buffers": "different"},
        **{"rng_state": "equal", "resident_bytes": 4096, "reserved_bytes": 64, "memory_meter": "counters"},
        **{"torch": "2.13.0", "python": "3.11.7", "device_name": "A Processor", "threads": 2, "commit": "0123abc+"},
        "measured_at": "2030-01-31",
        "held_by_block": {"a": 20},
        **dict.fromkeys(["peer", "peer_peak_ratio", "peer_step_ratio", "peer_step_ratio_low", "peer_step_ratio_high"]),
        **{"predicted_ratio": None, "compile_s": None, "allocated_bytes": None, "active_bytes": None},
        **{"device_used_bytes": None, "plan_reserved_bytes": None, "device_software": None, "device_allocator": None},
        **dict.fromkeys(["predicted_from", "checked_at", "peak_low_bytes", "peak_high_bytes"]),
    }


def test_a_gpu_s_row_says_what_its_allocator_did_and_what_its_kernels_depend_on() -> None:
    software = {"software": "CUDA 13.0, cuDNN 91002", "allocator": "PYTORCH_ALLOC_CONF=expandable_segments:True"}
    told = {"allocated_bytes": 60, "active_bytes": 61, "reserved_bytes": 64, "device_used_bytes": 99}
    facts = planned("each", [1.0], [1.0]).plan
    assert facts is not None
    case = measurement(
        memory=memory(50, **told),
        environment=CPU.model_copy(update=software),
        plan=facts.model_copy(update={"reserved_bytes": 52}),
    )
    (row,) = cells(case)
    assert told.items() <= row.items()
    assert row["plan_reserved_bytes"] == 52
    assert (row["device_software"], row["device_allocator"]) == tuple(software.values())
    (on_cpu,) = cells(measurement(environment=CPU.model_copy(update={"allocator": "MALLOC_ARENA_MAX=1"})))
    assert (on_cpu["device_software"], on_cpu["device_allocator"]) == (None, None)


def planned(peer: str, step_s: list[float], plain_s: list[float], peak: int = 30) -> Measurement:
    facts = PlanFacts(
        minimise="time",
        budget_bytes=50,
        budget_of=peer,
        predicted_peak_bytes=30,
        measured_peak_bytes=30,
        predicted_cost=0.5,
        predicted_ratio=1.5,
        bound_cost=None,
        bound_peak_bytes=10,
        least_peak_bytes=20,
        plain_cost=1.0,
        tries=1,
    )
    timing = Timing(step_s=tuple(step_s), plain_s=tuple(plain_s))
    return measurement(f"plan:={peer}", memory=memory(peak), plan=facts, timing=timing)


def test_a_plan_is_held_to_the_placement_whose_peak_was_its_budget() -> None:
    """By the median of the ratios within each round, not by the ratio of the medians: 0.5, 1 and 2 here."""
    plain = [1.0, 1.0, 1.0]
    sqrt = measurement("sqrt", memory=memory(40), timing=Timing(step_s=(2.0, 3.0, 9.0), plain_s=tuple(plain)))
    *_, values = cells(measurement(memory=memory(80)), sqrt, planned("sqrt", [1.0, 3.0, 18.0], plain))
    assert (values["peer"], values["peer_peak_ratio"], values["peer_step_ratio"]) == ("sqrt", 0.75, 1.0)
    assert values["peer_step_ratio_low"] is values["peer_step_ratio_high"] is None  # of three rounds
    assert values["predicted_ratio"] == 1.5


@pytest.mark.parametrize(
    "peer",
    [
        measurement("each", memory=memory(40), timing=Timing(step_s=(1.0,), plain_s=(1.0,))),
        measurement("sqrt", memory=memory(40)),
        measurement("sqrt", memory=memory(40), timing=Timing(step_s=(1.0,), plain_s=(2.0,))),
        measurement("sqrt", memory=memory(40), timing=Timing(step_s=(1.0,), plain_s=())),
    ],
    ids=["another placement", "not timed", "timed in other rounds", "timed without the plain step"],
)
def test_a_plan_that_was_not_timed_with_its_peer_has_no_ratio_to_it(peer: Measurement) -> None:
    _, values = cells(peer, planned("sqrt", [1.0], [1.0]))
    assert values["peer_step_ratio"] is values["peer_step_ratio_low"] is values["peer_step_ratio_high"] is None


def test_what_is_absent_is_none() -> None:
    (values,) = cells(measurement("each"))
    assert {name for name, value in values.items() if value is not None} == ALWAYS_THERE


def test_without_plain_samples_there_is_a_time_but_no_ratio() -> None:
    (values,) = cells(measurement("each", timing=timing(2.0, 0.5, paired=False)))
    assert (values["step_median_s"], values["rounds"]) == (1.0, 9)
    assert values["step_ratio"] is values["step_ratio_low"] is values["step_ratio_high"] is None


@pytest.mark.parametrize(
    ("plain", "ratio"),
    [(memory(80), 0.5), (memory(0), None), (None, None)],
    ids=["there", "of nothing", "without memory"],
)
def test_the_peak_ratio_is_to_a_plain_peak(plain: Any, ratio: float | None) -> None:
    _, values = cells(measurement(memory=plain), measurement("each", memory=memory(40)))
    assert values["peak_ratio"] == ratio


def test_the_peak_ratio_of_a_row_without_memory_is_absent() -> None:
    _, values = cells(measurement(memory=memory(80)), measurement("each"))
    assert values["peak_ratio"] is None


@settings(deadline=None, max_examples=50)
@given(measurements())
def test_every_cell_is_read_back_as_what_it_was(case: Measurement) -> None:
    header, written = csv.reader(io.StringIO(csv_text([case]), newline=""))
    (values,) = cells(case)
    assert header == list(values) == [column.name for column in COLUMNS]
    for column, cell, value in zip(COLUMNS, written, values.values(), strict=True):
        assert column.parse(cell) == (None if value == "" else value)


@settings(deadline=None)
@given(st.lists(measurements(), max_size=4))
def test_cells_are_of_the_plain_step_of_their_own_kind(cases: list[Measurement]) -> None:
    for case, values in zip(cases, cells(*cases), strict=True):
        kind = (case.model, case.device, case.dtype)
        plain = [
            other for other in cases if other.placement == "none" and (other.model, other.device, other.dtype) == kind
        ]
        context = Context(measurement=case, plain=plain[-1] if plain else None)
        ratio = next(column for column in COLUMNS if column.name == "peak_ratio")
        assert values["peak_ratio"] == ratio.value(context)


@pytest.mark.parametrize("column", [one for one in COLUMNS if one.unit not in ("", "yes/no", "bytes by block")])
def test_only_what_may_have_become_less_is_read_below_zero(column: Column) -> None:
    """A peak of -1 in a baseline made the mean of the ratios to it a traceback."""
    if column.name in ("held_bytes", "recompute_flops", "resident_bytes"):
        assert column.parse("-1") == -1
    else:
        with pytest.raises(FigureError, match="-1"):
            column.parse("-1")
