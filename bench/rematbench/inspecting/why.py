"""Why a model's step takes the memory that it does, and what to do about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rematbench.errors import RematbenchError
from rematbench.inspecting.evidence import evidence_of
from rematbench.inspecting.inspect import hides_its_modules
from rematbench.measuring.session import Session
from rematbench.placement.outline import Outline
from rematbench.placement.placement import FILE_ENDINGS, PLAIN, Placement
from rematbench.placement.registry import Answer, parse_strategy, placed_by
from rematbench.records.causes import causes_of
from rematbench.records.diagnosis import Diagnosis
from rematbench.records.evidence import Evidence
from rematbench.records.measurement import Environment
from rematbench.records.peak import peak_of
from rematbench.units import format_bytes
from rematbench.workload.building import floating_dtype
from rematbench.workload.step import Batch, Workload, batch_tensors


def diagnose(
    session: Session,
    placement: Placement,
    *,
    model: str,
    device: torch.device,
    accumulate: int = 1,
    environment: Environment | None = None,
) -> Diagnosis:
    """Record the evidence of one model under one placement, and find the causes in it.

    Args:
        model: how sentences call it.

    Raises:
        RematbenchError: as `evidence_of` does.
    """
    evidence = evidence_of(session, placement, accumulate=accumulate)
    peak = peak_of(evidence)
    return Diagnosis(
        model=model,
        device=str(device),
        dtype=floating_dtype(session.workload),
        placement=placement.name,
        static_bytes=evidence.static.bytes,
        plain_peak_bytes=max(evidence.plain.sums),
        peak_bytes=peak.bytes,
        peak_phase=peak.phase,
        at_peak=peak.parts,
        steps_peak_bytes=tuple(step.peak_bytes for step in evidence.steps),
        steps_left_bytes=tuple(step.left_bytes for step in evidence.steps),
        accumulate=accumulate,
        causes=causes_of(evidence),
        remarks=(*placement.notes, *_remarks(session.workload, evidence)),
        environment=environment,
    )


def _remarks(workload: Workload, evidence: Evidence) -> list[str]:
    hidden_by = hides_its_modules(workload.module)
    found = [f"the model runs through {hidden_by}, which hides its modules: ask without to see them apart"]
    found = found if hidden_by else []
    if workload.optimizer is not None:
        return found
    trained = sum(each.bytes for each in evidence.parameters if each.is_trained)
    return [
        *found,
        f"no optimizer is part of this step: AdamW would keep {format_bytes(2 * trained)} more (optimizer=adamw)",
    ]


def why(
    model: nn.Module,
    batch: Batch,
    *,
    placement: Placement | str | Callable[[Outline], Answer] = "each",
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    accumulate: int = 1,
) -> Diagnosis:
    """Say why a step takes the memory that it does under a placement: `print(why(model, batch))`.

    A few steps are run; weights, buffers, the batch, the optimizer's state and random states are put back, gradients
    are set to None.

    Args:
        model: on the device and in the mode it is trained in.
        batch: a tuple of arguments, or a mapping of keyword arguments.
        placement: one made or loaded, a strategy, a placement file's path, or a function of the outline; `none` for
            the plain step, also of a model that checkpoints by itself.
        loss_fn: from output to scalar; by default as for a model's factory.
        optimizer: stepped at the end of each step; None leaves it out.
        accumulate: micro-batches that a step has.

    Raises:
        RematbenchError: the placement does not fit the model, or nothing in the step needs a gradient.
    """
    if accumulate < 1:
        raise RematbenchError(f"a step has one micro-batch or more, not {accumulate}")
    workload = Workload(module=model, batch=batch, loss_fn=loss_fn, optimizer=optimizer)
    device = next(
        (tensor.device for tensor in (*model.parameters(), *batch_tensors(batch).values())), torch.device("cpu")
    )
    # Its state is settled by a step of its own, of zero gradients, before any is recorded.
    before = copy.deepcopy(optimizer.state_dict()) if optimizer else None
    session = Session(workload, device)
    try:
        made = _placement(placement, session)
        return diagnose(session, made, model=type(model).__name__, device=device, accumulate=accumulate)
    finally:
        session.fresh()
        if optimizer and before:
            optimizer.load_state_dict(before)


def _placement(placement: Placement | str | Callable[[Outline], Answer], session: Session) -> Placement:
    if isinstance(placement, Placement):
        return placement
    if not isinstance(placement, str):
        return placed_by(placement, session.outline)
    if placement.endswith(FILE_ENDINGS):
        return Placement.load(placement)
    return Placement(name=PLAIN) if placement == PLAIN else parse_strategy(placement).resolve(session.outline)
