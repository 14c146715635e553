"""A lower bound on the cost of any schedule of a long chain: memory has a price.

The cost of a range falls with its room. Instead of the cost in each room, `PriceTables` has for each price of a byte
the least sum of cost and price times room, over all rooms: a lower bound that adds up without rounding. Bytes held
under a range cost their price, and two ranges that share one room share its price in any way. Such a bound is concave
in the price, so that between prices it may be interpolated and stays a bound. It knows the hull of a range's curve only
(Lagrange's relaxation of the room).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from rematbench.solver.chain import UnitChain
from rematbench.solver.layout import layout_of
from rematbench.solver.levels import NEVER, Held, LevelTables, Table
from rematbench.solver.lookups import Lookups
from rematbench.solver.pareto import Array
from rematbench.solver.relaxed import relaxed
from rematbench.solver.schedule import NOTHING, UnitRegion

_LONGEST = 32
"""Regions up to this long are bounded as they are, longer ones by pieces of this length with all the room for each."""

_PRICES = 24
_SHARES = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 1)
"""Which shares of its price a region may have while what follows it has the rest."""


class PriceTables(LevelTables):
    """Bounds by range and price, on the cost as a share of one whole forward; in place of levels there are prices."""

    def __init__(self, chain: UnitChain, most: int) -> None:
        """Fill them for rooms around `most` bytes and below."""
        # More regions can only be cheaper, and what is left of a region, cut at any unit, begins with any.
        units = tuple(replace(unit, begins=unit.can_be_region) for unit in chain.units)
        layout = layout_of(Lookups(chain=replace(chain, units=units), stride=1, longest=_LONGEST))
        # A unit with which what is left of a region ends may be run to its end in the whole of it, or the other way.
        steps = replace(layout.steps, last=np.minimum(layout.steps.forward, layout.steps.last))
        layout = replace(layout, steps=steps)
        prices = np.concatenate(([0.0], np.geomspace(1e-3, 1e2, _PRICES - 1) / max(most, 1)))
        super().__init__(layout, rooms=prices)

    def _prepare(self) -> None:
        # In every rerun as little is live as in any: it makes a region's schedule fit where it is cut shorter.
        self.reruns[:] = self.reruns.min()
        self._splits = [(self._at_share(share), self._at_share(1 - share)) for share in _SHARES]
        rows = len(self.ranges.costs)
        self._as_region = np.zeros((len(_SHARES), rows, len(self.rooms)), np.float32)
        self._as_rest = np.zeros((len(_SHARES), rows, len(self.rooms)), np.float32)

    def _at_share(self, share: float) -> Array:
        """Return the matrix that makes bounds at these prices of bounds at all prices."""
        wanted = self.rooms * share
        level = np.clip(np.searchsorted(self.rooms, wanted, side="right") - 1, 0, len(self.rooms) - 2)
        part = (wanted - self.rooms[level]) / (self.rooms[level + 1] - self.rooms[level])
        matrix = np.zeros((len(self.rooms),) * 2, np.float32)
        every = np.arange(len(self.rooms))
        np.add.at(matrix, (level, every), 1 - part)
        np.add.at(matrix, (level + 1, every), part)
        return matrix

    def _put(self, states: Array, stops: Array, found: Table) -> Array:
        rows = super()._put(states, stops, found)
        for number, (region, rest) in enumerate(self._splits):
            self._as_region[number, rows] = found.costs @ region
            self._as_rest[number, rows] = found.costs @ rest
        return rows

    def _held(self, held: Array) -> Held:
        return Held(bytes=held, level=np.zeros((0, 0)), share=np.zeros((0, 0)))

    def _lifted(self, table: Table, rows: Array, held: Held, which: Array, least: Array) -> Table:
        found = table.costs[rows] + (held.bytes[which, None] * self.rooms).astype(np.float32)
        # Whatever is done, the room is at least the least.
        found = np.maximum(found, found[:, :1] + (least[:, None] * self.rooms).astype(np.float32))
        return Table(costs=found, least=least, tight=np.zeros(len(rows), np.float32), plain=least)

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
        found = self._as_region[0, reruns] + self._as_rest[0, rests]
        for region, rest in zip(self._as_region[1:], self._as_rest[1:], strict=True):
            np.maximum(found, region[reruns] + rest[rests], out=found)
        least = np.maximum(np.maximum(after.least[rests], self.ranges.least[reruns]), floors)
        found = np.maximum(found, found[:, :1] + (least[:, None] * self.rooms).astype(np.float32))
        found += extra[:, None]
        best.costs[into] = np.minimum(np.minimum.reduceat(found, begins, axis=0), NEVER)
        best.least[into] = np.minimum.reduceat(least, begins)

    def _fill_top(self) -> None:
        """Nothing: at depth 0 every unit has a price of its own."""

    def bound(self, prices: Array) -> tuple[float, float]:
        """Return a and p of a bound a - p * budget on the cost of any schedule, as a share of one whole forward.

        Any prices that do not rise from boundary to boundary, the last of them 0, give one.
        """
        return float(self._bounds(prices)[self.beginning]), float(prices[0])

    def _bounds(self, prices: Array) -> Array:
        """Return by state the least that the units from there on cost, their room at its price.

        With a price p of a boundary, a bound a on the cost of all that follows it is meant as a - p * room in any room.
        """
        layout, steps, regions = self.layout, self.layout.steps, self.layout.regions
        count = len(self.at.chain.units)
        bounds = np.zeros(len(layout.sets))
        total = self._pieces(prices)
        for start in reversed(range(count)):
            here = np.arange(layout.first[start], layout.first[start + 1])
            price, following = prices[start], prices[start + 1]
            fixed = self.at.chain.units[start].fixed_bytes
            ways = []
            for choice in np.flatnonzero(steps.exists[here[0]]).tolist():
                after, held = steps.after[here, choice], steps.held[here, choice]
                room = np.maximum(steps.forward[here, choice] + layout.first_run[start], steps.backward[here, choice])
                room = np.maximum(np.maximum(room, held), layout.between[here] - fixed)
                costs = steps.cost[here, choice] / self.scale + following * held + (price - following) * room
                ways.append(bounds[after] + costs)
            which = np.arange(regions.first[start], regions.first[start + 1])
            if len(which):
                costs = self._in_any_room(self.region_row[which], price - prices[regions.stop[which]])
                region = float((costs + bounds[regions.after[which]]).min())
                stops, after = self._long[start]
                if len(stops):
                    costs = self._of_pieces(total, start, stops)
                    region = min(region, float((costs + bounds[after]).min()))
                ways.append(float(self.region_cost) + region + price * layout.input_held[here])
            bounds[here] = np.min(ways, axis=0) + price * fixed
        return bounds

    def _in_any_room(self, rows: Array, prices: Array) -> Array:
        """Return the least of cost and price times room, for each row at its price."""
        known = self.rooms
        level = np.clip(np.searchsorted(known, prices, side="right") - 1, 0, len(known) - 2)
        share = np.minimum((prices - known[level]) / (known[level + 1] - known[level]), 1.0)
        low, high = self.ranges.costs[rows, level].astype(float), self.ranges.costs[rows, level + 1].astype(float)
        beyond = np.maximum(prices - known[-1], 0.0) * self.ranges.least[rows]
        # Float32 sums of as many terms as the longest range has, each rounded by half a unit in its last place.
        return (low + (high - low) * share) * (1 - _LONGEST * 2.0**-22) + beyond

    @cached_property
    def _whole(self) -> Array:
        """The forward costs of the units before each boundary."""
        return np.concatenate(([0.0], np.cumsum(self.forward_costs)))

    @cached_property
    def _stopped_early(self) -> Array:
        return self.forward_costs - self.rerun_costs

    def _pieces(self, prices: Array) -> Array:
        """Return bounds on what pieces of a region cost together, from piece 0 up to each, as others follow them."""
        cuts = np.arange(0, len(self.at.chain.units) + 1, _LONGEST)
        starts, stops = cuts[:-1], cuts[1:]
        rows = self.row[stops, self.layout.first[starts]]
        costs = self._in_any_room(rows, prices[starts] - prices[stops]) + self._stopped_early[stops - 1]
        # A piece that no region may cover is in none.
        return np.concatenate(([0.0], np.cumsum(np.where(rows >= 0, costs, 0.0))))

    def _of_pieces(self, total: Array, start: int, stops: Array) -> Array:
        """Return bounds on what long regions run again: at least once the units beside whole pieces, and the pieces.

        A region's schedule, cut to a piece of it, is one of that piece, in no more room.
        """
        first, last = -(-start // _LONGEST), stops // _LONGEST
        ends = last * _LONGEST
        rest = np.where(ends < stops, self._whole[stops] - self._whole[ends], 0.0) - self._stopped_early[stops - 1]
        return self._whole[first * _LONGEST] - self._whole[start] + total[last] - total[first] + rest

    @cached_property
    def _long(self) -> list[tuple[Array, Array]]:
        """The stops of the regions longer than pieces that begin at each unit, and the states they lead to.

        Where a state is not known it is that with all charged, which is never dearer.
        """
        at, layout, count = self.at, self.layout, len(self.at.chain.units)
        known = [
            {tensors: state for state, tensors in zip(range(first, last), layout.sets[first:last], strict=True)}
            for first, last in zip(layout.first.tolist(), layout.first[1:].tolist(), strict=False)
        ]
        nothing = np.array(
            [states.get(frozenset(), first) for states, first in zip(known, layout.first.tolist(), strict=False)]
        )
        run_stops = np.arange(1, count + 1)
        for unit in reversed(range(count - 1)):
            if at.run_start(unit + 1) == at.run_start(unit):
                run_stops[unit] = run_stops[unit + 1]
        found = []
        for start, end in enumerate(run_stops.tolist()):
            stops = np.arange(start + _LONGEST + 1, end + 1)
            after = nothing[stops]
            for place, stop in enumerate(stops.tolist()):
                if not (left := at.after_region(start, stop)):
                    break
                after[place] = known[stop].get(left, int(layout.first[stop]))
            found.append((stops, after))
        return found


def bounds_below(
    levels: LevelTables, found: Sequence[tuple[Sequence[UnitRegion], int]], widths: Sequence[float] = (0.05, 0.15, 0.4)
) -> Callable[[int], float]:
    """Return what no schedule costs less than within a budget, by prices that suit the schedules found, each in a room.

    Args:
        levels: estimates, of which the prices are made.
        found: the regions and the room of each schedule.
        widths: of the piece of the curve of which a price is the slope, as a share of the room.
    """
    chain, scale = levels.at.chain, levels.scale
    tables = PriceTables(relaxed(chain), max(room for _, room in found))
    lines = [tables.bound(prices) for regions, room in found for prices in _prices(levels, regions, room, widths)]
    return lambda budget: scale * max(0.0, *(least - price * budget for least, price in lines))


def _prices(
    levels: LevelTables, regions: Sequence[UnitRegion], budget: int, widths: Sequence[float]
) -> Iterator[Array]:
    """Yield prices by boundary: what a byte more is worth along a schedule within the budget, by the estimates."""
    walked = list(_walk(levels, regions, budget))
    known, rows, rooms = (np.array(column) for column in zip(*walked, strict=True))
    table = levels.top
    for width in widths:
        more, less = rooms * (1 + width), np.maximum(rooms * (1 - width), table.least[rows])
        costs = levels.estimates(table, rows, less) - levels.estimates(table, rows, more)
        slopes = np.maximum(costs, 0.0) / np.maximum(more - less, 1.0)
        for scale in (0.7, 1.0):
            prices = np.interp(np.arange(len(levels.at.chain.units) + 1), known, slopes * scale)
            prices[-1] = 0.0
            yield np.maximum.accumulate(prices[::-1])[::-1]


def _walk(levels: LevelTables, regions: Sequence[UnitRegion], budget: int) -> Iterator[tuple[int, int, int]]:
    """Yield the boundaries between elements of a schedule at depth 0, their states and the room left there."""
    layout, units = levels.layout, levels.at.chain.units
    outer: dict[int, UnitRegion] = {}
    for region in regions:
        outer.setdefault(region.start, region)
    start, state, left = 0, levels.beginning, budget
    while start < len(units):
        yield start, state, left
        found = outer.get(start)
        left -= units[start].fixed_bytes
        if found is not None and found.save == NOTHING:
            first = layout.regions.first
            stops = layout.regions.stop[first[start] : first[start + 1]]
            which = first[start] + np.searchsorted(stops, found.stop)
            left -= int(layout.input_held[state])
            start, state = found.stop, int(layout.regions.after[which])
        else:
            names = [choice.save for choice in units[start].choices]
            cell = state, 0 if found is None else names.index(found.save)
            left -= int(layout.steps.held[cell])
            start, state = start + 1, int(layout.steps.after[cell])
