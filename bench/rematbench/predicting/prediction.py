"""A model at sizes that are not run: each placement's memory and FLOPs there, as records like any measured ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.predicting.interpolant import Sizes
from rematbench.predicting.kernels import Kernels
from rematbench.predicting.sampling import Resolve, Sampler
from rematbench.predicting.search import Limits, Predicted, peak_bytes, predict, static_bytes
from rematbench.records.measurement import Flops, Memory, PredictionFacts
from rematbench.traces.replay import reading_of
from rematbench.traces.tape import Tape
from rematbench.traces.timeline import Timeline
from rematbench.units import format_bytes, format_sizes
from rematbench.workload.devices import free_bytes
from rematbench.workload.step import Workload

_SHARE = 0.25
_MOST_BYTES = 2 * 2**30
_CHECKED_SHARE = 0.125
_MOST_FLOPS = 5 * 10**10
"""Of a small step: about a second on a processor."""

_LONGER = 20
"""So much longer may a step take that confirms an answer."""


@dataclass(frozen=True, kw_only=True)
class PredictedCase:
    """What is known of a placement at the sizes asked for."""

    memory: Memory
    flops: Flops | None
    timeline: Timeline | None
    facts: PredictionFacts
    notes: tuple[str, ...]
    placement: Placement | None


class Predictor:
    """Predicts placements of one model.

    Args:
        build: makes the workload of some sizes.
        memory_bytes: what a small step may need, with what is there before it; by default a quarter of what is free
            on the device, and 2 GiB at most.
        share: of each size asked for that a small step has at most.
    """

    def __init__(
        self,
        build: Callable[[Sizes], Workload],
        device: torch.device,
        *,
        memory_bytes: int | None = None,
        share: float = _CHECKED_SHARE,
    ) -> None:
        free = free_bytes(device)
        most = _MOST_BYTES if free is None else min(_MOST_BYTES, int(_SHARE * free))
        self.limits = Limits(bytes=most if memory_bytes is None else memory_bytes, flops=_MOST_FLOPS, share=share)
        self._build, self._device = build, device
        self.sampler = Sampler(build, device)
        self._kernels = Kernels(self.sampler.meter, limit_bytes=self.limits.bytes, limit_flops=self.limits.flops)
        self._found: dict[tuple[str, tuple[tuple[str, int], ...]], Predicted] = {}

    def predicted(self, name: str, resolve: Resolve, target: Sizes, *, held: Collection[str] = ()) -> Predicted:
        """Predict one placement's step.

        Args:
            name: stands for the placement; what was predicted under it is not predicted again.
            held: sizes that are run as asked for.

        Raises:
            PredictionError: no small step tells it; the sentence says why.
        """
        key = name, (*sorted(target.items()), *((size, 0) for size in sorted(held)))
        if key not in self._found:
            takes = self.sampler.takes(name, resolve)
            self._found[key] = predict(takes, target, self.limits, held, self._kernels.ask)
        return self._found[key]

    def measured_bytes(self, name: str, resolve: Resolve, target: Sizes) -> int | None:
        """Run a predicted step and return its peak with what is there before it; None where it is too large."""
        tape = self.predicted(name, resolve, target).tape
        free = free_bytes(self._device)
        needed = peak_bytes(tape) + static_bytes(tape)
        if (free is not None and 2 * needed > free) or tape.sum_of("flops") > _LONGER * self.limits.flops:
            return None
        session = Session(self._build(target), self._device)
        return session.peak_bytes(resolve(session)) + session.static_bytes

    def case(
        self,
        name: str,
        resolve: Resolve,
        target: Sizes,
        *,
        plain: Predicted | None = None,
        held: Collection[str] = (),
    ) -> PredictedCase:
        """Predict one placement and say what rows say; `plain` is the plain step, to tell what is recomputed.

        Raises:
            PredictionError: as of `predicted`.
        """
        found = self.predicted(name, resolve, target, held=held)
        # Of a model with fewer blocks than asked for, the regions are others.
        placement = None if found.depths else resolve(self.sampler.session(found.runs[-1]))
        return case_of(found, plain, target, placement)


def case_of(found: Predicted, plain: Predicted | None, target: Sizes, placement: Placement | None) -> PredictedCase:
    """Say what rows say of a prediction."""
    reading = reading_of(found.tape.trace())
    peak = reading.peak_bytes
    memory = Memory(
        meter="extrapolated lifetimes",
        static_bytes=static_bytes(found.tape),
        peak_bytes=peak,
        held_bytes=reading.held_bytes,
        phase_peak_bytes=reading.phase_peak_bytes,
        passes_peak_bytes=(peak,),
        held_by_block=reading.held_by_block,
        at_peak=reading.at_peak,
    )
    largest = max(found.runs, key=lambda sizes: _product(sizes, target))
    off = int(found.reach * peak)
    facts = PredictionFacts(
        at=dict(target),
        runs=len(found.runs),
        largest=dict(largest),
        checked_at=dict(found.checked_at) if found.checked_at else None,
        low_bytes=max(0, peak - off),
        high_bytes=peak + off,
        broken=found.broken,
    )
    return PredictedCase(
        memory=memory,
        flops=_flops(found.tape, plain.tape if plain else None),
        timeline=reading.timeline,
        facts=facts,
        notes=found.notes,
        placement=placement,
    )


def _product(sizes: Sizes, target: Sizes) -> float:
    product = 1.0
    for name, value in target.items():
        product *= sizes.get(name, value) / value
    return product


def _flops(tape: Tape, plain: Tape | None) -> Flops | None:
    kinds = {label.kind for label in tape.labels}
    if not kinds & {"flops", "uncounted"}:  # torch could not run the step under its dispatch mode
        return None
    total = tape.sum_of("flops")
    recompute = total - plain.sum_of("flops") if plain is not None else None
    return Flops(
        forward=tape.sum_of("flops", "forward"), total=total, recompute=recompute, uncounted_ops=_uncounted(tape)
    )


def _uncounted(tape: Tape) -> tuple[str, ...]:
    return tuple(label.name for label in tape.labels if label.kind == "uncounted")


def sentence_of(facts: PredictionFacts) -> str:
    """Say from what a prediction was made, and how far it is to be believed."""
    runs = f"{facts.runs} small steps"
    if facts.checked_at is None:
        return f"predicted from {runs}, none of which checks it"
    at = format_sizes(facts.checked_at)
    if facts.low_bytes == facts.high_bytes:
        return f"predicted from {runs}; one more, at {at}, came out to the byte"
    where = f" (most in {', '.join(name or 'the model itself' for name in facts.broken[:3])})" if facts.broken else ""
    low, high = format_bytes(facts.low_bytes), format_bytes(facts.high_bytes)
    if not facts.broken and facts.low_bytes > 0:
        why = "came out to the byte, but kernels that choose by size were not asked at this one"
        return f"between {low} and {high}, from {runs}: one more, at {at}, {why}"
    return f"between {low} and {high}, from {runs}: one more, at {at}, came out otherwise{where}"
