"""The way back: from costs on levels to the regions that they are of, with the room that is really left."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from rematbench.solver.levels import LevelTables
from rematbench.solver.pareto import Array
from rematbench.solver.schedule import NOTHING, UnitRegion

_Place = tuple[bool, int, int, int, int]
"""Whether it is inside a region, what it is visited by, and its start, stop and state."""


def regions_within(tables: LevelTables, rooms: Sequence[int]) -> list[tuple[UnitRegion, ...]]:
    """Return the regions that are best by estimate where the whole step may take so many bytes, for each of `rooms`.

    They always fit, as long as a room is at least the least room of the whole chain: what is open at every step is only
    what fits, in bytes, and of that the way with the least estimated cost is taken. All rooms go the way together, as
    many of them pass the same ranges: those at depth 0 by rising start, then those inside regions, the longest first.
    """
    found: list[list[UnitRegion]] = [[] for _ in rooms]
    waiting: dict[_Place, list[tuple[Array, Array]]] = {}
    order: list[_Place] = []

    def visit(start: int, stop: int, state: int, inside: bool, which: Array, left: Array) -> None:
        if start < stop and len(which):
            place = inside, start - stop if inside else start, start, stop, state
            if place not in waiting:
                waiting[place] = []
                heappush(order, place)
            waiting[place].append((which, left))

    layout, units = tables.layout, tables.at.chain.units
    visit(0, len(units), tables.beginning, False, np.arange(len(rooms)), np.array(rooms, np.int64))
    while order:
        place = heappop(order)
        inside, _, start, stop, state = place
        which, left = (np.concatenate(parts) for parts in zip(*waiting.pop(place), strict=True))
        plain = tables.ranges.plain[tables.row[stop, state]] if inside else tables.top.plain[state]
        which, left = which[left < plain], left[left < plain]
        if not len(which):
            continue
        left = left if inside else left - units[start].fixed_bytes
        choices, by_unit = _unit_first(tables, stop, state, left, inside)
        held = int(layout.input_held[state])
        regions, by_region = _region_first(tables, start, stop, state, left - held, inside)
        best = np.where(by_unit <= by_region, -1 - choices, regions)
        for pick in np.unique(best).tolist():
            mine, room = which[best == pick], left[best == pick]
            if pick < 0:
                cell = state, -1 - pick
                end, after, room = start + 1, int(layout.steps.after[cell]), room - layout.steps.held[cell]
                made = UnitRegion(start=start, stop=end, save=units[start].choices[-1 - pick].save)
            else:
                end, after, room = int(layout.regions.stop[pick]), int(layout.regions.after[pick]), room - held
                made = UnitRegion(start=start, stop=end)
                visit(start, end, int(layout.first[start]), True, mine, room)
            visit(end, stop, after, inside, mine, room)
            for one in mine.tolist() if pick != -1 else ():
                found[one].append(made)
    return [tuple(sorted(one, key=_outer_first)) for one in found]


def _outer_first(region: UnitRegion) -> tuple[int, int, bool]:
    return region.start, -region.stop, region.save != NOTHING


def _unit_first(tables: LevelTables, stop: int, state: int, rooms: Array, inside: bool) -> tuple[Array, Array]:
    """Return the choices to begin with, and their estimates."""
    steps, start = tables.layout.steps, tables.layout.boundary[state]
    choices = np.flatnonzero((steps.nests if inside else steps.exists)[state])
    cells = state, choices
    table, after = tables.top, steps.after[cells]
    forward, costs = steps.forward[cells] + tables.layout.first_run[start], steps.cost[cells] / tables.scale
    if inside:
        table, after = tables.ranges, tables.row[stop, after]
        forward = (steps.last if start + 1 == stop else steps.forward)[cells] + tables.reruns[stop]
        costs = costs + (tables.rerun_costs if start + 1 == stop else tables.forward_costs)[start]
    estimates = tables.estimates(table, after, rooms[:, None] - steps.held[cells]) + costs
    estimates[np.maximum(forward, steps.backward[cells]) > rooms[:, None]] = np.inf
    best = estimates.argmin(axis=1)
    return choices[best], estimates[np.arange(len(rooms)), best]


def _region_first(
    tables: LevelTables, start: int, stop: int, state: int, rooms: Array, inside: bool
) -> tuple[Array, Array]:
    """Return the regions to begin with, and their estimates, in the rooms that are left once the input is charged."""
    regions, levels = tables.layout.regions, tables.layout
    first, end = int(regions.first[start]), int(regions.first[start + 1])
    stops = regions.stop[first:end]
    if inside:
        # Inside the very region from `start` to `stop` it cannot stand again; otherwise it may be all there is.
        stops = stops[: stops.searchsorted(stop, side="left" if state == levels.first[start] else "right")]
    if not len(stops):
        return np.zeros(len(rooms), np.int64), np.full(len(rooms), np.inf)
    which = slice(first, first + len(stops))
    after, forward = regions.after[which], regions.first_forward[which]
    estimates = tables.estimates(tables.ranges, tables.region_row[which], rooms[:, None])
    if inside:
        # A rerun goes through every region but the one that it ends with.
        passed = stops < stop
        estimates += tables.estimates(tables.ranges, tables.row[stop, after], rooms[:, None])
        estimates += regions.cost[which] / tables.scale * passed
        forward = (regions.forward[which] + tables.reruns[stop]) * passed
    else:
        estimates += tables.estimates(tables.top, after, rooms[:, None])
    estimates[forward > rooms[:, None]] = np.inf
    best = estimates.argmin(axis=1)
    return first + best, estimates[np.arange(len(rooms)), best] + tables.region_cost
