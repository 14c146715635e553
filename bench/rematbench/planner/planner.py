"""Find the best placement for a memory budget: profile the units, solve, measure, and take what fits as measured."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import Literal

import torch

from rematbench.errors import PlacementError, RematbenchError
from rematbench.measuring.capped import CappedRun, capped_run
from rematbench.measuring.session import PASSES, Session
from rematbench.placement.goal import Goal, Objective
from rematbench.placement.outline import Outline
from rematbench.placement.placement import PLAIN, Placement, Region
from rematbench.placing.batch_norm import batch_norms
from rematbench.planner.by_hand import by_hand, in_units
from rematbench.planner.bytes_in_step import metered_in_step
from rematbench.planner.ckptplan import regions_by_ckptplan
from rematbench.planner.in_step import timed_in_step
from rematbench.planner.profile import BEGINNING, Profile
from rematbench.planner.profiling import profile
from rematbench.planner.scheduled import placement_of
from rematbench.records.measurement import PlanFacts, PlanPoint
from rematbench.solver.bound import least_working_set_bytes
from rematbench.solver.chain import UnitChain
from rematbench.solver.schedule import NOTHING, Schedule, UnitRegion, even_cuts
from rematbench.solver.simulate import simulate
from rematbench.solver.solve import cost_bound, frontier
from rematbench.units import format_bytes
from rematbench.workload.devices import is_out_of_memory, release_cached

_TRIES = 8
"""How many points predicted above the budget are measured at most."""

_DOUBT = 0.25
"""How far above the leanest plan a placement by hand may be predicted and still be measured: it may be wrongly so."""

_SLACK = 0.03
"""How much above the budget a prediction may lie and still be measured: the model errs on both sides."""

_NEAR = 0.15
"""How far below the budget a point is near it: what is known of its prediction goes for those above it."""

_RIGHT = 0.005
"""Within what a prediction is right."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A placement that fits as measured, and what is known about it."""

    placement: Placement
    facts: PlanFacts


