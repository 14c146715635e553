"""A chain as arrays: its states, what every element costs in them, and the ranges that are solved.

A state is a boundary and which tensors of its value are charged on arrival. Arrays by state have one row for every
state of every boundary, those of boundary i from `first[i]` on, the one with the whole value charged first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rematbench.solver.lookups import Lookups, Tensors
from rematbench.solver.pareto import Array


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What does not depend on how much memory there is.

    Attributes:
        at: lookups of the chain.
        sets: what is charged, by state.
        first: the first state of each boundary, and their number at the end.
        boundary: of each state.
        input_held: bytes of the value that are not charged, by state.
        first_run: what is live by unit when it first runs, besides what is held and what it needs.
        between: the least room there is at each state of a unit at depth 0, for what runs around its units.
        steps: the units run by a choice, for every state those of its unit.
        regions: the regions that may begin at each unit, by rising stop.
        lowest: the first start of a range that is solved, by stop; the stop itself where there is none.
    """

    at: Lookups
    sets: list[Tensors]
    first: Array
    boundary: Array
    input_held: Array
    first_run: Array
    between: Array
    steps: Steps
    regions: Regions
    lowest: Array


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Arrays by state and choice.

    Attributes:
        exists: whether the unit has that choice.
        nests: whether it may be run so inside a region.
        after: the state it leads to.
        held: bytes held from its forward to its backward.
        forward: what its forward needs above what is held before, but for gradients and what is there at the first run.
        last: the same where a recomputation ends with it.
        backward: what its backward needs, gradients included.
        cost: what is recomputed in its backward.
    """

    exists: Array
    nests: Array
    after: Array
    held: Array
    forward: Array
    last: Array
    backward: Array
    cost: Array


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Arrays by region, those that begin at unit i from `first[i]` on.

    Attributes:
        first: by unit, and their number at the end.
        stop: where it ends.
        after: the state it leads to.
        forward: the peak of its forward, but for gradients, its input charged.
        first_forward: the same at depth 0, with what is there when its units first run.
        cost: of its forward, from its first unit to its last.
    """

    first: Array
    stop: Array
    after: Array
    forward: Array
    first_forward: Array
    cost: Array


def layout_of(at: Lookups) -> Layout:
    """Lay a chain out."""
    count = len(at.chain.units)
    sets: list[Tensors] = []
    first = np.zeros(count + 2, np.int64)
    number: list[dict[Tensors, int]] = []
    for boundary, charged in enumerate(at.charged):
        whole = at.chain.values[boundary]
        others = sorted(charged - {whole}, key=sorted)
        here = [whole, *others]
        number.append({tensors: len(sets) + place for place, tensors in enumerate(here)})
        sets += here
        first[boundary + 1] = len(sets)
    states = [(bound, charged) for bound in range(count + 1) for charged in sets[first[bound] : first[bound + 1]]]
    held = [at.input_held(*state) for state in states]
    regions = _regions(at, number)
    lowest = np.arange(count + 1)
    starts = np.repeat(np.arange(count), np.diff(regions.first))
    np.minimum.at(lowest, regions.stop, starts)
    return Layout(
        at=at,
        sets=sets,
        first=first,
        boundary=np.repeat(np.arange(count + 1), np.diff(first)),
        input_held=np.array(held, np.int64),
        first_run=np.array([at.first_run(unit) for unit in range(count)], np.int64),
        between=np.array([at.between(boundary, tensors) for boundary, tensors in states if boundary < count], np.int64),
        steps=_steps(at, number, sets, first),
        regions=regions,
        lowest=lowest,
    )


def _regions(at: Lookups, number: list[dict[Tensors, int]]) -> Regions:
    after = [
        [number[stop][tensors] for stop, tensors in zip(stops.tolist(), at.after_regions(start), strict=True)]
        for start, stops in enumerate(at.stops)
    ]
    costs = at.forward_costs
    return Regions(
        first=np.cumsum([0, *map(len, at.stops)]),
        stop=np.concatenate(at.stops),
        after=np.array([state for states in after for state in states], np.int64),
        forward=np.concatenate(at.region_peaks),
        first_forward=np.concatenate(at.first_region_peaks),
        cost=np.concatenate([costs[stops] - costs[start] for start, stops in enumerate(at.stops)]),
    )


def _steps(at: Lookups, number: list[dict[Tensors, int]], sets: list[Tensors], first: Array) -> Steps:
    units = at.chain.units
    shape = len(sets), max(len(unit.choices) for unit in units)
    exists, nests = np.zeros(shape, bool), np.zeros(shape, bool)
    after, held, forward, last, backward = (np.zeros(shape, np.int64) for _ in range(5))
    cost = np.zeros(shape)
    for start, unit in enumerate(units):
        for state in range(first[start], first[start + 1]):
            charged = sets[state]
            arriving = at.input_held(start, charged)
            for place, choice in enumerate(unit.choices):
                cell = state, place
                exists[cell] = True
                nests[cell] = not place or choice.nests
                after[cell] = number[start + 1][at.after_unit(start, place, charged)]
                held[cell] = at.unit_held(start, place, charged)
                forward[cell] = arriving + choice.forward_peak_bytes
                last[cell] = arriving + choice.last_peak_bytes
                backward[cell] = held[cell] + at.gradients[start + 1] + choice.backward_peak_bytes
                cost[cell] = choice.recompute_cost
    return Steps(
        exists=exists,
        nests=nests,
        after=after,
        held=held,
        forward=forward,
        last=last,
        backward=backward,
        cost=cost,
    )
