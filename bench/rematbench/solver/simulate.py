"""What the cost model means: one step walked through, operation by operation.

The semantics are those of torch's non-reentrant checkpoints (`torch/utils/checkpoint.py`, "Nestable Checkpoint"): a
region keeps its inputs; the first backward inside it runs it again; the regions met on the way keep their inputs once
more; and the rerun stops as soon as the last tensor that its backward needs is there. Where that leaves a choice:

- A tensor counts once, however many hold it, until the element that charged it first has run backward.
- While a region is rerun, the gradients of its output are live. They are gone once its last element has run backward,
  and the gradients of that element's input have taken their place.
- If a region ends in a region, its rerun stops before that one: the input is kept and nothing is run.
- A tensor that passes a region by is not kept by it, and not there when the region is run again.
- What is fixed at a unit is free as soon as the element that begins with this unit has run backward.
- What runs between two units does so at depth 0: regions span nothing in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from rematbench.solver.chain import Choice, UnitChain
from rematbench.solver.lookups import Lookups
from rematbench.solver.schedule import NOTHING, UnitRegion


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a schedule is worth.

    Attributes:
        peak_bytes: the most that is live at any time of the step.
        peak_unit: the unit, by index, at which that is; the earliest moment counts.
        cost: what is recomputed, above the plain step.
    """

    peak_bytes: int
    peak_unit: int
    cost: float


@dataclass(kw_only=True)
class _Element:
    """A unit run by a choice, or a region with the elements inside it.

    Attributes:
        nested: how many regions there are inside a region, at any depth.
    """

    start: int
    stop: int
    choice: Choice | None
    inner: list[_Element] = field(default_factory=list)
    nested: int = 0


def simulate(chain: UnitChain, regions: Iterable[UnitRegion]) -> Figures:
    """Walk one step under these regions.

    Raises:
        ValueError: two regions are the same or overlap without nesting, one spans what may not be spanned, saves what
            its unit does not offer, or saves selectively inside another.
    """
    return _Walk(chain).step(_elements(chain, regions))


@dataclass(frozen=True, kw_only=True)
class PlainLevel:
    """What is live around a unit in the plain step, in bytes above the start of the step.

    Attributes:
        forward_bytes: when its forward begins; its inputs are among it.
        backward_bytes: when its backward begins; the gradients of its outputs are among it.
        held_before_bytes: held once its backward is over, without any gradient.
        end_bytes: live then, gradients included.
    """

    forward_bytes: int
    backward_bytes: int
    held_before_bytes: int
    end_bytes: int


def plain_levels(chain: UnitChain) -> list[PlainLevel]:
    """Return the levels of the plain step by unit."""
    gradients = Lookups(chain=chain, stride=1).gradients
    lingering = chain.lingering_bytes()
    found: list[PlainLevel] = []
    charged: set[int] = set()
    held = 0
    for at, unit in enumerate(chain.units):
        choice = unit.choices[0]
        before = held
        start = held + unit.fixed_bytes + chain.bytes_of(chain.values[at] - charged) + lingering[at]
        held += unit.fixed_bytes + choice.saved_bytes + chain.bytes_of(choice.saved_tensors - charged)
        charged |= choice.saved_tensors
        found.append(
            PlainLevel(
                forward_bytes=start,
                backward_bytes=held + gradients[at + 1],
                held_before_bytes=before,
                end_bytes=before + gradients[at],
            )
        )
    return found


def _elements(chain: UnitChain, regions: Iterable[UnitRegion]) -> list[_Element]:
    """Return the elements at depth 0 with all that is inside them."""
    top = _Element(start=0, stop=len(chain.units), choice=None)
    open_ = [top]
    at = 0
    for region in sorted(regions, key=lambda region: (region.start, -region.stop, region.save != NOTHING)):
        _check(chain, region)
        at = _close(chain, open_, at, region.start)
        outer, element = open_[-1], _element(chain, region)
        for around in open_[1:]:
            around.nested += 1 if element.choice is None else element.choice.regions
        inside = outer is not top
        if element.choice is not None:
            misplaced = inside and not element.choice.nests
        else:
            misplaced = inside and (outer.start, outer.stop) == (region.start, region.stop)
        if region.start < at or region.stop > outer.stop or misplaced:
            raise ValueError(f"{region} does not fit into units {outer.start} to {outer.stop}")
        outer.inner.append(element)
        if element.choice is None:
            open_.append(element)
        else:
            at = region.stop
    _close(chain, open_, at, top.stop)
    return top.inner


def _check(chain: UnitChain, region: UnitRegion) -> None:
    if not 0 <= region.start < region.stop <= len(chain.units):
        raise ValueError(f"{region} is no range of {len(chain.units)} units")
    covered = chain.units[region.start : region.stop]
    is_inside = region.save != NOTHING and not _choice(chain, region).holds_input
    may = all(unit.can_be_region for unit in covered) and covered[0].begins
    if not all(chain.joins[region.start : region.stop - 1]) or not (may or is_inside):
        raise ValueError(f"{region} covers what no region may cover")


def _element(chain: UnitChain, region: UnitRegion) -> _Element:
    if region.save == NOTHING:
        return _Element(start=region.start, stop=region.stop, choice=None)
    return _Element(start=region.start, stop=region.stop, choice=_choice(chain, region))


def _choice(chain: UnitChain, region: UnitRegion) -> Choice:
    offered = {choice.save: choice for choice in chain.units[region.start].choices[1:]}
    if region.stop != region.start + 1 or region.save not in offered:
        raise ValueError(f"{region} saves what no unit offers")
    return offered[region.save]


