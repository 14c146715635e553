"""Records: nothing is lost or bent on the way through JSON, and what they derive is right."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.records.making import equality, measurement, measurements, memory

from rematbench.records.measurement import Measurement, Memory, Timing


@settings(deadline=None)
@given(measurements(st.text()))
def test_a_measurement_comes_back_from_its_line(case: Measurement) -> None:
    line = case.model_dump_json(exclude_none=True)
    assert "\n" not in line
    assert Measurement.model_validate_json(line) == case
    assert Measurement.model_validate_json(case.model_dump_json()) == case


@settings(deadline=None, max_examples=30)
@given(measurements())
@example(measurement(equality=equality("different", gradients_max_abs_diff=float("inf"))))
def test_a_line_is_json_for_everyone(case: Measurement) -> None:
    """Names that are no JSON, such as NaN and Infinity, stop other readers."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads(case.model_dump_json(exclude_none=True), parse_constant=refuse)
    assert data["placement"] == case.placement
    assert ("timing" in data) == (case.timing is not None)


@pytest.mark.parametrize("difference", ["inf", "nan"])
def test_a_difference_that_is_no_finite_number_is_kept(difference: str) -> None:
    """Gradients that turn NaN under a placement differ by infinity."""
    case = measurement(equality=equality("different", gradients_max_abs_diff=float(difference)))
    back = Measurement.model_validate_json(case.model_dump_json(exclude_none=True))
    assert back.equality is not None
    assert str(back.equality.gradients_max_abs_diff) == difference


def test_what_is_absent_is_not_written() -> None:
    line = measurement().model_dump_json(exclude_none=True)
    assert not {"memory", "timing", "flops", "equality", "resident_bytes"} & json.loads(line).keys()


def test_what_is_not_known_is_refused() -> None:
    data = json.loads(measurement().model_dump_json())
    with pytest.raises(ValidationError, match="peek_bytes"):
        Measurement.model_validate(data | {"peek_bytes": 3})
    with pytest.raises(ValidationError, match="status"):
        Measurement.model_validate(data | {"status": "fine"})


def test_a_measurement_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        measurement().peak_bytes = 3  # type: ignore[attr-defined]


def test_a_key_is_what_tells_rows_of_a_run_apart() -> None:
    case = measurement("each", model="net", device="cuda:1", dtype="bfloat16")
    assert case.key == ("net", "each", "cuda:1", "bfloat16")
    assert case.plain_key == ("net", "none", "cuda:1", "bfloat16")
    assert measurement("none").plain_key == measurement("none").key


@pytest.mark.parametrize(
    ("peaks", "phase"),
    [
        ({"forward": 5, "backward": 7}, "backward"),
        ({"forward": 7, "backward": 7}, "forward"),
        ({"forward": 1, "backward": 2, "optimizer": 3}, "optimizer"),
    ],
)
def test_the_peak_falls_in_the_first_phase_that_reaches_it(peaks: dict[str, int], phase: str) -> None:
    assert memory(7, phase_peak_bytes=peaks).peak_phase == phase


@given(st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_memory_is_repeatable_when_all_passes_agree(peaks: list[int]) -> None:
    found = Memory.model_validate(memory(0).model_dump() | {"passes_peak_bytes": peaks})
    assert found.repeatable == all(peak == peaks[0] for peak in peaks)


def test_a_timing_can_be_a_key() -> None:
    """Statistics remember what they found for the same samples."""
    assert hash(Timing(step_s=(1.0,), plain_s=())) == hash(Timing(step_s=(1.0,), plain_s=()))
