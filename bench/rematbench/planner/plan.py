"""Plans from Python: for a model in this process, or from costs alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rematbench.errors import RematbenchError
from rematbench.measuring.session import Session
from rematbench.placement.goal import Goal, Objective
from rematbench.placement.placement import Placement
from rematbench.placing.apply import Handle, apply
from rematbench.planner.planner import Planner
from rematbench.planner.profile import Profile
from rematbench.planner.scheduled import placement_of
from rematbench.solver.solve import solve
from rematbench.units import format_bytes
from rematbench.workload.building import static_bytes
from rematbench.workload.step import Batch, Workload, batch_tensors


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The best placement for a budget.

    Attributes:
        model: it is for; None where it was made from costs alone.
        predicted_peak_bytes, measured_peak_bytes: of the step, above its start; measured is None without a model.
        cost: recomputed, as predicted, in seconds or FLOPs; like the prediction None for a placement by hand.
        static_bytes: there before the step.
    """

    placement: Placement
    model: nn.Module | None
    minimise: Objective
    budget_bytes: int
    predicted_peak_bytes: int | None
    measured_peak_bytes: int | None
    cost: float | None
    static_bytes: int = 0

    def apply(self) -> Handle:
        """Put the placement in force on the model, until the handle's `remove()`.

        Raises:
            RematbenchError: the plan was made from costs alone.
        """
        if self.model is None:
            raise RematbenchError("this plan was made from costs alone: apply(model, plan.placement)")
        return apply(self.model, self.placement)

    def explain(self) -> str:
        """Say in a sentence what the plan comes to."""
        peak = (self.predicted_peak_bytes or 0) if self.measured_peak_bytes is None else self.measured_peak_bytes
        how = "predicted" if self.measured_peak_bytes is None else "measured"
        cost = _cost(self.cost, self.minimise)
        return (
            f"{len(self.placement.regions)} regions: the step peaks at {format_bytes(peak)} ({how}) within "
            f"{format_bytes(self.budget_bytes)}, {cost}"
        )


def _cost(cost: float | None, minimise: Objective) -> str:
    if cost is None:
        return "as by hand, since no schedule of units fits"
    return f"recomputing {1e3 * cost:.3g} ms" if minimise == "time" else f"recomputing {cost:.3g} FLOPs"


def plan(
    model: nn.Module | None = None,
    batch: Batch | None = None,
    *,
    budget_bytes: int,
    minimise: Objective = "time",
    of_step: bool = False,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    costs: Profile | None = None,
) -> Plan:
    """Find the best placement for a memory budget.

    Args:
        model: on the device and in the mode it is trained in; its gradients are set to None. None with `costs`.
        batch: a tuple of arguments, or a mapping of keyword arguments.
        budget_bytes: of parameters, buffers, batch and the step together; `of_step` leaves out what is there before.
        loss_fn: from output to scalar; by default as for a model's factory.
        costs: a profile in place of measuring the units; without a model nothing is measured at all.

    Raises:
        PlacementError: no placement fits the budget.
        RematbenchError: neither a model with its batch nor costs were given.
    """
    if model is None or batch is None:
        if costs is None or model is not None:
            raise RematbenchError("plan takes a model and a batch, or costs")
        return _from_costs(costs, budget_bytes, minimise)
    workload = Workload(module=model, batch=batch, loss_fn=loss_fn)
    device = next(
        (tensor.device for tensor in (*model.parameters(), *batch_tensors(batch).values())), torch.device("cpu")
    )
    session = Session(workload, device)
    goal = Goal(name="plan", minimise=minimise, budget_bytes=budget_bytes, of_step=of_step)
    planned = Planner(session, device, costs).plan(goal)
    session.fresh()
    return Plan(
        placement=planned.placement,
        model=model,
        minimise=minimise,
        budget_bytes=budget_bytes,
        predicted_peak_bytes=planned.facts.predicted_peak_bytes,
        measured_peak_bytes=planned.facts.measured_peak_bytes,
        cost=planned.facts.predicted_cost,
        static_bytes=static_bytes(workload),
    )


def _from_costs(costs: Profile, budget_bytes: int, minimise: Objective) -> Plan:
    schedule = solve(costs.chain(minimise), budget_bytes)
    return Plan(
        placement=placement_of("plan", costs, schedule.regions),
        model=None,
        minimise=minimise,
        budget_bytes=budget_bytes,
        predicted_peak_bytes=schedule.peak_bytes,
        measured_peak_bytes=None,
        cost=schedule.cost,
    )
