"""What goes over the pipe comes back as it was."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rematbench.placement.placement import Placement, Region
from rematbench.record import Record
from rematbench.records.measurement import Environment, Equality, Flops, Measurement, Memory, Status, Timing
from rematbench.running.protocol import (
    MESSAGE,
    ORDER,
    Began,
    Built,
    Done,
    Ended,
    Failed,
    JobOrder,
    Measured,
    Probed,
    ProbeOrder,
    Refused,
    Resident,
    ResidentOrder,
    Timed,
)
from rematbench.suite.suite import Device, Job, Suite

ENVIRONMENT = Environment(torch="2.13", python="3.11", device_name="a", threads=2, allocator="", commit="")
JOB: Job = Suite.model_validate(
    {
        "name": "s",
        "models": [{"model": "net.py:build?depth=2", "arguments": {"width": [1, 2.5, "×"]}}],
        "placements": ["each+save=matmuls", {"name": "own", "regions": [{"path": "blocks[0:2]", "offload": True}]}],
    }
).jobs(Path("/root"), [Device(name="cpu")])[0]


def measurement(difference: float = 0.0) -> Measurement:
    return Measurement(
        suite="s",
        model="a, b\n\u2028√",
        placement="each",
        device="cuda:1",
        dtype="float32",
        status=Status.OK,
        regions=Placement(name="each", regions=(Region(path="blocks[0]", batch_norm="once"),)),
        checkpointed_blocks=1,
        memory=Memory(
            meter="m",
            static_bytes=1,
            peak_bytes=2**40,
            held_bytes=3,
            phase_peak_bytes={"forward": 1, "backward": 2**40},
            passes_peak_bytes=(2**40, 2**40),
        ),
        equality=Equality(
            gradients="different",
            gradients_max_abs_diff=difference,
            gradients_worst="w",
            loss="equal",
            buffers="equal",
            buffer="",
            rng_state="equal",
        ),
        flops=Flops(forward=1, total=3, recompute=None, uncounted_ops=("a", "b")),
        environment=ENVIRONMENT,
        measured_at="2026-01-01T00:00:00+00:00",
    )


ORDERS: list[ProbeOrder | JobOrder | ResidentOrder] = [
    ProbeOrder(device="auto", threads=None),
    JobOrder(job=JOB, measure=("none", "own"), time=("own",), plain=False),
    ResidentOrder(job=JOB, placement="own"),
]
MESSAGES: list[Record] = [
    Probed(device=Device(name="cuda:0", capacity_bytes=2**37), environment=ENVIRONMENT, meter="64 MiB"),
    Began(placement="", stage="plain step"),
    Built(dtype="bfloat16+float32"),
    Ended(),
    Measured(measurement=measurement()),
    Timed(placement="each", timing=Timing(step_s=(0.1, 1e-9), plain_s=())),
    Resident(placement="each", resident_bytes=-4096),
    Failed(placement="each", status=Status.OUT_OF_MEMORY, message='{"kind":"done"}'),
    Refused(message="two\nlines"),
    Done(),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
def test_orders_come_back_as_they_were(order: Record) -> None:
    line = order.model_dump_json()
    assert ORDER.validate_json(line) == order
    assert "\n" not in line


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_messages_come_back_as_they_were(message: Record) -> None:
    line = message.model_dump_json()
    assert MESSAGE.validate_json(line) == message
    assert "\n" not in line


@given(st.floats(allow_nan=True))
def test_no_difference_is_too_great_to_be_told(difference: float) -> None:
    """A gradient that is infinite or no number differs by infinity, which JSON proper has no number for."""
    line = Measured(measurement=measurement(difference)).model_dump_json()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    answer = MESSAGE.validate_json(line)
    assert isinstance(answer, Measured)
    assert answer.measurement.equality
    told = answer.measurement.equality.gradients_max_abs_diff
    assert told == difference or (math.isnan(told) and math.isnan(difference))


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", "done", '{"kind":"finished"}', '{"kind":"done","more":1}', '{"kind":"began"}']
)
def test_nothing_else_is_a_message(line: str) -> None:
    with pytest.raises(ValidationError):
        MESSAGE.validate_json(line)
