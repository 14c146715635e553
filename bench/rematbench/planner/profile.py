"""A measured model as data: its units one by one, and the chain of numbers the solver takes them for."""

from __future__ import annotations

from dataclasses import dataclass

from rematbench.placement.goal import Objective
from rematbench.solver.chain import Choice, Unit, UnitChain
from rematbench.solver.schedule import OFFLOAD


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run one unit, measured by itself.

    Attributes:
        save: what it keeps, as a region says it; `everything` is the plain way.
        kept_bytes: allocated by the forward and there after it; tensors that travel are left out.
        forward_peak_bytes, backward_peak_bytes: as in `Choice`.
        keeps_output: whether a selective way keeps all that the unit made and returns.
        recompute_s, recompute_flops: what backward redoes.
    """

    save: str
    kept_bytes: int
    forward_peak_bytes: int
    backward_peak_bytes: int
    keeps_output: bool = False
    recompute_s: float = 0.0
    recompute_flops: int = 0


@dataclass(frozen=True, kw_only=True)
class UnitProfile:
    """One call of one part of a model.

    Attributes:
        path: of the module.
        chain, position: the container it is a block of, and where in it; None and -1 outside chains.
        taken, given: the travelling tensors that went in and came out, by number.
        kept: those of them that autograd keeps for this unit's backward.
        ways: how it can be run, the plain way first.
        forward_bytes: peak of a forward that saves nothing.
        rerun_s, rerun_flops: of a forward up to its last saved tensor.
        glue_bytes: kept by what runs between the unit before and this one.
        lasting_bytes: outputs of the model that the unit before made. They are there to the end of the step, so that
            they count from this unit's backward on, when the unit before may have given up its own hold on them.
        can_be_region: whether one call can be checkpointed.
        follows: whether it is the next block of the same chain and was given just what the one before it returned.
    """

    path: str
    chain: str | None = None
    position: int = -1
    taken: frozenset[int]
    given: frozenset[int]
    kept: frozenset[int]
    ways: tuple[Way, ...]
    forward_bytes: int
    forward_s: float
    forward_flops: int
    rerun_s: float
    rerun_flops: int
    parameter_gradient_bytes: int
    glue_bytes: int = 0
    lasting_bytes: int = 0
    can_be_region: bool = True
    follows: bool = False


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A model's step in the order of its units' calls.

    Attributes:
        tensor_bytes, tensor_gradient_bytes: of what travels between units, by number.
        region_bytes: what a region keeps besides its input, such as the random state.
        region_s: what a region takes besides what it runs again.
        step_s: what the plain step took when the seconds of the units were found in it; None if they were not.
    """

    units: tuple[UnitProfile, ...]
    tensor_bytes: tuple[int, ...]
    tensor_gradient_bytes: tuple[int, ...]
    region_bytes: int
    region_s: float = 0.0
    step_s: float | None = None

    def chain(self, objective: Objective) -> UnitChain:
        """Return the cost model, costs in seconds or in FLOPs.

        What a region keeps besides its input is a tensor of its own at every boundary, which only regions hold.
        """
        count, travelling = len(self.units), len(self.tensor_bytes)
        values = [frozenset(self._live(boundary)) | {travelling + boundary} for boundary in range(count)]
        return UnitChain(
            tensor_bytes=(*self.tensor_bytes, *[self.region_bytes] * count),
            tensor_gradient_bytes=(*self.tensor_gradient_bytes, *[0] * count),
            values=(*values, frozenset(self._live(count))),
            units=tuple(_unit(unit, objective) for unit in self.units),
            joins=tuple(unit.follows and not unit.glue_bytes for unit in self.units[1:]),
            region_cost=self.region_s if objective == "time" else 0.0,
        )

    def _live(self, boundary: int) -> set[int]:
        """Return the tensors that are there before a unit and still taken by it or a later one."""
        before = {tensor for unit in self.units[:boundary] for tensor in unit.taken | unit.given}
        later = {tensor for unit in self.units[boundary:] for tensor in unit.taken}
        first = self.units[boundary].taken if boundary < len(self.units) else set()
        return (before | first) & later


def _unit(unit: UnitProfile, objective: Objective) -> Unit:
    seconds = objective == "time"
    forward = unit.forward_s if seconds else float(unit.forward_flops)
    return Unit(
        name=unit.path,
        # In FLOPs a transfer would be free, and everything would go over the bus.
        choices=tuple(_choice(way, unit, seconds) for way in unit.ways if seconds or way.save != OFFLOAD),
        forward_bytes=unit.forward_bytes,
        forward_cost=forward,
        rerun_cost=min(forward, unit.rerun_s if seconds else float(unit.rerun_flops)),
        parameter_gradient_bytes=unit.parameter_gradient_bytes + unit.lasting_bytes,
        fixed_bytes=unit.glue_bytes,
        can_be_region=unit.can_be_region,
    )


def _choice(way: Way, unit: UnitProfile, seconds: bool) -> Choice:
    return Choice(
        save=way.save,
        kept_bytes=way.kept_bytes,
        kept_tensors=unit.kept if way.save == "everything" else unit.given if way.keeps_output else frozenset(),
        forward_peak_bytes=way.forward_peak_bytes,
        backward_peak_bytes=way.backward_peak_bytes,
        recompute_cost=way.recompute_s if seconds else float(way.recompute_flops),
    )
