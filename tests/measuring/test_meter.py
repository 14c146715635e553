"""Which meter a device has, and that one which sees something else is refused."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from tests.workload.accelerators import DEVICE, FakeAccelerator

from rematbench.measuring.accelerator_meter import AcceleratorMeter
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.measuring.meter import MeterError, meter_for, self_test
from rematbench.traces.replay import Reading
from rematbench.workload.step import Phases


def test_every_device_has_its_own() -> None:
    assert isinstance(meter_for(torch.device("cpu")), CpuMeter)
    with FakeAccelerator():
        assert isinstance(meter_for(DEVICE), AcceleratorMeter)


def test_a_meter_that_sees_something_else_is_refused() -> None:
    class Blind:
        name = "blind"

        def block(self, _path: str) -> AbstractContextManager[None]:
            return nullcontext()

        def read(self, step: Callable[[Phases], object]) -> Reading:
            CpuMeter().read(step)
            return Reading(held_bytes=0, phase_peak_bytes={"forward": 0})

    with pytest.raises(MeterError, match=r"\(blind\) saw 0 bytes where 67,108,864"):
        self_test(Blind(), torch.device("cpu"))
