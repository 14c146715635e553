"""The recursion on levels of memory: every range's cost at the same few hundred rooms, all ranges of a length at once.

Where the lists of `tables.py` grow too long, the cost as a function of the room is kept at fixed levels only. That
gives up exactness in one of two ways:

- `interpolated`: between levels the cost is interpolated. It is an estimate, to be guided by: a schedule is found by
  asking at every step which way is cheapest by estimate, with the room that is really left (`follow.py`).
- `below`: whatever is held is rounded so that the room is never too small. It is a lower bound on the optimum.

What fits is exact in both: each range has its least room, in bytes, beside its costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rematbench.solver.layout import Layout
from rematbench.solver.pareto import Array

NEVER = np.float32(1e30)
"""The cost of what does not fit. It is finite, so that nothing becomes NaN, and far above any share of a forward."""

_NO_ROOM = 1 << 50
"""The least room of what cannot be."""

_CELLS = 1 << 18
"""How many numbers are worked on at once: as many as stay in a processor's cache."""

_DENSER = 16
"""How much closer levels lie at the low end, where a byte is worth most, than at the high end."""


def levels_between(least: int, most: int, count: int) -> Array:
    """Return rooms from `least` to `most`, closer together at the low end."""
    along = np.expm1(np.linspace(0.0, np.log(_DENSER + 1.0), count)) / _DENSER
    return least + (most - least) * along


