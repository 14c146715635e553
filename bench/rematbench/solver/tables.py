"""The recursion's tables, filled range by range, and the way back from a point to its regions."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from rematbench.solver.chain import UnitChain
from rematbench.solver.lookups import Lookups, Tensors
from rematbench.solver.pareto import FREE, ParetoList, least, raised, summed
from rematbench.solver.schedule import NOTHING, Schedule, UnitRegion
from rematbench.solver.simulate import simulate


class TooLongError(Exception):
    """A list is longer than it may be."""


class Tables:
    """The least cost of every range by the memory it may use, for one chain.

    A point's pick is the stop of the region that comes first, or -1 - i for the first unit run by its choice i.

    Attributes:
        top: by (start, charged): units from `start` to the end at depth 0.
        inside: by (start, stop, charged): the same while a region that ends at `stop` is being recomputed. With the
            whole input charged it is what the region `start` to `stop` needs in backward.
    """

    def __init__(self, chain: UnitChain, *, limit: int, points: int | None, stride: int) -> None:
        """Fill them.

        Args:
            chain: the cost model.
            limit: bytes; points above it are left out.
            points: how many points a list may have; None for all.
            stride: as for `Lookups`.

        Raises:
            TooLongError: a list has more points.
        """
        self.chain = chain
        self.at = Lookups(chain=chain, stride=stride)
        self.limit = limit
        self.points = points
        self.inside: dict[tuple[int, int, Tensors], ParetoList] = {}
        self.top: dict[tuple[int, Tensors], ParetoList] = {}
        self._fill_inside()
        self._fill_top()

    def schedule(self, number: int) -> Schedule:
        """Return the schedule of one point of the whole chain, with the figures that it is worth."""
        regions = tuple(sorted(self._regions(int(self.whole.peaks[number])), key=_outer_first))
        figures = simulate(self.chain, regions)
        return Schedule(regions=regions, peak_bytes=figures.peak_bytes, cost=figures.cost)

    @property
    def whole(self) -> ParetoList:
        """The points of the whole chain."""
        return self.top[0, frozenset()]

    def _fill_inside(self) -> None:
        first = {int(stop): start for start in reversed(range(len(self.chain.units))) for stop in self.at.stops[start]}
        for stop, low in sorted(first.items()):
            for start in reversed(range(low, stop)):
                self._fill_range(start, stop)

    def _fill_range(self, start: int, stop: int) -> None:
        whole = self.chain.values[start]
        unit, regions = self._inner_unit(start, stop, whole), self._least([self._inner_regions(start, stop)])
        self.inside[start, stop, whole] = self._least([unit, regions])
        if stop in self.at.stops[start]:
            # One region may be all there is; where its rerun would begin with a region, that one will do.
            alone = raised(unit, by=0, floor=0, cost=self.chain.region_cost, pick=stop)
            regions = self._least([alone, regions])
        for charged in self.at.charged[start] - {whole}:
            held = self.at.input_held(start, charged)
            lifted = ParetoList(peaks=regions.peaks + held, costs=regions.costs, picks=regions.picks)
            self.inside[start, stop, charged] = self._least([self._inner_unit(start, stop, charged), lifted])

    def _inner_unit(self, start: int, stop: int, charged: Tensors) -> ParetoList:
        unit, level = self.chain.units[start], self.at.reruns[stop]
        ways = []
        for number, choice in enumerate(unit.choices):
            if number and not choice.nests:
                continue
            after = self.at.after_unit(start, number, charged)
            rest = FREE if start + 1 == stop else self.inside[start + 1, stop, after]
            cost = (unit.rerun_cost if start + 1 == stop else unit.forward_cost) + choice.recompute_cost
            last = start + 1 == stop
            ways.append(self._unit(start, number, charged, rest, level=level, cost=cost, early_stop=last))
        return ways[0] if len(ways) == 1 else self._least(ways)

    def _inner_regions(self, start: int, stop: int) -> ParetoList:
        count = int(np.searchsorted(self.at.stops[start], stop))
        ends = self.at.stops[start][:count]
        rests = [self.inside[end, stop, self.at.after_region(start, end)] for end in ends.tolist()]
        costs = self.at.forward_costs[ends] - self.at.forward_costs[start]
        floors = self.at.region_peaks[start][:count] + self.at.reruns[stop]
        return self._regions_first(start, rests, floors, costs)

    def _fill_top(self) -> None:
        for start in reversed(range(len(self.chain.units))):
            for charged in self.at.charged[start]:
                self._fill_top_state(start, charged)
        whole = self.top[0, frozenset()]
        end = raised(whole, by=0, floor=self.at.gradients[0], cost=0.0, pick=0)
        self.top[0, frozenset()] = self._least([ParetoList(peaks=end.peaks, costs=end.costs, picks=whole.picks)])

    def _fill_top_state(self, start: int, charged: Tensors) -> None:
        unit, held = self.chain.units[start], self.at.input_held(start, charged)
        regions = self._top_regions(start)
        ways = [ParetoList(peaks=regions.peaks + held, costs=regions.costs, picks=regions.picks)]
        for number, choice in enumerate(unit.choices):
            rest = self._top_rest(start + 1, self.at.after_unit(start, number, charged))
            level = self.at.first_run(start)
            ways.append(self._unit(start, number, charged, rest, level=level, cost=choice.recompute_cost))
        fixed = unit.fixed_bytes
        every = self._least([ParetoList(peaks=way.peaks + fixed, costs=way.costs, picks=way.picks) for way in ways])
        raised_by_it = raised(every, by=0, floor=self.at.between(start, charged), cost=0.0, pick=0)
        self.top[start, charged] = self._least(
            [ParetoList(peaks=raised_by_it.peaks, costs=raised_by_it.costs, picks=every.picks)]
        )

    def _top_regions(self, start: int) -> ParetoList:
        ends = self.at.stops[start]
        rests = [self._top_rest(end, self.at.after_region(start, end)) for end in ends.tolist()]
        return self._regions_first(start, rests, self.at.first_region_peaks[start], np.zeros(len(ends)))

    def _top_rest(self, start: int, charged: Tensors) -> ParetoList:
        return FREE if start == len(self.chain.units) else self.top[start, charged]

    def _regions_first(self, start: int, rests: list[ParetoList], floors: np.ndarray, costs: np.ndarray) -> ParetoList:
        """Return the ways that begin with a region, the input charged, one for each of the first stops there are."""
        ends = self.at.stops[start][: len(rests)]
        reruns = [self.inside[start, end, self.chain.values[start]] for end in ends.tolist()]
        some = [
            at for at, (one, two) in enumerate(zip(rests, reruns, strict=True)) if len(one.peaks) and len(two.peaks)
        ]
        if not some:
            return ParetoList(peaks=np.zeros(0, np.int64), costs=np.zeros(0), picks=np.zeros(0, np.int64))
        costs = costs[some] + self.chain.region_cost
        return summed([rests[i] for i in some], [reruns[i] for i in some], floors[some], costs, ends[some])

    def _unit(
        self,
        start: int,
        number: int,
        charged: Tensors,
        rest: ParetoList,
        *,
        level: int,
        cost: float,
        early_stop: bool = False,
    ) -> ParetoList:
        """Return `rest` with one unit run before it; `level` is what else is live in its forward, such as gradients."""
        choice = self.chain.units[start].choices[number]
        held = self.at.unit_held(start, number, charged)
        peak = choice.last_peak_bytes if early_stop else choice.forward_peak_bytes
        forward = level + self.at.input_held(start, charged) + peak
        backward = held + self.at.gradients[start + 1] + choice.backward_peak_bytes
        return raised(rest, by=held, floor=max(forward, backward), cost=cost, pick=-1 - number)

    def _least(self, ways: list[ParetoList]) -> ParetoList:
        found = least(ways, limit=self.limit)
        if self.points is not None and len(found.peaks) > self.points:
            raise TooLongError
        return found

    def _regions(self, peak: int) -> list[UnitRegion]:
        """Follow the picks of the whole chain at a peak, then those of every region met; a stack, as they nest deep."""
        count = len(self.chain.units)
        found: list[UnitRegion] = []
        todo: list[tuple[int, int, Tensors, int, bool]] = [(0, count, frozenset(), peak, True)]
        while todo:
            start, stop, charged, room, at_top = todo.pop()
            if start == stop:
                continue
            points = self.top[start, charged] if at_top else self.inside[start, stop, charged]
            at = bisect_right(points.peaks, room) - 1
            room, pick = int(points.peaks[at]), int(points.picks[at])
            room -= self.chain.units[start].fixed_bytes if at_top else 0
            if pick < 0:
                number = -1 - pick
                if number:
                    save = self.chain.units[start].choices[number].save
                    found.append(UnitRegion(start=start, stop=start + 1, save=save))
                room -= self.at.unit_held(start, number, charged)
                todo.append((start + 1, stop, self.at.after_unit(start, number, charged), room, at_top))
            else:
                found.append(UnitRegion(start=start, stop=pick))
                room -= self.at.input_held(start, charged)
                todo.append((start, pick, self.chain.values[start], room, False))
                todo.append((pick, stop, self.at.after_region(start, pick), room, at_top))
        return found


def _outer_first(region: UnitRegion) -> tuple[int, int, bool]:
    return region.start, -region.stop, region.save != NOTHING
