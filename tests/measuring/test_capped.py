"""A step that is held to a budget, on a card that is not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.workload.accelerators import DEVICE, FakeAccelerator

from rematbench.measuring.capped import GRAIN_BYTES, CappedRun, capped_run
from rematbench.placement.placement import PLAIN, Placement

MIB = 2**20
NONE = Placement(name=PLAIN)


class Stepping:
    """A session whose step allocates blocks, and frees those of the step before when it is made fresh."""

    def __init__(self, card: FakeAccelerator, *sizes: int, error: Exception | None = None) -> None:
        self.card, self.sizes, self.error = card, sizes, error
        self.live: list[int] = []

    def fresh(self) -> None:
        while self.live:
            self.card.free(self.live.pop())

    def timed_step(self, _placement: Placement) -> float:
        self.fresh()
        for size in self.sizes:
            self.live.append(self.card.alloc(size))
        if self.error:
            raise self.error
        return 1.0


def run(session: Any, budget_bytes: int, device: torch.device = DEVICE) -> CappedRun | None:
    return capped_run(session, device, NONE, budget_bytes)


def test_a_step_that_fits_says_what_it_reserved() -> None:
    with FakeAccelerator() as card:
        card.alloc(100 * MIB)  # what is there before it
        session = Stepping(card, 50 * MIB, 30 * MIB + 1)
        assert run(session, 80 * MIB) == CappedRun(ran=True, reserved_bytes=82 * MIB)
        assert card.fraction == 1.0
        assert card.allocator.reserved.current == 100 * MIB


def test_one_whose_peak_fits_but_whose_memory_lies_in_pieces_does_not_run() -> None:
    """Blocks of 31.5 MiB take segments of 32 MiB; of a hundred of them 50 MiB are lost."""
    with FakeAccelerator() as card:
        session = Stepping(card, *[63 * MIB // 2 + 4] * 100)
        found = run(session, 3151 * MIB)
        assert found is not None
        assert not found.ran
        assert found.reserved_bytes <= 3151 * MIB + GRAIN_BYTES
        assert (card.fraction, card.allocator.reserved.current, session.live) == (1.0, 0, [])
        found = run(session, 3200 * MIB)
        assert found is not None
        assert found.ran


def test_a_budget_below_a_segment_is_not_refused_for_that() -> None:
    with FakeAccelerator() as card:
        assert run(Stepping(card, 1000, 2 * MIB), 2 * MIB + 1000) == CappedRun(ran=True, reserved_bytes=GRAIN_BYTES)


def test_another_error_is_raised_and_the_card_is_as_before() -> None:
    with FakeAccelerator() as card:
        with pytest.raises(ZeroDivisionError):
            run(Stepping(card, 1000, error=ZeroDivisionError()), MIB)
        assert card.fraction == 1.0


def test_a_processor_cannot_be_held_to_a_budget() -> None:
    with FakeAccelerator() as card:
        assert run(Stepping(card), MIB, torch.device("cpu")) is None
