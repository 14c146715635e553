"""What a meter is, which one a device has, and the test that it sees what is allocated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from rematbench.errors import RematbenchError
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.measuring.cuda_meter import CudaMeter
from rematbench.traces.replay import Reading
from rematbench.workload.step import Phases

_ASKED, _OLDER = 64 * 2**20, 2**20


class MeterError(RematbenchError):
    """The meter does not see what was allocated: no number it gives may be trusted."""


class Meter(Protocol):
    """Measures one call of a step that marks its phases."""

    name: str

    def block(self, path: str) -> AbstractContextManager[Any]:
        """Mark a call of a module, so that a reading can tell what it allocated."""

    def read(self, step: Callable[[Phases], object]) -> Reading:
        """Run the step once and say what it allocated."""


def meter_for(device: torch.device) -> Meter:
    """Return the meter of a device."""
    return CudaMeter(device) if device.type == "cuda" else CpuMeter()


def self_test(meter: Meter, device: torch.device) -> str:
    """Allocate a known block, free an older one, and return the line that says the meter saw both.

    Raises:
        MeterError: it saw anything else.
    """

    older = [torch.empty(_OLDER, dtype=torch.uint8, device=device)]

    def step(phases: Phases) -> None:
        with phases("forward"):
            block = torch.empty(_ASKED, dtype=torch.uint8, device=device)
            older.clear()
        with phases("backward"):
            del block

    reading = meter.read(step)
    seen = (reading.held_bytes, reading.peak_bytes)
    if seen != (_ASKED - _OLDER, _ASKED):
        raise MeterError(
            f"the memory meter ({meter.name}) saw {seen[1]:,} bytes where {_ASKED:,} were allocated: this torch "
            f"({torch.__version__}) reports memory in a way rematbench does not know"
        )
    return f"meter: {_ASKED >> 20} MiB asked, {reading.peak_bytes >> 20} MiB seen"