def _close(chain: UnitChain, open_: list[_Element], at: int, until: int) -> int:
    """Fill up with plain units as far as `until`, and close what ends there or before."""
    while True:
        element = open_[-1]
        stop = min(element.stop, until)
        element.inner += [_Element(start=i, stop=i + 1, choice=chain.units[i].choices[0]) for i in range(at, stop)]
        at = max(at, stop)
        if element.stop > until or len(open_) == 1:
            return at
        open_.pop()


class _Walk:
    """The state of one step: what is charged, the highest level so far, and what is still to be done.

    What is to be done stands on a stack of its own, as nesting may be deeper than Python's.
    """

    def __init__(self, chain: UnitChain) -> None:
        self.chain = chain
        self._gradients = Lookups(chain=chain, stride=1).gradients
        self.charged: set[int] = set()
        self.held_bytes = 0
        self.peak_bytes = 0
        self.peak_unit = 0
        self.cost = 0.0
        self._lingering = chain.lingering_bytes()
        self.lingering_more = 0  # than in the plain step
        self.todo: list[Callable[[], None]] = []

    def step(self, elements: list[_Element]) -> Figures:
        self._run(elements, gradients=0, early_stop=False, away=frozenset())
        while self.todo:
            self.todo.pop()()
        self._see(0, self._gradients[0])
        return Figures(peak_bytes=self.peak_bytes, peak_unit=self.peak_unit, cost=self.cost)

    def _run(self, elements: list[_Element], *, gradients: int, early_stop: bool, away: frozenset[int]) -> None:
        """Run these elements forward, and put their backward, in reverse, on the stack.

        `away` are tensors of the values that are not there, as they pass by what is run again.
        """
        for element in elements:
            last = early_stop and element is elements[-1]
            release = self._forward(element, gradients=gradients, recomputing=early_stop, last=last, away=away)
            if not early_stop:
                self.todo.append(partial(self._see, element.start, self.chain.units[element.start].after_bytes))
            self.todo += [release, partial(self._backward, element, away)]

    def _forward(
        self, element: _Element, *, gradients: int, recomputing: bool, last: bool, away: frozenset[int]
    ) -> Callable[[], None]:
        """Run one element forward and return what releases all it has charged."""
        chain, start, unit = self.chain, element.start, self.chain.units[element.start]
        fixed = 0 if recomputing else unit.fixed_bytes
        self.held_bytes += fixed
        if not recomputing:
            # Autocast may end between the last unit in it and the next one.
            in_it = unit.with_lingering or (start > 0 and self.chain.units[start - 1].with_lingering)
            lingering = self._lingering[start] + (self.lingering_more if in_it else 0)
            self._see(start, self._unheld(start, away) + lingering + unit.before_bytes)
        if (choice := element.choice) is not None:
            peak = choice.last_peak_bytes if last else choice.forward_peak_bytes
            passing = 0 if recomputing else self._passing(start)
            self._see(start, gradients + passing + self._unheld(start, away) + peak)
            self.cost += (unit.rerun_cost if last else unit.forward_cost) if recomputing else 0.0
            self.lingering_more += choice.lingering_bytes - unit.choices[0].lingering_bytes
            whole = choice.holds_input and choice is not unit.choices[0]
            tensors = choice.saved_tensors | (chain.taken(start, start + 1) if whole else frozenset())
            return self._charge(tensors, fixed, choice.saved_bytes)
        release = self._charge(chain.taken(start, element.stop), fixed, 0)
        self.held_bytes += chain.nested_bytes * element.nested
        for at in range(start, start if last else element.stop):
            passing = 0 if recomputing else self._passing(at)
            self._see(at, gradients + passing + self._unheld(at, away) + chain.units[at].forward_bytes)
            self.cost += chain.units[at].forward_cost if recomputing else 0.0
            self.lingering_more += chain.units[at].lingering_bytes - chain.units[at].choices[0].lingering_bytes
        return release

    def _passing(self, at: int) -> int:
        """Return what is there beside what is held while a unit first runs."""
        unit = self.chain.units[at]
        return unit.passing_bytes + self._lingering[at] + (self.lingering_more if unit.with_lingering else 0)

    def _backward(self, element: _Element, away: frozenset[int]) -> None:
        gradients = self._gradients[element.stop]
        if element.choice is None:
            self.cost += self.chain.region_cost
            self.held_bytes -= self.chain.nested_bytes * element.nested
            passing = self.chain.values[element.start] - self.chain.taken(element.start, element.stop)
            rerun = gradients + self.chain.rerun_bytes
            self._run(element.inner, gradients=rerun, early_stop=True, away=away | passing)
        else:
            # What is held is live, also where fewer gradients are than the values' own.
            self._see(element.start, max(0, gradients + element.choice.backward_peak_bytes))
            self.cost += element.choice.recompute_cost

    def _charge(self, tensors: frozenset[int], fixed: int, saved: int) -> Callable[[], None]:
        """Hold tensors and bytes; `fixed` is held already and is only released."""
        new = tensors - self.charged
        held = saved + self.chain.bytes_of(new)
        self.charged |= new
        self.held_bytes += held

        def release() -> None:
            self.charged.difference_update(new)
            self.held_bytes -= fixed + held

        return release

    def _unheld(self, boundary: int, away: frozenset[int]) -> int:
        return self.chain.bytes_of(self.chain.values[boundary] - self.charged - away)

    def _see(self, unit: int, above_held: int) -> None:
        if self.held_bytes + above_held > self.peak_bytes:
            self.peak_bytes, self.peak_unit = self.held_bytes + above_held, unit
