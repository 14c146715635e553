"""A step that somebody else times: built in this process, its model under a placement until the block ends."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rematbench.loading import user_imports
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline
from rematbench.suite.case import Case
from rematbench.suite.suite import Job
from rematbench.workload.building import build
from rematbench.workload.devices import clock_for, find_device, random_state_kept, use_device
from rematbench.workload.step import Workload, clear_gradients, training_step


@dataclass(frozen=True, kw_only=True)
class ReadyStep:
    """A step and what goes before each.

    Attributes:
        prepare: sets all gradients to None; not part of the step.
        run: forward, backward and the optimizer if there is one; returns when the device is done.
    """

    prepare: Callable[[], None]
    run: Callable[[], None]


@contextmanager
def ready_step(job: Job) -> Iterator[ReadyStep]:
    """Build a job's model under the last of its placements and run a step; random state and threads are put back.

    Raises:
        RematbenchError: the model cannot be built, or does not have what the placement asks for.
    """
    device = find_device(job.device)
    settings = job.settings
    with _as_found(device, settings.threads), user_imports(job.model.root, job.model.reference):
        dtype = getattr(torch, settings.dtype) if settings.dtype else None
        workload = build(job.model, device, dtype=dtype, seed=settings.seed, optimizer=settings.optimizer)
        finish = clock_for(device)  # reading it waits for a GPU

        def run() -> None:
            training_step(workload)
            finish()

        with applied(workload.module, _placement(job.cases[-1], workload, device)):
            run()  # the first step imports half of torch, and what that leaves behind is collected here
            gc.collect()
            yield ReadyStep(prepare=lambda: clear_gradients(workload), run=run)


def _placement(case: Case, workload: Workload, device: torch.device) -> Placement:
    """Resolve a case as a worker does: what acts on chains goes by those that a step runs."""
    if not case.acts_on_chains:
        return case.resolve(outline(workload.module))
    session = Session(workload, device)
    placement = case.resolve(session.outline)
    session.fresh()
    return placement


@contextmanager
def _as_found(device: torch.device, threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    with random_state_kept(device):
        use_device(device)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
