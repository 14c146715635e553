"""Whether a step runs in a budget on an accelerator: run with no more memory than that, as its allocator is told."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.traces.caching_allocator import LARGE_SEGMENT_BYTES, SMALL_SEGMENT_BYTES
from rematbench.workload.devices import can_cap_memory, is_out_of_memory, memory_capped, release_cached

GRAIN_BYTES = SMALL_SEGMENT_BYTES + LARGE_SEGMENT_BYTES
"""What the allocator is allowed above the budget: it takes memory by the segment, one of each kind for a byte each."""


@dataclass(frozen=True, kw_only=True)
class CappedRun:
    """A step that was allowed no more than a budget.

    Attributes:
        ran: whether it came to its end.
        reserved_bytes: what the allocator took for it, above what it had for what is there before the step.
    """

    ran: bool
    reserved_bytes: int


def capped_run(session: Session, device: torch.device, placement: Placement, budget_bytes: int) -> CappedRun | None:
    """Run a step with a budget above its start; None where the device's allocator cannot be told so.

    A peak within the budget does not prove that the step runs in it: blocks are larger than what is asked for, and what
    is free lies in pieces.
    """
    if not can_cap_memory(device):
        return None
    session.fresh()
    release_cached(device)
    start = torch.accelerator.memory_reserved(device)
    torch.accelerator.reset_peak_memory_stats(device)
    with memory_capped(device, start + budget_bytes + GRAIN_BYTES):
        ran = _runs(session, placement)
        reserved_bytes = torch.accelerator.max_memory_reserved(device) - start
    session.fresh()
    release_cached(device)
    return CappedRun(ran=ran, reserved_bytes=reserved_bytes)


def _runs(session: Session, placement: Placement) -> bool:
    try:
        session.timed_step(placement)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
