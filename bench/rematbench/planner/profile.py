"""A measured model as data: its units one by one, and the chain of numbers the solver takes them for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rematbench.placement.goal import Objective
from rematbench.placement.placement import Region
from rematbench.solver.chain import Choice, Unit, UnitChain
from rematbench.solver.schedule import NOTHING, OFFLOAD


def region_of(path: str, save: str, batch_norm: Literal["as-is", "once"]) -> Region:
    """Return the region that saves what a solver's schedule says; units are measured by it and plans written in it."""
    if save == OFFLOAD:
        return Region(path=path, save="everything", offload=True)
    return Region(path=path, save=save, batch_norm=batch_norm)


BEGINNING = "beginning"
"""Under which a unit's refusals say why no region may begin with it."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run one unit, measured by itself.

    Attributes:
        save: what it saves, as a schedule says it; `everything` is the plain way, and a way with regions inside has a
            name of its own.
        saved_bytes: allocated by the forward and there after it; boundary tensors are left out.
        saved: the boundary tensors among the unit's inputs and outputs that it saves.
        forward_peak_bytes, rerun_peak_bytes, backward_peak_bytes: as in `Choice`.
        lingering_bytes: as in `Choice`.
        recompute_s, recompute_flops: what backward redoes.
        inside: regions over parts of the unit, their paths from the unit's module on; none for one over all of it.
    """

    save: str
    saved_bytes: int
    saved: frozenset[int] = frozenset()
    forward_peak_bytes: int
    rerun_peak_bytes: int | None = None
    backward_peak_bytes: int
    lingering_bytes: int = 0
    recompute_s: float = 0.0
    recompute_flops: int = 0
    inside: tuple[Region, ...] = ()

    @property
    def nests(self) -> bool:
        """Whether it may be run inside another region, where torch would not free what a selective one caches."""
        return bool(self.inside) and all(region.save == NOTHING for region in self.inside)


