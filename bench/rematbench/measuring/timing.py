"""Step times that can be compared: every placement once a round, in an order shuffled by the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

MAX_ROUNDS = 200
MIN_ROUNDS = 5
"""Fewer give no interval (`rematbench.records.statistics.step_ratio`)."""


def schedule(
    names: Sequence[str],
    *,
    seed: int,
    budget_s: float,
    clock: Callable[[], float],
    rounds: int | None = None,
    is_settled: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Yield the placements to run next, round after round.

    One machine-wide slowdown then meets every placement alike, and a ratio within a round cancels it.

    Args:
        names: what to time.
        budget_s: rounds go on until they have taken this long, between `MIN_ROUNDS` and `MAX_ROUNDS` of them.
        clock: seconds; an argument so that tests need not wait.
        rounds: exactly so many instead.
        is_settled: asked now and then whether what has been timed will do; not every round, as the answer costs time.
    """
    shuffle = random.Random(seed).shuffle
    start, done, ask_at = clock(), 0, MIN_ROUNDS
    while not _enough(done, rounds, clock() - start, budget_s):
        if rounds is None and done == ask_at:
            if is_settled():
                return
            # A third more each time: who looks after every round stops at the first interval that is narrow by chance.
            ask_at += -(-ask_at // 3)
        order = list(names)
        shuffle(order)
        yield from order
        done += 1


def _enough(done: int, rounds: int | None, elapsed_s: float, budget_s: float) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MAX_ROUNDS or (done >= MIN_ROUNDS and elapsed_s >= budget_s)
