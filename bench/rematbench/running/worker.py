"""A worker process: takes one order, measures, reports each thing the moment it is known, and ends.

Started by `rematbench.running.start`.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import torch

from rematbench.errors import PlacementError, RematbenchError
from rematbench.inspecting.caches import cache_warnings
from rematbench.inspecting.inspect import inspect
from rematbench.inspecting.structure import structure_of
from rematbench.inspecting.why import diagnose
from rematbench.loading import user_imports
from rematbench.measuring.meter import meter_for, self_test
from rematbench.measuring.resident import resident_growth
from rematbench.measuring.session import Session, UntimedMeasurement
from rematbench.measuring.timing import schedule
from rematbench.placement.goal import Goal
from rematbench.placement.placement import PLAIN, Placement
from rematbench.placing.outline import outline
from rematbench.planner.planner import Planner
from rematbench.record import Record
from rematbench.records.diagnosis import Diagnosis
from rematbench.records.measurement import Measurement, PlanFacts, Status, Structure, Timing
from rematbench.records.statistics import step_ratio
from rematbench.running.protocol import (
    ORDER,
    Built,
    Diagnosed,
    Done,
    FitOrder,
    Inspected,
    InspectOrder,
    JobOrder,
    Measured,
    Order,
    Probed,
    ProbeOrder,
    Refused,
    Resident,
    ResidentOrder,
    Stage,
    Timed,
    WhyOrder,
)
from rematbench.running.staging import Say, Stopped, one_line, staged
from rematbench.running.unrun import UnrunWork
from rematbench.suite.suite import Device, Job
from rematbench.workload.building import build, floating_dtype
from rematbench.workload.devices import (
    accelerator_notice,
    capacity_bytes,
    clock_for,
    find_device,
    is_accelerator,
    others_notice,
    software_of,
    use_device,
)
from rematbench.workload.environment import Sources, environment_of


def main() -> None:
    """Carry out the order on standard input; messages go to the descriptor given as the only argument."""
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as channel:
        order = ORDER.validate_json(sys.stdin.buffer.readline())
        threading.Thread(target=_end_with_the_runner, args=[_withdrawn_input()], daemon=True).start()
        say = _speaking_on(channel)
        try:
            carry_out(order, say)
            say(Done())
        except RematbenchError as error:
            traceback.print_exc()
            say(Refused(message=one_line(error)))
        except Stopped:
            return


def _withdrawn_input() -> int:
    """Return the order pipe under another number; a model that reads standard input finds it at its end."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


