"""What a meter is, which one a device has, and the test that it sees what is allocated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from rematbench.errors import RematbenchError
from rematbench.measuring.accelerator_meter import AcceleratorMeter
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.traces.replay import Reading
from rematbench.workload.devices import is_accelerator
from rematbench.workload.step import Phases

_ASKED, _OLDER = 64 * 2**20, 2**20
_UNSPLIT = 127 * 2**19 + 4
"""Of what an accelerator is asked for: its allocator rounds it up to a block of 64 MiB, and splits nothing off it."""


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
    return AcceleratorMeter(device) if is_accelerator(device) else CpuMeter()


def grain_bytes(meter: Meter) -> int:
    """Return what a meter's bytes are rounded up to; 1 where they are as asked for."""
    return getattr(meter, "grain_bytes", 1)


def self_test(meter: Meter, device: torch.device) -> str:
    """Allocate a known block, free an older one, and return the line that says the meter saw both.

    Raises:
        MeterError: it saw anything else.
    """

    asked = _UNSPLIT if is_accelerator(device) and grain_bytes(meter) == 1 else _ASKED
    older = [torch.empty(_OLDER, dtype=torch.uint8, device=device)]

    def step(phases: Phases) -> None:
        with phases("forward"):
            block = torch.empty(asked, dtype=torch.uint8, device=device)
            older.clear()
        with phases("backward"):
            del block

    reading = meter.read(step)
    seen = (reading.held_bytes, reading.peak_bytes)
    if seen != (asked - _OLDER, asked):
        raise MeterError(
            f"the memory meter ({meter.name}) saw {seen[1]:,} bytes where {asked:,} were allocated: this torch "
            f"({torch.__version__}) reports memory in a way rematbench does not know"
        )
    return f"meter: {asked >> 20} MiB asked, {reading.peak_bytes >> 20} MiB seen"
