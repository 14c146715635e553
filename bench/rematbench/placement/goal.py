"""What a planned placement is asked for: a memory budget, or a point of the frontier.

`6GiB` and `60%` are of all bytes, what is there before the step included; a share is of the plain step's. `6GiB/step`
is of the step's own; `=sqrt` takes the measured peak of another placement of the run for its budget, the target.
`3/8` is the third of eight points from the least peak to the plain step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rematbench.errors import PlacementError, RematbenchError
from rematbench.units import parse_bytes, parse_percent

Objective = Literal["time", "flops"]
"""What a plan makes least: seconds or recomputed FLOPs."""

MOST_POINTS = 200
"""Of a frontier: each is a placement to measure, and the solver tells no more of them apart."""

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
        at: path of the chain whose blocks are planned; None for the outermost ones.
    """

    name: str = ""
    minimise: Objective
    budget_bytes: int | None = None
    budget_share: float | None = None
    budget_of: str | None = None
    of_step: bool = False
    point: tuple[int, int] | None = None
    at: str | None = None

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


def read_budget(text: str, minimise: Objective, *, may_name: bool = True) -> Goal:
    """Read `6GiB`, `60%`, either with `/step` behind it, or `=NAME`, where a goal may name another placement.

    Raises:
        PlacementError: it is none of these.
    """
    if may_name and text.startswith("="):
        return Goal(minimise=minimise, budget_of=text[1:])
    amount, of_step = text.removesuffix(_STEP), text.endswith(_STEP)
    try:
        if amount.endswith("%"):
            return Goal(minimise=minimise, budget_share=parse_percent(amount), of_step=of_step)
        return Goal(minimise=minimise, budget_bytes=parse_bytes(amount), of_step=of_step)
    except RematbenchError as error:
        raise PlacementError(f"{error}; a budget is 6GiB, 60% or 2GiB/step") from error


def read_point(text: str) -> Goal:
    """Read `3/8`.

    Raises:
        PlacementError: it is no point, or one beyond the last.
    """
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_POINTS:
        raise PlacementError(
            f"write frontier:8, or frontier:3/8 for the third of eight points; {MOST_POINTS} points are the most"
        )
    return Goal(minimise="flops", point=(int(match[1]), int(match[2])))