class Planner:
    """Plans for one session's model; its units are profiled, and each objective solved, once.

    Args:
        session: whose model it is.
        device: it is on.
        profiled: a profile made elsewhere; None measures one.
        at: path of the chain whose blocks are the units; None for the outermost chains.
    """

    def __init__(
        self, session: Session, device: torch.device, profiled: Profile | None = None, *, at: str | None = None
    ) -> None:
        self._session = session
        self._device = device
        self._given = profiled
        self._at = at
        self._frontiers: dict[Objective, tuple[UnitChain, tuple[Schedule, ...]]] = {}
        self._refused: dict[tuple[UnitRegion, ...], str] = {}
        self._not_profiled = ""
        self._profiles: dict[bool, Profile] = {}
        self._capped_runs: dict[tuple[tuple[Region, ...], int], CappedRun | None] = {}

    @property
    def profile(self) -> Profile:
        """The measured units; their seconds are 0 as long as nobody has asked for time, which takes longer."""
        return self._profiled(timed=True in self._profiles)

    def _profiled(self, *, timed: bool) -> Profile:
        if self._given is not None:
            return self._given
        if timed not in self._profiles:
            self._session.fresh()
            plain_bytes, workload = self._session.plain_peak_bytes, self._session.workload
            found = profile(workload, self._device, self._at, plain_peak_bytes=plain_bytes, timed=timed)
            if plain_bytes is not None:
                found = metered_in_step(found, self._session)
            # What was solved and refused goes by the names that the ways had.
            self._profiles = {timed: found}
            self._frontiers.clear()
            self._refused.clear()
        return self._profiles[timed]

    @cached_property
    def _timed(self) -> Profile:
        """The profile with seconds as in a step, where the plain step is known to fit."""
        found = self._profiled(timed=True)
        if self._given is not None or self._session.plain_peak_bytes is None:
            return found
        each = [UnitRegion(start=at, stop=at + 1) for at, unit in enumerate(found.units) if unit.can_be_region]
        return timed_in_step(found, self._session, self._device, self._candidate(each))

    def frontier(self, objective: Objective) -> tuple[UnitChain, tuple[Schedule, ...]]:
        """Return the cost model and every schedule that none beats by prediction."""
        if objective not in self._frontiers:
            found = self._timed if objective == "time" else self.profile
            chain = found.chain(objective)
            self._frontiers[objective] = chain, _alike(found, chain, frontier(chain))
        return self._frontiers[objective]

    def plan(self, goal: Goal) -> Planned:
        """Return the cheapest placement whose measured peak fits the goal's budget and that trains the same.

        Where no schedule of units fits, it is a placement by hand.

        Raises:
            PlacementError: none fits; says the least peak that is reached, and the block that sets it.
        """
        static = self._session.static_bytes
        try:
            chain, schedules = self.frontier(goal.minimise)
        except (torch.OutOfMemoryError, RematbenchError):
            raise
        except Exception as error:  # the model does what units cannot be cut out of; placements by hand are left
            self._not_profiled = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            return self._chosen_by_hand(goal, self._budget(goal, static, ()), static)
        budget = self._budget(goal, static, schedules)
        predicted = [schedule.peak_bytes for schedule in schedules]
        fitting = _Search(predicted, budget, lambda at: self._peak_within(schedules[at], budget))
        at = fitting.best()
        if at is None:
            return self._chosen_by_hand(goal, budget, static)
        chosen, more_tries = self._or_even(chain, schedules[at], budget)
        run = self._capped(self._candidate(chosen.regions), budget)
        measured, bound_peak = int(self.measured_peak_bytes(chosen)), least_working_set_bytes(chain)
        # Units so small that their measures are of the meter's own blocks: what is measured below a bound refutes it.
        bounded = measured >= bound_peak
        bound_cost = cost_bound(chain, budget) if bounded else math.inf
        facts = PlanFacts(
            minimise=goal.minimise,
            budget_bytes=budget,
            budget_of=goal.budget_of,
            predicted_peak_bytes=chosen.peak_bytes,
            measured_peak_bytes=measured,
            predicted_cost=chosen.cost,
            bound_cost=None if bound_cost == math.inf else bound_cost,
            bound_peak_bytes=bound_peak if bounded else None,
            least_peak_bytes=schedules[0].peak_bytes,
            plain_cost=sum(unit.forward_cost for unit in chain.units),
            predicted_ratio=self._predicted_ratio(goal, chosen),
            tries=fitting.tries + more_tries,
            reserved_bytes=run.reserved_bytes if run else None,
            below=_point([point for point in schedules if point.cost > chosen.cost], -1),
            above=_point([point for point in schedules if point.cost < chosen.cost], 0),
        )
        return Planned(placement=self._handed_out(goal.name, chosen.regions), facts=facts)

    def _chosen_by_hand(self, goal: Goal, budget: int, static: int) -> Planned:
        """Return the placement by hand that fits and recomputes least.

        Raises:
            PlacementError: none fits either.
        """
        fitting = {
            peak: placement
            for placement, peak in self._by_hand()
            if peak <= budget and self._runs_within(placement, budget)
        }
        if not fitting:
            raise PlacementError(self._infeasible(goal, static, budget))
        costs = {peak: self._session.measure(placement).flops for peak, placement in fitting.items()}
        peak = min(costs, key=lambda peak: (flops.recompute or 0 if (flops := costs[peak]) else 0, peak))
        facts = PlanFacts(
            minimise=goal.minimise,
            budget_bytes=budget,
            budget_of=goal.budget_of,
            measured_peak_bytes=peak,
            least_peak_bytes=min(costs),
            by_hand=fitting[peak].name,
            tries=len(fitting),
        )
        fingerprint = self._outline.fingerprint
        update = {"name": goal.name, "fingerprint": fingerprint}
        return Planned(placement=fitting[peak].model_copy(update=update), facts=facts)

    def _by_hand(self, below_bytes: float = math.inf, doubt: float = _DOUBT) -> Iterator[tuple[Placement, int]]:
        """Yield the placements by hand that train the same and peak below so many bytes, with their measured peaks.

        The plain step is one of them. What is predicted to peak higher by more than the doubt is not measured.
        """
        plain = self._session.plain_peak_bytes
        if plain is not None and plain < below_bytes:
            yield Placement(name=PLAIN), plain
        options = {"batch_norm": "once"} if self._writes_buffers else {}
        for placement in by_hand(self._outline, options):
            predicted = self._predicted_by_hand(placement) if below_bytes < math.inf else None
            if predicted is not None and predicted >= below_bytes * (1 + doubt):
                continue
            try:
                if self._session.peak_bytes(placement, passes=1) >= below_bytes:
                    continue
                peak = self._session.peak_bytes(placement)
                if peak < below_bytes and not self._training_changed_by(placement):
                    yield placement, peak
            except (PlacementError, RuntimeError):  # it cannot be run, or not on this device; another one may
                self._session.fresh()

    def _predicted_by_hand(self, placement: Placement) -> int | None:
        """Return the predicted peak; None where its regions are not of whole units."""
        units = {unit.path: at for at, unit in enumerate(self.profile.units)}
        if len(units) < len(self.profile.units):  # a path is of several calls
            return None
        regions = in_units(placement, self._session.workload.module, units)
        try:
            return None if regions is None else simulate(self.profile.chain("flops"), regions).peak_bytes
        except ValueError:  # a region over what none may cover, as far as the profile can tell
            return None

    def _training_changed_by(self, placement: Placement) -> str:
        """Say what a placement changes in training that the plain step keeps the same; nothing where it is the same."""
        found = self._session.equality(placement)
        if found is None or not placement.regions:
            return ""
        if found.gradients == "different":
            return f"it changes the gradient of {found.gradients_worst}"
        changed = [name for name in ("loss", "buffers", "rng_state") if getattr(found, name) == "different"]
        return f"it changes {_CHANGES[changed[0]]} {found.buffer}".rstrip() if changed else ""

    def plan_by_ckptplan(self, goal: Goal) -> Placement:
        """Return what another planner makes of the same measures.

        Raises:
            PlacementError: it is not installed, or finds nothing.
        """
        return self._handed_out(goal.name, regions_by_ckptplan(goal, self._profiled(timed=True)))

    def _predicted_ratio(self, goal: Goal, schedule: Schedule) -> float | None:
        plain_s = self._timed.step_s if goal.minimise == "time" else None
        return 1 + schedule.cost / plain_s if plain_s else None

    def _or_even(self, chain: UnitChain, chosen: Schedule, budget: int) -> tuple[Schedule, int]:
        """Return an even cut of the chains if one that is cheaper fits as measured, though predicted not to."""
        known = {regions: simulate(chain, regions) for regions in even_cuts(chain)}
        cuts = [(figures.cost, figures.peak_bytes, regions) for regions, figures in known.items()]
        near = [cut for cut in sorted(cuts) if cut[0] < chosen.cost and cut[1] <= budget * (1 + 2 * _SLACK)]
        if abs(self.measured_peak_bytes(chosen) / chosen.peak_bytes - 1) <= _RIGHT:
            # Even cuts are told as right, so that none is likely to fit but the one that is nearest to it.
            near = sorted((cut for cut in near if cut[1] <= budget * (1 + _SLACK)), key=lambda cut: cut[1])[:1]
        for tries, (cost, peak, regions) in enumerate(near[:_TRIES], start=1):
            schedule = Schedule(regions=regions, peak_bytes=peak, cost=cost)
            if self._peak_within(schedule, budget) <= budget:
                return schedule, tries
        return chosen, len(near[:_TRIES])

    def _budget(self, goal: Goal, static: int, schedules: Sequence[Schedule]) -> int:
        if goal.point is None:
            return goal.step_budget(static, self._session.plain_peak_bytes)
        k, n = goal.point
        least = self._least_peak_bytes(schedules)
        most = self._session.plain_peak_bytes or (self.measured_peak_bytes(schedules[-1]) if schedules else math.inf)
        if math.inf in (least, most):
            raise PlacementError(f"{goal.name}: an end of the frontier cannot be run: {self._last_refusal}")
        return int(least) + (int(most) - int(least)) * (k - 1) // max(1, n - 1)

    def measured_peak_bytes(self, schedule: Schedule, *, passes: int = PASSES) -> float:
        """Return the peak of a step under it, metered once a session; infinite where it cannot be run."""
        if schedule.regions not in self._refused:
            try:
                return self._session.peak_bytes(self._candidate(schedule.regions), passes=passes)
            except PlacementError as error:  # this candidate is no plan; another one may be
                self._refused[schedule.regions] = str(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._refused[schedule.regions] = "it runs out of memory"
            # Once the error is gone, which holds the frames of half a step and all that they hold.
            self._session.fresh()
            release_cached(self._device)
        return math.inf

    def _accepted_peak_bytes(self, schedule: Schedule) -> float:
        """Return the measured peak; infinite where it cannot be run or trains another way."""
        if self.measured_peak_bytes(schedule) < math.inf and (
            change := self._training_changed_by(self._candidate(schedule.regions))
        ):
            self._refused[schedule.regions] = change
        return self.measured_peak_bytes(schedule)

    def _peak_within(self, schedule: Schedule, budget: int) -> float:
        """Return the measured peak; infinite where it fits and yet is no plan.

        That is where it trains another way, or where a device that can be held to the budget cannot run it within.
        """
        # What is no plan, one pass tells of.
        peak = self.measured_peak_bytes(schedule, passes=1)
        if peak > budget:
            return peak
        if not self._runs_within(self._candidate(schedule.regions), budget):
            return math.inf
        return self._accepted_peak_bytes(schedule)

    def _least_peak_bytes(self, schedules: Sequence[Schedule]) -> float:
        """Return the least measured peak of all that trains the same, by schedule or by hand."""
        leanest, predicted = math.inf, 0
        for schedule in schedules[:_TRIES]:
            if schedule.peak_bytes >= leanest:  # no further one is promised to go below what was measured
                break
            # One pass tells what is no leaner.
            if self.measured_peak_bytes(schedule, passes=1) < leanest:
                peak = self._accepted_peak_bytes(schedule)
                leanest, predicted = min((leanest, predicted), (peak, schedule.peak_bytes))
        return min([leanest, *(peak for _, peak in self._by_hand(leanest, self._doubt(leanest, predicted)))])

    def _doubt(self, leanest: float, predicted: int) -> float:
        """Return by how much predictions are doubted: by little where both ends of the frontier are told right."""
        plain = self._session.plain_peak_bytes
        if not plain or leanest == math.inf:
            return _DOUBT
        ends = (leanest, predicted), (plain, simulate(self.profile.chain("flops"), ()).peak_bytes)
        is_right = all(abs(measured / told - 1) <= _RIGHT for measured, told in ends)
        return 2 * _RIGHT if is_right else _DOUBT

    def _runs_within(self, placement: Placement, budget: int) -> bool:
        """Tell whether a step runs in no more than the budget, where a device can be held to it."""
        run = self._capped(placement, budget)
        return run is None or run.ran

    def _capped(self, placement: Placement, budget: int) -> CappedRun | None:
        """Run a step that fits as measured in no more than the budget, once; None where that cannot be done."""
        key = placement.regions, budget
        if key not in self._capped_runs:
            self._capped_runs[key] = capped_run(self._session, self._device, placement, budget)
        return self._capped_runs[key]

    def _candidate(self, regions: Iterable[UnitRegion], name: str = "", fingerprint: str | None = None) -> Placement:
        """Write regions of units as a placement; without a fingerprint, applying it need not look at all of the model.

        Only what is handed out carries one.
        """
        batch_norm: Literal["as-is", "once"] = "once" if self._writes_buffers else "as-is"
        return placement_of(name, self.profile, regions, batch_norm, fingerprint)

    def _handed_out(self, name: str, regions: Iterable[UnitRegion]) -> Placement:
        return self._candidate(regions, name, self._outline.fingerprint)

    @property
    def _outline(self) -> Outline:
        return self._session.outline if self._at is None else self._session.outline.at(self._at)

    @cached_property
    def _writes_buffers(self) -> bool:
        return bool(batch_norms([self._session.workload.module])) or self._session.writes_buffers()

    @property
    def _last_refusal(self) -> str:
        return next(reversed(self._refused.values()), self._not_profiled)

    def _infeasible(self, goal: Goal, static: int, budget: int) -> str:
        chain, schedules = (None, ()) if self._not_profiled else self.frontier(goal.minimise)
        least = self._least_peak_bytes(schedules)
        if least == math.inf:
            return f"{goal.name}: no placement fits; the leanest found cannot be run: {self._last_refusal}"
        if least <= budget:
            return (
                f"{goal.name}: no placement fits; the leanest peaks at {format_bytes(int(least))}, but its memory "
                f"lies in pieces: it does not run where the allocator may take {format_bytes(budget)}"
            )
        whole = "" if goal.of_step else f", {format_bytes(int(least) + static)} with what is there before it"
        said = f"{goal.name}: no placement fits; the least peak of the step is {format_bytes(int(least))}{whole}"
        if chain is None:
            return f"{said}, by hand, as its units cannot be profiled: {self._not_profiled}"
        if self.measured_peak_bytes(schedules[0]) != least:
            why = f"; the leanest schedule is no plan: {self._last_refusal}" if self._refused else ""
            return f"{said}, by hand{why}"
        unit = self.profile.units[simulate(chain, schedules[0].regions).peak_unit]
        refused = unit.refusals.get(NOTHING) or unit.refusals.get(BEGINNING)
        return f"{said}, set by {unit.path}" + (f", which cannot be a region: {refused}" if refused else "")


_CHANGES = {"loss": "the loss", "buffers": "the buffer", "rng_state": "the random state after the step"}


def _alike(profile: Profile, chain: UnitChain, schedules: Sequence[Schedule]) -> tuple[Schedule, ...]:
    """Make the calls of a module that is called several times one region each wherever one of them is.

    A region's path names the module, and so all of its calls. Only schedules that none beats are kept.
    """
    calls: dict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(profile.units):
        calls[unit.path].append(at)
    if all(len(of_one) == 1 for of_one in calls.values()):
        return tuple(schedules)
    found: dict[tuple[UnitRegion, ...], Schedule] = {}
    for schedule in schedules:
        apart = [region for region in schedule.regions if len(calls[profile.units[region.start].path]) == 1]
        alike = [region for region in schedule.regions if region not in apart]
        saves = {profile.units[region.start].path: [""] for region in alike}
        for region in alike:
            saves[profile.units[region.start].path].append(region.save)
        # Where its calls are run in several ways, each of them is tried for all.
        for chosen in islice(product(*(dict.fromkeys(found_saves) for found_saves in saves.values())), _TRIES):
            every = [
                UnitRegion(start=at, stop=at + 1, save=save)
                for path, save in zip(saves, chosen, strict=True)
                for at in (calls[path] if save else ())
            ]
            regions = tuple(sorted([*apart, *every], key=lambda region: (region.start, -region.stop)))
            try:
                figures = simulate(chain, regions)
            except ValueError:  # one of the calls cannot be run so
                continue
            found[regions] = Schedule(regions=regions, peak_bytes=figures.peak_bytes, cost=figures.cost)
    kept: list[Schedule] = []
    for schedule in sorted(found.values(), key=lambda schedule: (schedule.peak_bytes, schedule.cost)):
        if not kept or schedule.cost < kept[-1].cost:
            kept.append(schedule)
    return tuple(kept)


class _Search:
    """Looks along a frontier, peaks rising and costs falling, for the cheapest point whose measured peak fits."""

    def __init__(self, predicted: Sequence[int], budget: int, measured: Callable[[int], float]) -> None:
        self._predicted = predicted
        self._budget = budget
        self._measured = measured
        self._tried: set[int] = set()

    @property
    def tries(self) -> int:
        """How many points were measured."""
        return len(self._tried)

    def best(self) -> int | None:
        """Return the point's index; None if not even the first fits.

        Points predicted a little above the budget may fit all the same. Where the last one predicted to fit is near the
        budget and is told too high, they are all measured, the cheapest of them before the others. Where it is told
        right or too low they are tried upwards, and the first that does not fit is the last. Below the budget, a point
        that does not fit lowers the sights by its error.
        """
        if not self._predicted:
            return None
        # Where not even the leanest is predicted to fit, it is as near as any.
        inside = max(0, self._last_below(self._budget))
        above = max(inside, min(self._last_below(int(self._budget * (1 + _SLACK))), inside + _TRIES))
        if self._is_told_too_high(inside):
            found = next((at for at in range(above, inside, -1) if self._fits(at)), inside)
        else:
            found = next((at - 1 for at in range(inside + 1, above + 1) if not self._fits(at)), above)
        if found > inside:
            return found
        at = inside
        while at >= 0:
            if self._fits(at):
                return at
            error = self._measured(at) - self._predicted[at]
            at = at - 1 if error == math.inf else min(at - 1, self._last_below(self._budget - int(error)))
        return 0 if self._fits(0) else None

    def _is_told_too_high(self, at: int) -> bool:
        """Tell whether points above one that is predicted to fit may; far from the budget it says nothing of them."""
        if self._predicted[at] < self._budget * (1 - _NEAR):
            return True
        self._tried.add(at)
        measured = self._measured(at)
        return measured == math.inf or measured < self._predicted[at] * (1 - _RIGHT)

    def _last_below(self, budget: int) -> int:
        return bisect_right(self._predicted, budget) - 1

    def _fits(self, at: int) -> bool:
        self._tried.add(at)
        return self._measured(at) <= self._budget


def _point(schedules: Sequence[Schedule], at: int) -> PlanPoint | None:
    if not schedules:
        return None
    return PlanPoint(predicted_peak_bytes=schedules[at].peak_bytes, predicted_cost=schedules[at].cost)