def _end_with_the_runner(pipe: int) -> None:
    """Wait for the order pipe to close, which it does however the runner ends, and end at once with all that we forked.

    Read without `sys.stdin`: its lock, held here, would abort the interpreter on its way out.
    """
    os.read(pipe, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _speaking_on(channel: TextIO) -> Say:
    def say(message: Record) -> None:
        channel.write(message.model_dump_json() + "\n")
        channel.flush()

    return say


def carry_out(order: Order, say: Say) -> None:
    """Do what is ordered and say each thing the moment it is known.

    Raises:
        RematbenchError: the order is a usage error.
        Stopped: a placement failed, and that has been said.
    """
    if isinstance(order, ProbeOrder):
        return _probe(order, say)
    with user_imports(order.job.model.root, order.job.model.reference):
        if isinstance(order, FitOrder) or order.job.at:
            return UnrunWork(order.job, say).run(order)
        return _Work(order.job, say).run(order)


def _probe(order: ProbeOrder, say: Say) -> None:
    _set_threads(order.threads)
    device = find_device(order.device)
    use_device(device)
    facts = Device(name=str(device), capacity_bytes=capacity_bytes(device))
    seen = self_test(meter_for(device), device)  # first, as it also makes a GPU ready to be asked
    notices = (others_notice(device), accelerator_notice() if order.device == "auto" else "")
    meter = "; ".join(filter(None, (seen, *notices)))
    say(Probed(device=facts, environment=environment_of(device, Path.cwd()), meter=meter))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


class _Work:
    """One job in this process: what every stage of it needs."""

    def __init__(self, job: Job, say: Say) -> None:
        self._job = job
        self._say = say
        self._settings = job.settings
        self._device = find_device(job.device)
        use_device(self._device)
        self._placements: dict[str, Placement] = {}
        self._plans: dict[str, PlanFacts] = {}
        self._planners: dict[str | None, Planner] = {}
        self._not_finite: set[str] = set()
        self._session: Session
        _set_threads(job.settings.threads)
        self._environment = environment_of(self._device, job.model.root)
        self._sources = Sources(job.model.root, job.model.reference)

    def run(self, order: JobOrder | ResidentOrder | InspectOrder | WhyOrder) -> None:
        with self._stage("", "building"):
            self._session = self._build()
            self._dtype = floating_dtype(self._session.workload)
            # A model's file may have set in what precision a GPU multiplies.
            self._environment = self._environment.model_copy(update={"software": software_of(self._device)})
            self._say(Built(dtype=self._dtype))
        gc.freeze()  # what is there now is there to stay: collecting before a pass need not look at it again
        if isinstance(order, InspectOrder):
            with self._stage("", "inspecting"):
                self._say(Inspected(inspection=inspect(self._session, self._job, self._device)))
            return
        if isinstance(order, WhyOrder):
            with self._stage("", "diagnosing"):
                self._say(Diagnosed(diagnosis=self._diagnosis(order)))
            return
        if isinstance(order, ResidentOrder):
            self._resident(order.placement)
            return
        if order.plain:
            with self._stage(PLAIN, "plain step"):
                self._session.keep_plain()
        for name in order.measure:
            with self._stage(name, "measuring"):
                self._say(Measured(measurement=self._measured(name)))
        finite = tuple(name for name in order.time if name not in self._not_finite)
        self._time(finite, warm=(PLAIN, *order.measure), plain=order.plain)

    def _build(self) -> Session:
        dtype = getattr(torch, self._settings.dtype) if self._settings.dtype else None
        workload = build(
            self._job.model, self._device, dtype=dtype, seed=self._settings.seed, optimizer=self._settings.optimizer
        )
        self._sources.seen()  # now, as near to their import as can be: a file may be edited while its model is measured
        self._outline = outline(workload.module)
        return Session(workload, self._device)

    def _stage(self, placement: str, stage: Stage) -> AbstractContextManager[None]:
        return staged(self._say, placement, stage)

    def _placement(self, name: str) -> Placement:
        if name not in self._placements:
            case = next(case for case in self._job.cases if case.name == name)
            self._placements[name] = case.resolve(self._session.outline if case.acts_on_chains else self._outline, self)
        return self._placements[name]

    def plan(self, goal: Goal) -> Placement:
        """Return the best placement for a goal, as a strategy that measures asks for it, and keep how it was found."""
        planned = self._planner(goal.at).plan(self._with_budget(goal))
        self._plans[goal.name] = planned.facts
        return planned.placement

    def plan_by_ckptplan(self, goal: Goal) -> Placement:
        """Return what the package ckptplan makes of the same measures."""
        return self._planner(goal.at).plan_by_ckptplan(goal)

    def _with_budget(self, goal: Goal) -> Goal:
        """Give a goal that names another placement the peak that one is measured at."""
        if goal.budget_of is None:
            return goal
        if goal.budget_of not in (case.name for case in self._job.cases):
            raise PlacementError(f"{goal.name}: no placement of this run is called {goal.budget_of}")
        peak = self._session.peak_bytes(self._placement(goal.budget_of))
        return replace(goal, budget_bytes=peak, of_step=True)

    def _planner(self, at: str | None) -> Planner:
        """Return the planner of a chain's blocks; what it has profiled and solved serves every goal there."""
        if at not in self._planners:
            self._planners[at] = Planner(self._session, self._device, at=at)
        return self._planners[at]

    def _measured(self, name: str) -> Measurement:
        placement = self._placement(name)
        findings = self._session.measure(placement)
        finite = math.isfinite(findings.loss)
        if not finite:
            self._not_finite.add(name)
        return Measurement(
            suite=self._job.suite,
            model=self._job.model.name,
            placement=name,
            device=self._job.device,
            dtype=self._dtype,
            status=Status.OK if finite else Status.ERROR,
            message="; ".join(
                [*_remarks(findings), *placement.notes, *(cache_warnings(self._session) if name == PLAIN else ())]
            ),
            regions=placement,
            checkpointed_blocks=findings.blocks,
            memory=findings.memory,
            equality=findings.equality if finite else None,
            flops=findings.flops,
            timeline=findings.timeline,
            compile_s=findings.compile_s,
            plan=self._plans.get(name),
            structure=self._structure() if name == PLAIN else None,
            environment=self._environment,
            sources=self._sources.seen(),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _structure(self) -> Structure:
        self._session.fresh()
        return structure_of(self._session.workload)

    def _time(self, names: tuple[str, ...], warm: Collection[str], plain: bool) -> None:
        """Time the placements in rounds, the plain step among them whenever there is one to compare with.

        What this process has not run yet takes a step first that is not counted, as torch imports and allocates then.
        On a GPU all take one: the memory passes have given back what its allocator had in store.
        """
        timed = (PLAIN, *(name for name in names if name != PLAIN)) if plain and names else names
        warm = () if is_accelerator(self._device) else warm
        for name in timed:
            if name not in warm:
                self._timed_step(name)
        samples: dict[str, list[float]] = defaultdict(list)

        def timing(name: str) -> Timing:
            return Timing(step_s=tuple(samples[name]), plain_s=tuple(samples[PLAIN]) if plain else ())

        def is_settled() -> bool:
            width = self._settings.interval_width
            return bool(plain and width) and all(step_ratio(timing(name)).is_within(width) for name in names)

        gc.collect()
        for name in self._schedule(timed, is_settled) if timed else ():
            samples[name].append(self._timed_step(name))
        for name in names:
            self._say(Timed(placement=name, timing=timing(name)))

    def _timed_step(self, name: str) -> float:
        with self._stage(name, "timing"):
            return self._session.timed_step(self._placement(name))

    def _schedule(self, names: tuple[str, ...], is_settled: Callable[[], bool]) -> Iterator[str]:
        settings = self._settings
        return schedule(
            names,
            seed=settings.seed,
            budget_s=settings.time_budget_s,
            clock=clock_for(self._device),
            rounds=settings.rounds,
            is_settled=is_settled,
        )

    def _diagnosis(self, order: WhyOrder) -> Diagnosis:
        case = next(case for case in self._job.cases if case.name == order.placement)
        if case.strategy is not None and case.strategy.strategy.measures:
            self._session.keep_plain()  # what a share of its bytes is of, and what a plan is held to
        return diagnose(
            self._session,
            self._placement(order.placement),
            model=self._job.model.name,
            device=self._device,
            accumulate=order.accumulate,
            environment=self._environment,
        )

    def _resident(self, name: str) -> None:
        with self._stage(name, "resident"):
            placement = self._placement(name)
            self._session.timed_step(placement)
            grown = resident_growth(lambda: self._session.timed_step(placement))
            self._say(Resident(placement=name, resident_bytes=grown))


def _remarks(findings: UntimedMeasurement) -> Iterator[str]:
    if not math.isfinite(findings.loss):
        yield f"the loss is {findings.loss}: neither gradients nor times of such a step mean anything"
    if not findings.memory.repeatable:
        peaks = " and ".join(f"{peak:,}" for peak in findings.memory.passes_peak_bytes)
        yield f"the memory passes differ: {peaks} bytes"
    if findings.flops is None and findings.compile_s is None:
        yield "FLOPs are not counted: torch cannot run this step under a dispatch mode"
    if findings.unsteadiness:
        yield findings.unsteadiness
    if findings.equality and findings.equality.buffer:
        yield f"buffer {findings.equality.buffer} differs"
