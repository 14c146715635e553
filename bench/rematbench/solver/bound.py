"""What no schedule can beat, to hold a plan against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from rematbench.solver.chain import UnitChain
from rematbench.solver.lookups import Lookups
from rematbench.solver.relaxed import relaxed


def least_working_set_bytes(chain: UnitChain) -> int:
    """Return a lower bound on any schedule's peak: the largest working set of one unit's forward or backward.

    Beside what the unit itself needs by its leanest choice, only the unavoidable counts: fixed bytes, and the gradients
    that are live at that time.
    """
    # A selective choice may hold less than the whole value that the search has it hold.
    at = Lookups(chain=relaxed(chain), stride=1)
    fixed = list(accumulate(unit.fixed_bytes for unit in chain.units))
    needs = [at.gradients[0]]
    for number, unit in enumerate(chain.units):
        peaks = [choice.forward_peak_bytes for choice in unit.choices] + [unit.forward_bytes] * unit.can_be_region
        needs.append(fixed[number] + chain.bytes_of(chain.values[number]) + min(peaks) + unit.passing_bytes)
        backward = min(
            at.unit_held(number, index, frozenset()) + choice.backward_peak_bytes
            for index, choice in enumerate(unit.choices)
        )
        needs.append(fixed[number] + at.gradients[number + 1] + backward)
    return max(needs)


def least_cost(chain: UnitChain, budget_bytes: int) -> float:
    """Return a lower bound on the cost of any schedule within the budget; infinite where none can exist.

    It is the linear relaxation of Checkmate's program (Jain et al., arXiv 1910.02653), written for a chain's units: it
    holds for every schedule that runs whole units in order and then their backward in reverse, also for those that
    drop a tensor and make it again later, which no regions can. It looks at memory while a unit's backward runs and
    not at the peaks of forwards, and a share of a unit may be saved: so it may be far below what is possible. It has
    about 3 n² rows for n units: 0.2 s for 40, 3 s for 100.
    """
    if budget_bytes < least_working_set_bytes(chain):
        return math.inf
    return _Program(chain=relaxed(chain), budget_bytes=budget_bytes).optimum()


Variable = tuple[str, int, int]


@dataclass(kw_only=True)
class _Program:
    """The linear program; time i is the backward of unit i, so time runs from n-1 down to 0.

    Every variable is a share from 0 to 1:
        saved i j: at time i, what the plain unit j saves is held.
        tensor i t: at time i, a boundary tensor is held.
        rerun i j: unit j was run again between times i+1 and i, as far as its last saved tensor.
        output i j: and that to its end.
        choice j k: unit j runs by its selective choice k, held from its forward to time j.
    At time n-1 all is free, for the forward has just run.
    """

    chain: UnitChain
    budget_bytes: int
    columns: dict[Variable, int] = field(default_factory=dict)
    rows: list[tuple[dict[int, float], float]] = field(default_factory=list)

    @cached_property
    def at(self) -> Lookups:
        return Lookups(chain=self.chain, stride=1)

    def optimum(self) -> float:
        for time in range(len(self.chain.units)):
            self._memory(time)
            self._present(time)
            if time < len(self.chain.units) - 1:
                self._carried(time)
                self._made_from(time)
        return self._solved()

    def _at_most(self, terms: Mapping[Variable, float], bound: float = 0.0) -> None:
        """Add the row sum(terms) <= bound."""
        row = {self.columns.setdefault(name, len(self.columns)): factor for name, factor in terms.items()}
        self.rows.append((row, bound))

    def _memory(self, time: int) -> None:
        """What is held while the unit's backward runs fits into the budget; what is saved holds its tensors."""
        chain, at = self.chain, self.at
        terms: dict[Variable, float] = {}
        for number, unit in enumerate(chain.units[: time + 1]):
            for index, choice in enumerate(unit.choices):
                holder: Variable = ("choice", number, index) if index else ("saved", time, number)
                # A unit that is run again may be so by any choice that nests. Its least figures stand for them all.
                like = [choice, *(other for other in unit.choices[1:] if other.nests and not index)]
                needed = min(other.backward_peak_bytes for other in like) if number == time else 0
                terms[holder] = min(other.saved_bytes for other in like) + needed
                tensors = [at.saved(number, unit.choices.index(other)) for other in like]
                for tensor in tensors[0].intersection(*tensors):
                    terms["tensor", time, tensor] = chain.tensor_bytes[tensor]
                    self._at_most({holder: 1, ("tensor", time, tensor): -1})
        held = sum(unit.fixed_bytes for unit in chain.units[: time + 1]) + at.gradients[time + 1]
        for tensor in frozenset().union(*chain.values[: time + 1]):
            terms["tensor", time, tensor] = chain.tensor_bytes[tensor]
        self._at_most(terms, self.budget_bytes - held)

    def _present(self, time: int) -> None:
        """The unit whose backward runs has been saved, or runs by a selective choice."""
        selective = range(1, len(self.chain.units[time].choices))
        self._at_most({("saved", time, time): -1, **{("choice", time, index): -1 for index in selective}}, -1)

    def _carried(self, time: int) -> None:
        """What is held was held before or made in between."""
        for number in range(time + 1):
            before, made = ("saved", time + 1, number), ("rerun", time, number)
            self._at_most({("saved", time, number): 1, before: -1, made: -1})
            self._at_most({("output", time, number): 1, made: -1})
        for tensor in frozenset().union(*self.chain.values[: time + 2]):
            terms = {("tensor", time, tensor): 1.0, ("tensor", time + 1, tensor): -1.0}
            self._at_most(terms | self._maker("rerun", time, tensor))

    def _made_from(self, time: int) -> None:
        """A unit is run again on tensors that were held, or made in between as well."""
        for number in range(time + 1):
            for tensor in self.chain.values[number]:
                terms = {("rerun", time, number): 1.0, ("tensor", time + 1, tensor): -1.0}
                self._at_most(terms | self._maker("output", time, tensor))

    def _maker(self, kind: str, time: int, tensor: int) -> dict[Variable, float]:
        first = next(at for at, value in enumerate(self.chain.values) if tensor in value)
        return {(kind, time, first - 1): -1.0} if first else {}

    def _cost(self, variable: Variable) -> float:
        kind, _, number = variable
        if kind == "choice":
            return self.chain.units[variable[1]].choices[number].recompute_cost
        if kind not in ("rerun", "output"):
            return 0.0
        unit = self.chain.units[number]
        return unit.rerun_cost if kind == "rerun" else unit.forward_cost - unit.rerun_cost

    def _solved(self) -> float:
        """Solve the program, and return 0 for less than nothing, which is rounding."""
        # Late: they take a fifth of a second, and every worker imports the planner.
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        # Rows in bytes stand beside rows of shares, and costs may be seconds or 10¹² FLOPs. HiGHS takes what is below
        # 1e-7 for nothing, so that every row, and the costs, are scaled to a largest factor of 1.
        entries = [
            (number, column, factor / max(1.0, *map(abs, row.values())))
            for number, (row, _) in enumerate(self.rows)
            for column, factor in row.items()
        ]
        bounds = [bound / max(1.0, *map(abs, row.values())) for row, bound in self.rows]
        numbers, columns, factors = map(np.array, zip(*entries, strict=True))
        # Any: linprog takes sparse rows, which its annotations do not know.
        table: Any = csr_array((factors, (numbers, columns)), shape=(len(self.rows), len(self.columns)))
        costs = np.array([self._cost(variable) for variable in self.columns])
        scale = float(costs.max(initial=0.0)) or 1.0
        found = linprog(costs / scale, A_ub=table, b_ub=np.array(bounds), bounds=(0, 1), method="highs")
        if found.fun is None:
            # Where HiGHS gives up for another reason than that nothing fits, nothing is all that is known.
            return math.inf if found.status == 2 else 0.0
        return max(0.0, float(found.fun) * scale)
