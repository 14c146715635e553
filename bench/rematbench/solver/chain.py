"""A model's step as plain numbers: units run in a row, and the boundary tensors between them.

All sizes are integer bytes. A cost is any non-negative number that adds up: seconds, or FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to run one unit, without a nested plan.

    The first choice of a unit is the plain one. Every other is a region over that one unit that saves selectively, or
    regions over parts of it. A region that saves selectively also holds the whole value that goes in, and stands
    outside every other region: inside one, torch would not free what it caches.

    Attributes:
        save: the choice's name: what a region over the unit saves (`everything`, `matmuls`), or one of the unit's own.
        saved_bytes: held from the unit's forward to its backward; boundary tensors are not in it.
        saved_tensors: the boundary tensors, of the unit's input and output, held until its backward.
        forward_peak_bytes: the most its forward needs above what is live when it begins, its own output included.
        rerun_peak_bytes: the same up to the last tensor saved for backward, where a recomputation ends; None where it
            is as much.
        backward_peak_bytes: the most its backward needs above what is live when it begins, which is what it saved
            and the gradients of its output.
        lingering_bytes: what else lingers in the forward after it, as copies that autocast keeps until it ends.
        recompute_cost: what its backward redoes; 0 for the plain choice.
        holds_input: whether it holds the whole value that goes in; the plain choice never does.
        nests: whether it may stand inside another region; the plain choice always may.
        regions: how many regions over parts of the unit it has.
    """

    save: str
    saved_bytes: int
    saved_tensors: frozenset[int] = frozenset()
    forward_peak_bytes: int
    rerun_peak_bytes: int | None = None
    backward_peak_bytes: int
    lingering_bytes: int = 0
    recompute_cost: float = 0.0
    holds_input: bool = True
    nests: bool = False
    regions: int = 0

    @property
    def last_peak_bytes(self) -> int:
        """What its forward needs where a recomputation ends with it."""
        return self.forward_peak_bytes if self.rerun_peak_bytes is None else self.rerun_peak_bytes


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One step of a chain: what it costs to run, and to keep.

    Attributes:
        name: what people call it, such as a module's path.
        choices: the ways to run it, the plain one first.
        forward_bytes: the most a forward that saves nothing needs above what is live when it begins, its own output
            included.
        forward_cost: one whole forward.
        rerun_cost: a forward up to the last tensor saved for backward, at most `forward_cost`. It is the price of the
            last unit of a recomputed region, for torch stops a recomputation early.
        parameter_gradient_bytes: accumulated by its backward, live to the end of the step.
        fixed_bytes: held from just before the unit until its backward is over, whatever the placement. Only a unit that
            does not join the one before it may have any.
        passing_bytes: what else is live while it first runs forward and gone by backward, such as what the model's own
            code holds; below 0 where less is live than the rest adds up to.
        before_bytes: the most that is live just before it first runs, above what is held and what goes into it.
        after_bytes: the most that is live, gradients included, above what is held once its backward is over, before
            the one of the unit before begins.
        can_be_region: whether a region may cover it.
        lingering_bytes: as in `Choice`, where a region runs it that saves nothing.
        with_lingering: whether what lingers of earlier units is still there when it first runs. The search for
            schedules takes every unit to be run plainly in this, their figures do not.
        inputs: the tensors that go into it, of the value before it; None for all of them. What only passes by is no
            input of a region over the unit. The search for schedules takes it for one, their figures do not.
        begins: whether a region may begin with it; not one that changes its input in place, which a region over the
            unit before as well may cover.
    """

    name: str
    choices: tuple[Choice, ...]
    forward_bytes: int
    forward_cost: float
    rerun_cost: float
    parameter_gradient_bytes: int = 0
    fixed_bytes: int = 0
    passing_bytes: int = 0
    before_bytes: int = 0
    after_bytes: int = 0
    can_be_region: bool = True
    begins: bool = True
    lingering_bytes: int = 0
    with_lingering: bool = False
    inputs: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not self.choices or self.choices[0].recompute_cost:
            raise ValueError(f"{self.name}: the first choice is the plain one, which recomputes nothing")
        if not 0 <= self.rerun_cost <= self.forward_cost:
            raise ValueError(f"{self.name}: rerun_cost is from 0 to forward_cost")
        if any(choice.holds_input for choice in self.choices[1:]) and not (self.can_be_region and self.begins):
            raise ValueError(f"{self.name}: a selective choice is a region, and the unit cannot be one")


@dataclass(frozen=True, kw_only=True)
class UnitChain:
    """Units 0 to n-1, run forward in order and backward in reverse, and the n+1 values between them.

    Value 0 goes into unit 0 and value i+1 comes out of unit i. A tensor that bypasses units, such as a skip, is part
    of every value it travels in, and these follow one another without a gap.

    Attributes:
        tensor_bytes: size by tensor.
        tensor_gradient_bytes: size of its gradient by tensor; 0 where it needs none.
        values: the tensors of each value.
        units: what runs between them.
        joins: whether one region may span units i and i+1, n-1 of them.
        region_cost: of every region that saves nothing, besides what it runs again.
        rerun_bytes: live while a region is run again, such as a copy of the random state.
        nested_bytes: kept by a region inside another from the outer one's run until that is run again, such as its
            random state. Schedules are worth what it comes to; the search for them does not know of it.
        further_bytes: what is live by boundary while backward is there, besides what is held and the gradients of
            its value and of the parameters; below 0 where not all of these gradients are. Empty for none.
    """

    tensor_bytes: tuple[int, ...]
    tensor_gradient_bytes: tuple[int, ...]
    values: tuple[frozenset[int], ...]
    units: tuple[Unit, ...]
    joins: tuple[bool, ...]
    region_cost: float = 0.0
    rerun_bytes: int = 0
    nested_bytes: int = 0
    further_bytes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.units or len(self.values) != len(self.units) + 1 or len(self.joins) != len(self.units) - 1:
            raise ValueError("a chain of n units, one at least, has n + 1 values and n - 1 joins")
        if len(self.tensor_bytes) != len(self.tensor_gradient_bytes):
            raise ValueError("every tensor has its bytes and its gradient's bytes")
        if len(self.further_bytes) not in (0, len(self.values)):
            raise ValueError("what is live besides the gradients is told for every value or for none")
        for before, (value, after) in enumerate(zip(self.values[1:], self.values[2:], strict=False)):
            if not self.values[before] & after <= value:
                raise ValueError(f"a tensor of values {before} and {before + 2} is not in value {before + 1}")
        for at, unit in enumerate(self.units):
            if any(not choice.saved_tensors <= self.values[at] | self.values[at + 1] for choice in unit.choices):
                raise ValueError(f"{unit.name}: saves a tensor of neither its input nor its output")
            if at and self.joins[at - 1] and unit.fixed_bytes:
                raise ValueError(f"{unit.name}: has fixed bytes, so it cannot join the unit before it")

    def bytes_of(self, tensors: Iterable[int]) -> int:
        """Return what these tensors take together."""
        return sum(self.tensor_bytes[tensor] for tensor in tensors)

    def lingering_bytes(self) -> list[int]:
        """Return what lingers of earlier units when each first runs, all of them run plainly."""
        before = accumulate((unit.choices[0].lingering_bytes for unit in self.units), initial=0)
        return [size if unit.with_lingering else 0 for unit, size in zip(self.units, before, strict=False)]

    def taken(self, start: int, stop: int) -> frozenset[int]:
        """Return the tensors of the value before a run of units that go into one of them."""
        inputs = [unit.inputs for unit in self.units[start:stop]]
        into = [self.values[start] if found is None else found for found in inputs]
        return self.values[start].intersection(frozenset().union(*into))

    def gradient_bytes(self, boundary: int) -> int:
        """Return what the gradients of one value take, and what else is live with them."""
        further = self.further_bytes[boundary] if self.further_bytes else 0
        return further + sum(self.tensor_gradient_bytes[tensor] for tensor in self.values[boundary])