@dataclass(frozen=True, kw_only=True)
class Table:
    """What rows cost. The arrays are filled in place.

    Attributes:
        costs: by row and level, as shares of one whole forward; `NEVER` where the level is no room for it.
        least: the least room, by row.
        tight: an estimate of the cost in the least room, by row.
        plain: the room in which all units run plainly, by row.
    """

    costs: Array
    least: Array
    tight: Array
    plain: Array

    @staticmethod
    def of(rows: int, levels: int) -> Table:
        """Return rows for which there is no way yet."""
        return Table(
            costs=np.full((rows, levels), NEVER, np.float32),
            least=np.full(rows, _NO_ROOM),
            tight=np.full(rows, NEVER, np.float32),
            plain=np.full(rows, _NO_ROOM),
        )

    def put(self, rows: Array, other: Table) -> None:
        """Set rows."""
        self.costs[rows], self.least[rows], self.tight[rows] = other.costs, other.least, other.tight
        self.plain[rows] = other.plain

    def open(self, rows: Array, other: Table) -> None:
        """Take the better of what is there and another way, row by row."""
        if not len(rows):
            return
        # Rows are mostly all of them or some that follow one another: those need not be copied out and in.
        which = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
        self.costs[which] = np.minimum(self.costs[which], other.costs)
        mine, tight = self.least[which], self.tight[which]
        equal = np.minimum(tight, other.tight)
        self.tight[which] = np.where(mine < other.least, tight, np.where(mine > other.least, other.tight, equal))
        self.least[which] = np.minimum(mine, other.least)

    def dearer(self, by: Array) -> None:
        """Put a cost on top of each row."""
        added = by.astype(np.float32)
        self.costs[:] = np.minimum(self.costs + added[:, None], NEVER)
        self.tight[:] = np.minimum(self.tight + added, NEVER)

    def of_rows(self, rows: Array) -> Table:
        """Return a copy of rows."""
        return Table(costs=self.costs[rows], least=self.least[rows], tight=self.tight[rows], plain=self.plain[rows])


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes held, some for every row, and what is left of each level with them.

    Attributes:
        bytes: by row.
        level: by row and level, the level that is left; where costs are interpolated, the one below it.
        share: how far what is left is from there to the next level.
    """

    bytes: Array
    level: Array
    share: Array


class LevelTables:
    """Costs by range and level.

    Attributes:
        rooms: bytes by level, gradients included.
        ranges: of every range and state of its start.
        row: where in them a range stands, by stop and state; row 0 is of the empty range.
        region_row: the same of what each region of the layout runs again.
        top: by state, the units from there to the end at depth 0.
    """

    def __init__(self, layout: Layout, *, rooms: Array) -> None:
        self.layout = layout
        self.at = layout.at
        self.rooms = rooms
        self.scale = float(self.at.forward_costs[-1]) or 1.0
        self.reruns = np.array(self.at.reruns, np.int64)
        self.region_cost = np.float32(self.at.chain.region_cost / self.scale)
        self.forward_costs = np.array([unit.forward_cost for unit in self.at.chain.units]) / self.scale
        self.rerun_costs = np.array([unit.rerun_cost for unit in self.at.chain.units]) / self.scale
        fixed = np.array([*(unit.fixed_bytes for unit in self.at.chain.units), 0])[layout.boundary]
        self._by_input = self._held(layout.input_held)
        self._by_choice = [self._held(held) for held in layout.steps.held.T]
        self._fill()
        if fixed.any():
            self._by_input = self._held(layout.input_held + fixed)
            self._by_choice = [self._held(held + fixed) for held in layout.steps.held.T]
        self._fill_top()

    @property
    def beginning(self) -> int:
        """The state in which the step begins: nothing is charged."""
        first = self.layout.first
        return int(first[0]) + self.layout.sets[first[0] : first[1]].index(frozenset())

    # Rooms that are not levels.

    def estimates(self, table: Table, rows: Array, rooms: Array) -> Array:
        """Return what rows cost in rooms, each row in its room; `NEVER` where they do not fit."""
        level = np.minimum(np.maximum(self.rooms.searchsorted(rooms, side="right") - 1, 0), len(self.rooms) - 2)
        below, above = self.rooms[level], self.rooms[level + 1]
        low, high, least = table.costs[rows, level], table.costs[rows, level + 1], table.least[rows]
        tight = low >= NEVER
        if tight.any():
            # Between the least room and the next level it is interpolated from there.
            low, below = np.where(tight, table.tight[rows], low), np.where(tight, least, below)
        share = np.minimum(np.maximum(rooms - below, 0.0) / np.maximum(above - below, 1.0), 1.0)
        return np.where(least <= rooms, low + (high - low) * share, NEVER)

    def _held(self, held: Array) -> Held:
        """Work out what is left of each level with so many bytes held."""
        rooms, count = self.rooms, len(self.rooms)
        known, place = np.unique(held, return_inverse=True)
        left = rooms - known[:, None]
        level = np.clip(np.searchsorted(rooms, left, side="right") - 1, 0, count - 2)
        share = np.clip((left - rooms[level]) / (rooms[level + 1] - rooms[level]), 0.0, 1.0)
        return Held(bytes=held, level=level[place], share=share.astype(np.float32)[place])

    def _lifted(self, table: Table, rows: Array, held: Held, which: Array, least: Array) -> Table:
        """Return rows of a table with bytes held under them, `held` at `which`, where they need at least `least`."""
        flat = table.costs.reshape(-1)
        cells = held.level[which]
        cells += (rows * len(self.rooms))[:, None]
        fits = self.rooms >= least[:, None]
        low = flat[cells]
        cells += 1
        found = flat[cells]
        found -= low
        found *= held.share[which]
        found += low
        # Between the least room and the next level it is interpolated from there.
        of, at = np.nonzero((low >= NEVER) & fits)
        by = held.bytes[which]
        some = np.concatenate((rows[of], rows))
        estimates = self.estimates(table, some, np.concatenate((self.rooms[at] - by[of], least - by)))
        found[of, at] = estimates[: len(of)]
        found[~fits] = NEVER
        return Table(costs=found, least=least, tight=estimates[len(of) :], plain=np.full(len(rows), _NO_ROOM))

    # Ranges inside a region.

    def _fill(self) -> None:
        layout, count, levels = self.layout, len(self.at.chain.units), len(self.rooms)
        states = np.diff(layout.first)
        rows = 1 + sum(int(states[low:stop].sum()) for stop, low in enumerate(layout.lowest.tolist()))
        self.ranges = Table.of(rows, levels)
        self.ranges.put(np.array([0]), _nothing(1, levels))
        self.row = np.full((count + 1, len(layout.sets)), -1, np.int32)
        for boundary in range(count + 1):
            self.row[boundary, layout.first[boundary] : layout.first[boundary + 1]] = 0
        self.region_row = np.zeros(len(layout.regions.stop), np.int32)
        self._shorter = np.zeros(count, np.int64)
        self._used = 1
        self._prepare()
        for length in range(1, count + 1):
            starts = np.arange(count - length + 1)
            starts = starts[layout.lowest[length:] <= starts]
            if len(starts):
                # In parts, so that what is worked on stays small.
                for part in np.array_split(starts, -(-len(starts) * levels // _CELLS)):
                    self._fill_ranges(part, part + length)

    def _prepare(self) -> None:
        """Do what is to be done before any range is filled."""

    def _fill_ranges(self, starts: Array, stops: Array) -> None:
        """Solve ranges of one length, in every state of their starts: those with the whole input charged come first."""
        layout, every = self.layout, np.arange(len(starts))
        others = np.diff(layout.first)[starts] - 1
        of = np.repeat(every, others)
        whole = layout.first[starts]
        rest = whole[of] + 1 + np.arange(len(of)) - np.repeat(np.cumsum(others) - others, others)
        states, stops_of = np.concatenate((whole, rest)), np.concatenate((stops, stops[of]))
        found = self._units_first(states, stops_of)
        # One region may be all there is; where its rerun would begin with a region, that one will do.
        place = layout.regions.first[starts] + self._shorter[starts]
        alone = np.flatnonzero(place < layout.regions.first[starts + 1])
        alone = alone[layout.regions.stop[place[alone]] == stops[alone]]
        within = found.of_rows(alone)
        regions = self._regions_first(starts, stops)
        found.open(every, regions)
        within.dearer(np.full(len(alone), self.region_cost))
        regions.open(alone, within)
        least = regions.least[of] + layout.input_held[rest]
        found.open(np.arange(len(starts), len(states)), self._lifted(regions, of, self._by_input, rest, least))
        rows = self._put(states, stops_of, found)
        self.region_row[place[alone]] = rows[alone]
        self._shorter[starts[alone]] += 1

    def _put(self, states: Array, stops: Array, found: Table) -> Array:
        rows = self._used + np.arange(len(states))
        self._used += len(states)
        self.row[stops, states] = rows
        self.ranges.put(rows, found)
        return rows

    def _units_first(self, states: Array, stops: Array) -> Table:
        """Return the ways that begin with a unit."""
        steps, units = self.layout.steps, self.layout.boundary[states]
        costs = np.where(units + 1 == stops, self.rerun_costs[units], self.forward_costs[units])
        best = Table.of(len(states), len(self.rooms))
        for choice in range(steps.exists.shape[1]):
            which = np.flatnonzero(steps.nests[states, choice])
            of, to = states[which], stops[which]
            rests = self.row[to, steps.after[of, choice]]
            held = steps.held[of, choice]
            forward = np.where(units[which] + 1 == to, steps.last[of, choice], steps.forward[of, choice])
            floor = np.maximum(self.reruns[to] + forward, steps.backward[of, choice])
            least = np.maximum(self.ranges.least[rests] + held, floor)
            found = self._lifted(self.ranges, rests, self._by_choice[choice], of, least)
            found.dearer(costs[which] + steps.cost[of, choice] / self.scale)
            if choice:
                best.open(which, found)
            else:
                best.put(which, found)
                best.plain[which] = np.maximum(self.ranges.plain[rests] + held, floor)
        return best

    def _regions_first(self, starts: Array, stops: Array) -> Table:
        """Return the ways that begin with a region and go on, the whole input charged."""
        regions = self.layout.regions
        counts = self._shorter[starts]
        best = Table.of(len(starts), len(self.rooms))
        for part in _parts(counts, len(self.rooms)):
            many = counts[part]
            of = np.repeat(part, many)
            begins = np.cumsum(many) - many
            which = regions.first[starts[of]] + np.arange(len(of)) - np.repeat(begins, many)
            rests = self.row[stops[of], regions.after[which]]
            floors = regions.forward[which] + self.reruns[stops[of]]
            costs = (regions.cost[which] / self.scale + self.region_cost).astype(np.float32)
            self._best_of_both(best, part, begins, self.ranges, rests, self.region_row[which], floors, costs)
        return best

    def _best_of_both(
        self,
        best: Table,
        into: Array,
        begins: Array,
        after: Table,
        rests: Array,
        reruns: Array,
        floors: Array,
        extra: Array,
    ) -> None:
        """Set rows of `best` to the best of regions with what follows them, those of a row from `begins` on."""
        least = np.maximum(after.least[rests], self.ranges.least[reruns])
        found = self.ranges.costs[reruns]
        found += after.costs[rests]
        # Only a floor above both of them is not in their costs already.
        high = np.flatnonzero(floors > least)
        if len(high):
            some = found[high]
            some[self.rooms < floors[high, None]] = NEVER
            found[high] = some
        found += extra[:, None]
        least = np.maximum(least, floors)
        best.costs[into] = np.minimum(np.minimum.reduceat(found, begins, axis=0), NEVER)
        rooms = np.minimum.reduceat(least, begins)
        best.least[into] = rooms
        leanest = np.flatnonzero(least == np.repeat(rooms, np.diff(begins, append=len(least))))
        cost = self.estimates(after, rests[leanest], least[leanest]) + extra[leanest]
        cost += self.estimates(self.ranges, reruns[leanest], least[leanest])
        begins = np.searchsorted(leanest, begins)
        best.tight[into] = np.minimum(np.minimum.reduceat(cost, begins), NEVER)

    # Depth 0.

    def _fill_top(self) -> None:
        layout, steps = self.layout, self.layout.steps
        count, levels = len(self.at.chain.units), len(self.rooms)
        self.top = _nothing(len(layout.sets), levels)
        for start in reversed(range(count)):
            here = np.arange(layout.first[start], layout.first[start + 1])
            fixed = self.at.chain.units[start].fixed_bytes
            best = Table.of(len(here), levels)
            for choice in range(steps.exists.shape[1]):
                if not steps.exists[here[0], choice]:
                    break
                after, held = steps.after[here, choice], steps.held[here, choice] + fixed
                forward = steps.forward[here, choice] + layout.first_run[start]
                floor = np.maximum(np.maximum(forward, steps.backward[here, choice]) + fixed, layout.between[here])
                least = np.maximum(self.top.least[after] + held, floor)
                found = self._lifted(self.top, after, self._by_choice[choice], here, least)
                found.dearer(steps.cost[here, choice] / self.scale)
                best.open(np.arange(len(here)), found)
                if not choice:
                    best.plain[:] = np.maximum(self.top.plain[after] + held, floor)
            regions = self._top_regions(start)
            lift = layout.input_held[here] + fixed
            rows = np.zeros(len(here), np.int64)
            least = np.maximum(regions.least[rows] + lift, layout.between[here])
            lifted = self._lifted(regions, rows, self._by_input, here, least)
            best.open(np.arange(len(here)), lifted)
            self.top.put(here, best)
        end, begin = self.at.gradients[0], self.beginning
        self.top.least[begin] = max(self.top.least[begin], end)
        self.top.plain[begin] = max(self.top.plain[begin], end)
        self.top.costs[begin][self.rooms < end] = NEVER

    def _top_regions(self, start: int) -> Table:
        """Return the ways that begin with a region, the input charged, as one row."""
        regions = self.layout.regions
        which = np.arange(regions.first[start], regions.first[start + 1])
        best = Table.of(1, len(self.rooms))
        if len(which):
            extra = np.full(len(which), self.region_cost)
            one = np.zeros(1, np.int64)
            rests, reruns = regions.after[which], self.region_row[which]
            self._best_of_both(best, one, one, self.top, rests, reruns, regions.first_forward[which], extra)
        return best


def _nothing(rows: int, levels: int) -> Table:
    """Return rows of what needs no memory and costs nothing."""
    zero = Table.of(rows, levels)
    for array in (zero.costs, zero.least, zero.tight, zero.plain):
        array[:] = 0
    return zero


def _parts(counts: Array, levels: int) -> Iterator[Array]:
    """Yield the indices whose count is not 0, so many at a time that their rows stay in the cache."""
    some = np.flatnonzero(counts)
    if len(some):
        total = np.cumsum(counts[some])
        yield from np.split(some, np.flatnonzero(np.diff(total * levels // _CELLS)) + 1)
