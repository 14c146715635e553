"""Plans for sizes that are not run: units profiled at small sizes, candidates accepted on predicted steps.

A number of a profile is a polynomial of the sizes as one of a tape is, so it is told in the same way. The loop stays
closed: what a plan is accepted on is the step under its own regions, predicted from small steps under the same regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch

from rematbench.errors import PlacementError
from rematbench.measuring.session import PASSES, Session, UntimedMeasurement
from rematbench.placement.goal import Goal
from rematbench.placement.placement import PLAIN, Placement
from rematbench.planner.planner import Planned, Planner
from rematbench.planner.profile import Profile
from rematbench.planner.profiling import profile
from rematbench.predicting.interpolant import Sizes
from rematbench.predicting.prediction import Predictor
from rematbench.predicting.search import Limits, Predicted, peak_bytes, predict, static_bytes
from rematbench.records.measurement import Flops
from rematbench.traces.tape import Label, Tape

_UNOPENED = 2**62
"""A plain peak beside which no unit is large enough to be opened: what is inside differs from size to size."""


class PredictedPlanner:
    """Plans for one model at sizes that are not run.

    Args:
        predictor: of the model's steps.
        target: the sizes.
    """

    def __init__(self, predictor: Predictor, target: Sizes, device: torch.device) -> None:
        self._predictor = predictor
        self._target = target
        self._device = device
        self._planners: dict[str | None, Planner] = {}

    def plan(self, goal: Goal) -> Planned:
        """Return the placement that recomputes the fewest FLOPs within the budget, by prediction.

        Raises:
            PlacementError: none fits; or the goal is of seconds, which no prediction tells.
        """
        if goal.minimise == "time":
            raise PlacementError(
                f"{goal.name}: seconds of a step that is not run are not known: ask for the fewest FLOPs (plan-flops:…)"
            )
        if goal.at not in self._planners:
            told = self._profile(goal.at)
            self._planners[goal.at] = Planner(self._session, self._device, told, at=goal.at)
        planned = self._planners[goal.at].plan(goal)
        # Its fingerprint is of the small model's shapes.
        return replace(planned, placement=planned.placement.model_copy(update={"fingerprint": None}))

    def predicted(self, placement: Placement) -> Predicted:
        """Predict the step under a placement of this depth."""
        name = placement.model_copy(update={"name": "", "fingerprint": None}).model_dump_json()
        return self._predictor.predicted(
            name if placement.regions else PLAIN, lambda _: placement, self._target, held=self.depths
        )

    @cached_property
    def _plain(self) -> Predicted:
        return self._predictor.predicted(PLAIN, lambda _: Placement(name=PLAIN), self._target)

    @property
    def depths(self) -> frozenset[str]:
        """The sizes that are run as asked for: of another depth, regions would be others."""
        return frozenset(self._plain.depths)

    @cached_property
    def small(self) -> Sizes:
        """The first sizes that were run, at the depth asked for."""
        return {**self._plain.runs[0], **{name: self._target[name] for name in self.depths}}

    @cached_property
    def _session(self) -> _PredictedSession:
        return _PredictedSession(self._predictor.sampler.session(self.small), self._device, self)

    def _profile(self, at: str | None) -> Profile:
        """Profile the units at small sizes and tell what the profile is at the target."""
        found: dict[int, Profile] = {}

        def take(sizes: Sizes) -> Tape:
            session = self._predictor.sampler.session(sizes)
            session.fresh()
            measured = profile(session.workload, self._device, at, plain_peak_bytes=_UNOPENED)
            tape = _as_tape(measured)
            found[tape.shape] = measured
            return tape

        # The candidates are accepted on predicted steps, so that a profile need not be held against a large one.
        limits = Limits(bytes=self._predictor.limits.bytes, flops=self._predictor.limits.flops, share=0.0)
        told = predict(take, self._target, limits, held=self.depths).tape
        return _with_numbers(found[told.shape], told.values)


class _PredictedSession(Session):
    """A model built small, whose peaks and FLOPs are those of the size asked for."""

    def __init__(self, small: Session, device: torch.device, planner: PredictedPlanner) -> None:
        super().__init__(small.workload, device)
        self._planner = planner
        self.keep_plain()

    @cached_property
    def plain_peak_bytes(self) -> int | None:
        """The plain step's peak above its start."""
        return self.peak_bytes(Placement(name=PLAIN))

    @property
    def static_bytes(self) -> int:
        """What is there before the step."""
        return static_bytes(self._planner.predicted(Placement(name=PLAIN)).tape)

    def peak_bytes(self, placement: Placement, *, passes: int = PASSES) -> int:  # noqa: ARG002
        """Predict a placement's peak, which no pass tells otherwise."""
        return peak_bytes(self._planner.predicted(placement).tape)

    def measure(self, placement: Placement) -> UntimedMeasurement:
        """Measure a placement's step as it is small, but for its FLOPs."""
        total = self._planner.predicted(placement).tape.sum_of("flops")
        plain = self._planner.predicted(Placement(name=PLAIN)).tape
        flops = Flops(
            forward=plain.sum_of("flops", "forward"),
            total=total,
            recompute=total - plain.sum_of("flops"),
            uncounted_ops=(),
        )
        return replace(super().measure(placement), flops=flops)


def _as_tape(measured: Profile) -> Tape:
    """Write a profile's whole numbers in a row, labelled by where they stand and by all that is no such number."""
    numbers = list(_numbers(measured, ""))
    values = tuple(value for _, value in numbers)
    labels = tuple(Label("measure", name) for name, _ in numbers)
    return Tape(labels=labels, values=values, ends=(-1,) * len(values), times=(0,) * len(values))


def _numbers(value: Any, name: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, bool) or value is None:
        yield f"{name}={value}", 0
    elif isinstance(value, int):
        yield name, value
    elif isinstance(value, float):  # seconds, which a profile of a size that is not run does not have
        return
    elif is_dataclass(value):
        for field in fields(value):
            yield from _numbers(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, tuple | list):
        for at, member in enumerate(value):
            yield from _numbers(member, f"{name}[{at}]")
    else:
        yield f"{name}={value if not isinstance(value, frozenset) else sorted(value)}", 0


def _with_numbers(measured: Profile, values: Sequence[int]) -> Profile:
    """Return a profile with other numbers, in the order of `_numbers`."""
    left = iter(values)

    def renewed(value: Any) -> Any:
        if isinstance(value, float):
            return value
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: renewed(getattr(value, field.name)) for field in fields(value)})
        if isinstance(value, tuple | list):
            return type(value)(renewed(member) for member in value)
        number = next(left)
        return number if isinstance(value, int) and not isinstance(value, bool) else value

    made: Profile = renewed(measured)
    return made
