"""What a planned placement is asked for: a memory budget, or a point of the frontier. As text, in suites and options.

`plan:6GiB` and `plan:60%` are of all bytes, what is there before the step included, a share is of the plain step's;
`plan:6GiB/step` is of the step's own; `plan:=sqrt` takes the measured peak of another placement of the run for its
budget. `plan-flops` minimises recomputed FLOPs in place of time. `frontier:3/8` is the third of eight points from the
least peak to the plain step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from rematbench.errors import PlacementError, RematbenchError
from rematbench.placement.strategies import Strategy, parse_strategy
from rematbench.units import parse_bytes, parse_percent

CKPTPLAN = "ckptplan"

Objective = Literal["time", "flops"]
"""What a plan makes least: seconds or recomputed FLOPs."""

_OBJECTIVES: dict[str, Objective] = {"plan": "time", "plan-flops": "flops", "frontier": "flops", CKPTPLAN: "time"}
_STEP = "/step"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A budget, or a point of the frontier.

    Attributes:
        name: of the placement to be made.
        budget_bytes, budget_share: one of them, or none for a point.
        budget_of: name of another placement of the run, at whose measured peak to plan.
        of_step: whether the budget is of the step alone, without what is there before it.
        point: (k, n), the k-th of n points; None for a budget.
        by: who answers it: this project's planner, or `ckptplan`, whose budget is of what all blocks keep.
    """

    name: str
    minimise: Objective
    budget_bytes: int | None = None
    budget_share: float | None = None
    budget_of: str | None = None
    of_step: bool = False
    point: tuple[int, int] | None = None
    by: str = ""

    def step_budget(self, static_bytes: int, plain_peak_bytes: int | None) -> int:
        """Return the budget of the step in bytes above its start.

        Raises:
            PlacementError: it is a share of a plain step that is not known.
        """
        before = 0 if self.of_step else static_bytes
        if self.budget_share is None:
            return (self.budget_bytes or 0) - before
        if plain_peak_bytes is None:
            raise PlacementError(
                f"{self.name} is a share of the plain step, which did not run: give the budget in bytes"
            )
        return int(self.budget_share * (before + plain_peak_bytes)) - before


def goal_of(strategy: Strategy) -> Goal | None:
    """Return what a strategy asks a planner for; None for one that needs no measuring.

    Raises:
        PlacementError: the budget or the point cannot be read.
    """
    if strategy.name not in _OBJECTIVES:
        return None
    if strategy.path is not None or strategy.options.changed():
        raise PlacementError(f"placement {strategy.text!r}: a plan chooses its regions and their options by itself")
    goal = Goal(
        name=strategy.text, minimise=_OBJECTIVES[strategy.name], by=CKPTPLAN if strategy.name == CKPTPLAN else ""
    )
    argument = strategy.argument or ""
    if strategy.name == "frontier":
        return replace(goal, point=_point(strategy.text, argument))
    if argument.startswith("=") and not goal.by:
        return replace(goal, budget_of=argument[1:])
    text = argument.removesuffix(_STEP)
    try:
        if text.endswith("%"):
            return replace(goal, budget_share=parse_percent(text), of_step=argument.endswith(_STEP))
        return replace(goal, budget_bytes=parse_bytes(text), of_step=argument.endswith(_STEP))
    except RematbenchError as error:
        raise PlacementError(f"placement {strategy.text!r}: {error}; a budget is 6GiB, 60% or 2GiB/step") from error


def _point(text: str, argument: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", argument)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise PlacementError(f"placement {text!r}: write frontier:8, or frontier:3/8 for the third of eight points")
    return int(match[1]), int(match[2])


def spread(text: str) -> list[str]:
    """Write `frontier:8` as its eight points; any other strategy as it is."""
    match = re.fullmatch(r"frontier:(\d+)", text)
    if match is None or int(match[1]) < 1:
        return [text]
    return [f"frontier:{k}/{match[1]}" for k in range(1, int(match[1]) + 1)]


def parse_goal(text: str) -> Goal:
    """Read a goal from a strategy's text.

    Raises:
        PlacementError: it is none.
    """
    goal = goal_of(parse_strategy(text))
    if goal is None:
        raise PlacementError(f"{text!r} is no goal of a plan: write plan:6GiB, plan-flops:60% or frontier:3/8")
    return goal