@dataclass(frozen=True, kw_only=True)
class UnitProfile:
    """One call of one part of a model.

    Attributes:
        path: of the module.
        chain, position: the container it is a block of, and where in it; None and -1 outside chains.
        inputs, outputs: the boundary tensors that go in and come out, by number.
        ways: how it can be run, the plain way first.
        cast_bytes: kept by autocast, until it ends, of what it casts in a forward that saves nothing; None where none
            is in force.
        forward_bytes: peak of a forward that saves nothing.
        rerun_s, rerun_flops: of a forward up to its last saved tensor.
        between_bytes: saved by what runs between the unit before and this one.
        between: the boundary tensors among it, which are held with this unit, however it is run.
        lasting_bytes: outputs of the model that the unit before made. They are there to the end of the step, so that
            they count from this unit's backward on, when the unit before may have given up its own hold on them.
        passing_bytes, before_bytes, after_bytes: as in `Unit`; found in a real step.
        can_be_region: whether one call can be checkpointed.
        begins: whether a region may begin with it.
        refusals: why not, by what a region over the unit would save, or by `BEGINNING`: in torch's words, or the user's
            own. Where `nothing` is refused everything is.
        follows: whether one region may span the unit before and this one. It is the next block of the same chain, was
            given what that one's call hands on, and nothing else that the one before returned is used by anyone later.
    """

    path: str
    chain: str | None = None
    position: int = -1
    inputs: frozenset[int]
    outputs: frozenset[int]
    ways: tuple[Way, ...]
    cast_bytes: int | None = None
    forward_bytes: int
    forward_s: float
    forward_flops: int
    rerun_s: float
    rerun_flops: int
    parameter_gradient_bytes: int
    between_bytes: int = 0
    between: frozenset[int] = frozenset()
    lasting_bytes: int = 0
    passing_bytes: int = 0
    before_bytes: int = 0
    after_bytes: int = 0
    can_be_region: bool = True
    begins: bool = True
    refusals: Mapping[str, str] = field(default_factory=dict)
    follows: bool = False

    @property
    def saved(self) -> frozenset[int]:
        """The boundary tensors that autograd saves for this unit's backward, run plainly."""
        return self.ways[0].saved

    def way(self, save: str) -> Way:
        """Return the way of that name."""
        return next(way for way in self.ways if way.save == save)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A model's step in the order of its units' calls.

    Attributes:
        tensor_bytes, tensor_gradient_bytes: of the boundary tensors, by number.
        region_bytes: what a region keeps besides its input, such as the random state.
        region_s: what a region takes besides what it runs again.
        step_s: what the plain step took when the seconds of the units were found in it; None if they were not.
        further_bytes: as in `UnitChain`; found in a real step, empty where there was none.
    """

    units: tuple[UnitProfile, ...]
    tensor_bytes: tuple[int, ...]
    tensor_gradient_bytes: tuple[int, ...]
    region_bytes: int
    region_s: float = 0.0
    step_s: float | None = None
    further_bytes: tuple[int, ...] = ()

    def chain(self, objective: Objective) -> UnitChain:
        """Return the cost model, costs in seconds or in FLOPs.

        What a region keeps besides its input is a tensor of its own at every boundary, which only regions hold.
        """
        count, tensors = len(self.units), len(self.tensor_bytes)
        values = [frozenset(self._live(boundary)) | {tensors + boundary} for boundary in range(count)]
        values.append(frozenset(self._live(count)))
        return UnitChain(
            tensor_bytes=(*self.tensor_bytes, *[self.region_bytes] * count),
            tensor_gradient_bytes=(*self.tensor_gradient_bytes, *[0] * count),
            values=tuple(values),
            units=tuple(
                self._unit(unit, before | after, unit.inputs | unit.between | {tensors + at}, objective)
                for at, (unit, before, after) in enumerate(zip(self.units, values, values[1:], strict=False))
            ),
            joins=tuple(unit.follows and not unit.between_bytes for unit in self.units[1:]),
            region_cost=self.region_s if objective == "time" else 0.0,
            rerun_bytes=self.region_bytes,
            nested_bytes=self.region_bytes,
            further_bytes=self.further_bytes,
        )

    def _live(self, boundary: int) -> set[int]:
        """Return the tensors that are there before a unit and go into it or a later one."""
        before = {tensor for unit in self.units[:boundary] for tensor in unit.inputs | unit.outputs}
        later = {tensor for unit in self.units[boundary:] for tensor in unit.inputs | unit.between}
        first = self.units[boundary].inputs | self.units[boundary].between if boundary < len(self.units) else set()
        return (before | first) & later

    def _unit(self, unit: UnitProfile, live: frozenset[int], inputs: frozenset[int], objective: Objective) -> Unit:
        """Return a unit's costs; `live` are the tensors of the values that go into it and come out of it."""
        seconds = objective == "time"
        forward = unit.forward_s if seconds else float(unit.forward_flops)
        return Unit(
            name=unit.path,
            # In FLOPs a transfer would be free, and everything would go over the bus.
            choices=tuple(
                self._choice(replace(way, saved=way.saved | unit.between), live, seconds)
                for way in unit.ways
                if seconds or way.save != OFFLOAD
            ),
            forward_bytes=unit.forward_bytes,
            forward_cost=forward,
            rerun_cost=min(forward, unit.rerun_s if seconds else float(unit.rerun_flops)),
            parameter_gradient_bytes=unit.parameter_gradient_bytes + unit.lasting_bytes,
            fixed_bytes=unit.between_bytes - sum(self.tensor_bytes[tensor] for tensor in unit.between),
            passing_bytes=unit.passing_bytes,
            before_bytes=unit.before_bytes,
            after_bytes=unit.after_bytes,
            can_be_region=unit.can_be_region,
            begins=unit.begins,
            inputs=inputs,
            lingering_bytes=unit.cast_bytes or 0,
            with_lingering=unit.cast_bytes is not None,
        )

    def _choice(self, way: Way, live: frozenset[int], seconds: bool) -> Choice:
        # An output that goes into no later unit travels in no value, and yet is held where it is saved: attention's
        # weights, say, which most loops drop.
        own_bytes = sum(self.tensor_bytes[tensor] for tensor in way.saved - live)
        return Choice(
            save=way.save,
            saved_bytes=way.saved_bytes + own_bytes,
            saved_tensors=way.saved & live,
            forward_peak_bytes=way.forward_peak_bytes,
            rerun_peak_bytes=way.rerun_peak_bytes,
            backward_peak_bytes=way.backward_peak_bytes,
            lingering_bytes=way.lingering_bytes,
            recompute_cost=way.recompute_s if seconds else float(way.recompute_flops),
            holds_input=not way.inside,
            nests=way.nests,
            regions=len(way.inside),
        )
