"""Predictions from Python, for a function that builds a model at sizes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rematbench.errors import RematbenchError
from rematbench.placement.placement import PLAIN, Placement
from rematbench.placement.registry import parse_strategy
from rematbench.predicting.fitting import Question
from rematbench.predicting.fitting import fit as fitted
from rematbench.predicting.interpolant import Sizes
from rematbench.predicting.prediction import Predictor, case_of, sentence_of
from rematbench.predicting.sampling import Resolve
from rematbench.predicting.search import Predicted
from rematbench.records.fitting import FittedPlacement
from rematbench.records.measurement import Flops, Memory, PredictionFacts
from rematbench.units import format_bytes, parse_bytes
from rematbench.workload.building import unpacked
from rematbench.workload.devices import find_device
from rematbench.workload.step import Workload

Build = Callable[..., Any]
"""Returns `(module, batch)` or `(module, batch, loss_fn)`, as a model's factory does, on the device to predict for."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A step at sizes that were not run.

    Attributes:
        memory: bytes, as of a measured step.
        flops: None where torch cannot count them.
        facts: from how many steps it was told, and between what the peak lies.
    """

    memory: Memory
    flops: Flops | None
    facts: PredictionFacts

    @property
    def peak_bytes(self) -> int:
        """The peak of the step above its start."""
        return self.memory.peak_bytes

    @property
    def total_bytes(self) -> int:
        """The peak with parameters, buffers, batch and optimizer state."""
        return self.memory.peak_bytes + self.memory.static_bytes

    @property
    def is_exact(self) -> bool:
        """Whether a further run came out to the byte."""
        return self.facts.low_bytes == self.facts.high_bytes

    def explain(self) -> str:
        """Say in a sentence what was predicted and how far it is to be believed."""
        peak, total = format_bytes(self.peak_bytes), format_bytes(self.total_bytes)
        return f"the step peaks at {peak}, {total} with what is there before it; {sentence_of(self.facts)}"


def predict(
    build: Build, *, at: Mapping[str, int], placement: str | Placement = PLAIN, device: str = "cpu"
) -> Prediction:
    """Predict a step at sizes that are not run, from a few small ones.

    Args:
        build: called with the sizes as keyword arguments.
        at: the sizes.
        placement: a strategy, or regions that are there at every size.

    Raises:
        PredictionError: no small step tells it; says why.
        PlacementError: the strategy cannot be read.
    """
    predictor = _predictor(build, device)
    name, resolve = _resolving(placement)
    found = predictor.predicted(name, resolve, at)
    plain = found if name == PLAIN else _plain(predictor)(at)
    case = case_of(found, plain, at, None)
    return Prediction(memory=case.memory, flops=case.flops, facts=case.facts)


def fit(
    build: Build,
    *,
    vary: str,
    memory: int | str,
    at: Mapping[str, int] | None = None,
    multiple_of: int = 1,
    placement: str | Placement = PLAIN,
    device: str = "cpu",
) -> FittedPlacement:
    """Find the largest value of a size that fits into a memory, from small steps.

    Args:
        build: called with the sizes as keyword arguments.
        vary: the size.
        memory: in bytes, or as in `24GiB`, for the peak and all that is there before the step.
        at: other sizes.
        multiple_of: the answer is a multiple of it.
        placement: as for `predict`.

    Raises:
        PredictionError: no small step tells it; says why.
        RematbenchError: the memory or the strategy cannot be read.
    """
    if vary in (at or {}):
        raise RematbenchError(f"{vary} cannot both vary and be held: leave it out of at")
    predictor = _predictor(build, device)
    name, resolve = _resolving(placement)
    memory_bytes = parse_bytes(memory) if isinstance(memory, str) else memory
    question = Question(vary=vary, at=at or {}, memory_bytes=memory_bytes, multiple_of=multiple_of)
    return fitted(
        predictor,
        name,
        resolve,
        question,
        plain=_plain(predictor),
        measured=lambda sizes: predictor.measured_bytes(name, resolve, sizes),
    )


def _predictor(build: Build, device: str) -> Predictor:
    where = find_device(device)

    def built(sizes: Sizes) -> Workload:
        torch.manual_seed(0)
        module, batch, loss_fn = unpacked(getattr(build, "__name__", "build"), build(**sizes))
        return Workload(module=module, batch=batch, loss_fn=loss_fn)

    gc.collect()
    return Predictor(built, where)


def _plain(predictor: Predictor) -> Callable[[Sizes], Predicted]:
    return lambda sizes: predictor.predicted(PLAIN, lambda _: Placement(name=PLAIN), sizes)


def _resolving(placement: str | Placement) -> tuple[str, Resolve]:
    """Return a placement's name, and what makes it at each size."""
    if isinstance(placement, Placement):
        return placement.name, lambda _: placement
    call = parse_strategy(placement)
    return placement, lambda session: call.resolve(session.outline)
