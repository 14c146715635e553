"""What the recursion looks up about a chain: prefix sums, where regions may end, what is held after an element."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from rematbench.solver.chain import UnitChain
from rematbench.solver.pareto import Array

Tensors = frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Lookups:
    """Numbers by unit or by boundary, each worked out once.

    Attributes:
        chain: what they are about.
        stride: regions longer than twice this begin and end at its multiples only.
        longest: no region is longer; None for any length.
    """

    chain: UnitChain
    stride: int
    longest: int | None = None

    @cached_property
    def gradients(self) -> list[int]:
        """What is live of gradients once the units from each boundary on have run backward."""
        of_parameters = accumulate((unit.parameter_gradient_bytes for unit in reversed(self.chain.units)), initial=0)
        own = (self.chain.gradient_bytes(at) for at in range(len(self.chain.values)))
        return [sum(both) for both in zip(list(of_parameters)[::-1], own, strict=True)]

    @cached_property
    def lingering(self) -> list[int]:
        """What lingers of earlier units when each first runs, by the search's own reckoning."""
        return self.chain.lingering_bytes()

    @cached_property
    def reruns(self) -> list[int]:
        """What is live beside what is held while a region that ends at each boundary is run again."""
        return [gradient + self.chain.rerun_bytes for gradient in self.gradients]

    def first_run(self, at: int) -> int:
        """Return what is live when a unit first runs, at depth 0, besides what is held and what it needs itself."""
        return self.chain.units[at].passing_bytes + self.lingering[at]

    def between(self, at: int, charged: Tensors) -> int:
        """Return what is needed around a unit at depth 0, in what room it is and all that follows have.

        That is right before it, above what is held and goes in, and once its backward is over, above what is held.
        """
        unit = self.chain.units[at]
        before = unit.fixed_bytes + self.input_held(at, charged) + self.lingering[at] + unit.before_bytes
        return max(before, unit.after_bytes)

    @cached_property
    def forward_costs(self) -> Array:
        """The cost of the units before each boundary."""
        return np.concatenate(([0.0], np.cumsum([unit.forward_cost for unit in self.chain.units])))

    @cached_property
    def stops(self) -> list[Array]:
        """Where regions that begin at each unit may end."""
        units, joins = self.chain.units, self.chain.joins
        ends = list(range(len(units)))
        for start in reversed(range(len(units))):
            joined = start + 1 < len(units) and joins[start] and units[start + 1].can_be_region
            ends[start] = (ends[start + 1] if joined else start + 1) if units[start].can_be_region else start
        return [
            self._some(np.arange(start + 1, (end if units[start].begins else start) + 1), start)
            for start, end in enumerate(ends)
        ]

    def _some(self, stops: Array, start: int) -> Array:
        far = stops % self.stride == 0 if start % self.stride == 0 else np.zeros(len(stops), bool)
        lengths = stops - start
        return stops[(far | (lengths <= 2 * self.stride)) & (lengths <= (self.longest or len(self.chain.units)))]

    @cached_property
    def region_peaks(self) -> list[Array]:
        """The forward peaks of the regions in `stops`, above what is held with their input charged."""
        return [self._region_peaks(start, first_run=False) for start in range(len(self.chain.units))]

    @cached_property
    def first_region_peaks(self) -> list[Array]:
        """The same in the forward itself, at depth 0."""
        if not any(self.lingering) and not any(unit.passing_bytes for unit in self.chain.units):
            return self.region_peaks
        return [self._region_peaks(start, first_run=True) for start in range(len(self.chain.units))]

    def _region_peaks(self, start: int, *, first_run: bool) -> Array:
        chain, stops = self.chain, self.stops[start]
        inside = range(start, int(stops[-1]) if len(stops) else start)
        first = chain.values[start]
        each = [
            chain.bytes_of(chain.values[at] - first)
            + chain.units[at].forward_bytes
            + (self.first_run(at) if first_run else 0)
            for at in inside
        ]
        return np.maximum.accumulate(np.array(each, np.int64))[stops - start - 1]

    @cached_property
    def charged(self) -> list[set[Tensors]]:
        """Which tensors of each value may be charged on arrival, at any depth."""
        found: list[set[Tensors]] = [set() for _ in self.chain.values]
        found[0].add(frozenset())
        for at in range(len(self.chain.units)):
            found[at].add(self.chain.values[at])
            for choice in range(len(self.chain.units[at].choices)):
                found[at + 1] |= {self.after_unit(at, choice, before) for before in found[at]}
            for stop, tensors in zip(self.stops[at].tolist(), self.after_regions(at), strict=True):
                found[stop].add(tensors)
        return found

    def saved(self, at: int, choice: int) -> Tensors:
        chosen = self.chain.units[at].choices[choice]
        return chosen.saved_tensors | (self.chain.values[at] if choice and chosen.holds_input else frozenset())

    def after_unit(self, at: int, choice: int, charged: Tensors) -> Tensors:
        return (charged | self.saved(at, choice)) & self.chain.values[at + 1]

    def after_region(self, start: int, stop: int) -> Tensors:
        return self.chain.values[start] & self.chain.values[stop]

    def after_regions(self, start: int) -> list[Tensors]:
        """Return what is charged after each of the regions in `stops`; once nothing is left, nothing comes back."""
        found: list[Tensors] = []
        left = self.chain.values[start]
        for stop in self.stops[start].tolist():
            left = left and left & self.chain.values[stop]
            found.append(left)
        return found

    def run_start(self, unit: int) -> int:
        """Return the first unit of those that one region may cover together with this one."""
        return int(self._run_starts[unit])

    @cached_property
    def _run_starts(self) -> Array:
        units, joins = self.chain.units, self.chain.joins
        starts = np.arange(len(units))
        for at in range(1, len(units)):
            if joins[at - 1] and units[at].can_be_region and units[at - 1].can_be_region:
                starts[at] = starts[at - 1]
        return starts

    def unit_held(self, at: int, choice: int, charged: Tensors) -> int:
        return self.chain.units[at].choices[choice].saved_bytes + self.chain.bytes_of(self.saved(at, choice) - charged)

    def input_held(self, at: int, charged: Tensors) -> int:
        return self.chain.bytes_of(self.chain.values[at] - charged)
