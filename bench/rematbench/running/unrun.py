"""A job at sizes that are not run: its placements predicted from small steps, or the largest size that fits."""

from __future__ import annotations

import gc
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch

from rematbench.errors import PlacementError
from rematbench.placement.goal import Goal
from rematbench.placement.placement import PLAIN, Placement
from rematbench.predicting.fitting import Question, fit
from rematbench.predicting.interpolant import Sizes
from rematbench.predicting.planning import PredictedPlanner
from rematbench.predicting.prediction import Predictor, sentence_of
from rematbench.predicting.sampling import Resolve
from rematbench.predicting.search import Predicted, PredictionError
from rematbench.records.fitting import FittedPlacement
from rematbench.records.measurement import Measurement, PlanFacts, Status
from rematbench.running.protocol import FitOrder, Fitted, InspectOrder, JobOrder, Measured, ResidentOrder, WhyOrder
from rematbench.running.runner import DEFAULT_DTYPE
from rematbench.running.staging import Say, staged
from rematbench.suite.suite import Job
from rematbench.workload.building import build, checked_factory, floating_dtype
from rematbench.workload.devices import find_device, use_device
from rematbench.workload.environment import Sources, environment_of
from rematbench.workload.step import Workload

if TYPE_CHECKING:
    from rematbench.suite.case import Case


class UnrunWork:
    """One such job in this process."""

    def __init__(self, job: Job, say: Say) -> None:
        self._job = job
        self._say = say
        self._device = find_device(job.device)
        use_device(self._device)
        if job.settings.threads is not None:
            torch.set_num_threads(job.settings.threads)
        self._environment = environment_of(self._device, job.model.root)
        self._sources = Sources(job.model.root, job.model.reference)
        self._predictor = Predictor(self._built, self._device)
        self._dtype: str = job.settings.dtype or DEFAULT_DTYPE

    def run(self, order: JobOrder | ResidentOrder | InspectOrder | WhyOrder | FitOrder) -> None:
        """Say a row for each placement asked for, or an answer."""
        sizes = dict(self._job.at)
        if isinstance(order, FitOrder):
            sizes[order.vary] = order.multiple_of
        with staged(self._say, "", "building"):
            ref = self._job.model
            checked_factory(ref.model_copy(update={"arguments": ref.arguments | sizes}))
        gc.freeze()
        if isinstance(order, FitOrder):
            for name in order.placements:
                with staged(self._say, name, "fitting"):
                    self._say(Fitted(fitted=self._fitted(order, self._case(name))))
        elif isinstance(order, JobOrder):
            for name in order.measure:
                with staged(self._say, name, "predicting"):
                    self._say(Measured(measurement=self._predicted(self._case(name))))

    def _case(self, name: str) -> Case:
        return next(case for case in self._job.cases if case.name == name)

    def _built(self, sizes: Sizes) -> Workload:
        ref, settings = self._job.model, self._job.settings
        dtype = getattr(torch, settings.dtype) if settings.dtype else None
        workload = build(
            ref.model_copy(update={"arguments": ref.arguments | dict(sizes)}),
            self._device,
            dtype=dtype,
            seed=settings.seed,
            optimizer=settings.optimizer,
        )
        self._dtype = floating_dtype(workload)
        return workload

    def _plain(self, sizes: Sizes) -> Predicted | None:
        """Predict the plain step, to tell what is recomputed; None where it cannot be."""
        with suppress(PredictionError):
            return self._predictor.predicted(PLAIN, lambda _: Placement(name=PLAIN), sizes)
        return None

    def _predicted(self, case: Case) -> Measurement:
        target = self._job.at
        resolve: Resolve = lambda session: case.resolve(session.outline)  # noqa: E731
        held: frozenset[str] = frozenset()
        facts: PlanFacts | None = None
        if case.strategy is not None and case.strategy.strategy.measures:
            planner = _Planning(PredictedPlanner(self._predictor, target, self._device))
            placement = case.resolve(self._predictor.sampler.session(planner.planner.small).outline, planner)
            resolve, held, facts = (lambda _: placement), planner.planner.depths, planner.facts
        found = self._predictor.case(case.name, resolve, target, plain=self._plain(target), held=held)
        return Measurement(
            suite=self._job.suite,
            model=self._job.model.name,
            placement=case.name,
            device=self._job.device,
            dtype=self._dtype,
            status=Status.PREDICTED,
            message="; ".join([sentence_of(found.facts), *found.notes]),
            regions=found.placement,
            memory=found.memory,
            flops=found.flops,
            timeline=found.timeline,
            plan=facts,
            prediction=found.facts,
            environment=self._environment,
            sources=self._sources.seen(),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _fitted(self, order: FitOrder, case: Case) -> FittedPlacement:
        question = Question(
            vary=order.vary, at=self._job.at, memory_bytes=order.memory_bytes, multiple_of=order.multiple_of
        )
        resolve: Resolve = lambda session: case.resolve(session.outline)  # noqa: E731
        return fit(
            self._predictor,
            case.name,
            resolve,
            question,
            plain=self._plain,
            measured=lambda sizes: self._predictor.measured_bytes(case.name, resolve, sizes),
        )


class _Planning:
    """Plans as strategies ask for them, with how the plan was found."""

    def __init__(self, planner: PredictedPlanner) -> None:
        self.planner = planner
        self.facts: PlanFacts | None = None

    def plan(self, goal: Goal) -> Placement:
        if goal.budget_of is not None:
            raise PlacementError(f"{goal.name}: at sizes that are not run the budget is bytes or a share")
        planned = self.planner.plan(goal)
        self.facts = planned.facts
        return planned.placement

    def plan_by_ckptplan(self, goal: Goal) -> Placement:
        raise PlacementError(f"{goal.name}: ckptplan takes measured units, and these sizes are not run")
