"""Ask workers for the largest value of a size, placement after placement; what one answers is kept at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rematbench.records.fitting import FittedPlacement
from rematbench.records.store import Store
from rematbench.running.malloc import keeping
from rematbench.running.process import Worker
from rematbench.running.protocol import Began, Failed, FitOrder, Fitted, Lost
from rematbench.running.runner import LIVES, LOG, Watcher, probe
from rematbench.suite.suite import Suite


def fit_suite(
    suite: Suite,
    store: Store,
    root: Path,
    watcher: Watcher,
    order: Callable[..., FitOrder],
    placements: Sequence[str],
    keep: Callable[[FittedPlacement], None],
) -> None:
    """Find the largest value for each of some placements of a suite's one model.

    Args:
        order: makes the order of a job and of the placements that are left.
        keep: is given each answer, one that says why there is none too.

    Raises:
        RematbenchError: as of `run_suite`.
    """
    device = probe(suite.settings.devices[0], suite.settings, store, watcher)
    [job] = suite.jobs(root, [device])
    left, lost = list(placements), 0
    while left:
        failed: Failed | None = None
        with Worker(
            order(job=job, placements=tuple(left)), store.folder / LOG, suite.settings.timeout_s, keeping()
        ) as worker:
            for message in worker.messages():
                if isinstance(message, Began):
                    watcher.began(job, message)
                elif isinstance(message, Fitted):
                    keep(message.fitted)
                    left, lost = [name for name in left if name != message.fitted.placement], 0
                elif isinstance(message, Failed):
                    failed = message
        if failed is None:
            return
        lost += 1
        if isinstance(failed, Lost) and lost < LIVES:
            continue
        # Without a placement to blame, as where the model cannot be built, all that are left fail alike.
        for name in [failed.placement] if failed.placement in left else list(left):
            keep(FittedPlacement(placement=name, value=None, message=failed.message))
            left.remove(name)
        lost = 0
