"""Measure a model's units one at a time, so that a solver can predict any placement from them.

One forward is run in which every unit, the moment it is called, is measured by itself on its inputs: forward, what it
saves, backward, and again by each save set. Only one unit's activations are there at a time, so a model can be profiled
on a device that its plain step does not fit on. Units that do the same are measured once.

A unit that is worth it is opened: it is profiled as a model of its own, and the regions over its parts that none beats
become further ways to run it, measured like the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from rematbench.measuring.state import State
from rematbench.placement.policies import SELECTIVE
from rematbench.placing.calls import Arguments, Call, continues, expected_next
from rematbench.placing.containers import CONTAINERS, every_module
from rematbench.placing.parts import parts
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.planner.profile import BEGINNING, Profile, UnitProfile, Way
from rematbench.planner.scheduled import placement_of
from rematbench.planner.unit_call import UnitCall, UnitError, as_saved, begun_with
from rematbench.planner.unit_meter import UnitMeter, UnitTrace
from rematbench.planner.ways import Inside, UnitCosts, measure_unit
from rematbench.solver.schedule import NOTHING, OFFLOAD, Schedule, UnitRegion
from rematbench.solver.simulate import simulate
from rematbench.solver.solve import frontier
from rematbench.torch_internals import (
    DispatchMode,
    StorageReference,
    children_of,
    has_hooks,
    pytree,
    storage_key,
)
from rematbench.traces.timeline import LOSS
from rematbench.workload.step import Workload, batch_tensors, call, clear_gradients, loss_of

_DEPTH = 2
"""How far units are opened, and what is inside them."""

_INSIDES = 4
"""How many placements inside a unit are measured at most."""

_WORTH = 1 / 128
"""The share of the plain step's peak from which on a unit is worth to be opened."""


def profile(
    workload: Workload,
    device: torch.device,
    at: str | None = None,
    *,
    plain_peak_bytes: int | None = None,
    timed: bool = True,
) -> Profile:
    """Measure every unit of a model, and the loss as the last of them; the units are those of `parts`.

    The model is left as it was but for what a forward changes in it (buffers, random state).

    Args:
        plain_peak_bytes: of the plain step; a unit that is small beside it is not opened.
        timed: seconds are taken too; else they are 0.
    """
    meter = UnitMeter(device)
    given = batch_tensors(workload.batch).values()
    saves = (*SELECTIVE, OFFLOAD) if meter.can_offload else SELECTIVE
    worth_bytes = int(_WORTH * (plain_peak_bytes or 0))
    modules = _closed(workload, device, parts(workload.module, at))
    profiler = _Profiler(
        workload.module, modules, given, meter, saves, {}, depth=_DEPTH, worth_bytes=worth_bytes, timed=timed
    )
    with shadowed(modules, profiler.around), profiler.between_units():
        output = call(workload)
        profiler.loss(output, workload.loss_fn or loss_of)
        clear_gradients(workload)
    return profiler.profile(output)


def _closed(workload: Workload, device: torch.device, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Put a module that is called several times in the place of its parts: each of its calls is one unit.

    A region over one of the parts would be one in all of the calls, and none could be over several of the parts.
    """
    calls = Counter[str]()

    def counting(path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls[path] += 1
            return forward(*args, **kwargs)

        return run

    every = every_module(workload.module)
    start = State(workload, device, weights=False)
    try:
        with torch.no_grad(), shadowed(every, counting):
            call(workload)
    except Exception:  # it cannot be run without gradients, as where it takes some itself
        return modules
    finally:
        start.restore()
    found: dict[str, nn.Module] = {}
    for path, module in modules.items():
        names = path.split(".")
        around = [".".join(names[:count]) for count in range(1, len(names) + 1)]
        outermost = next((name for name in around if calls[name] > 1), path)
        found[outermost] = every.get(outermost, module)
    return found


def _spread(schedules: Sequence[Schedule], count: int) -> list[Schedule]:
    """Return that many of them at even distances, the one of the least peak among them."""
    step = max(1, -(-len(schedules) // count))
    return list(schedules[::step])


class _BoundaryTensors:
    """Numbers the tensors that go from unit to unit, by storage; one seen again has its number."""

    def __init__(self, static: Iterator[torch.Tensor]) -> None:
        self._static = {storage_key(tensor) for tensor in static}
        self._numbers: dict[int, int] = {}
        # So that no storage made later gets the key of one that is gone. What is static is held by its model.
        self._seen: list[StorageReference] = []
        self.bytes: list[int] = []
        self.gradient_bytes: list[int] = []

    def number(self, leaf: Any) -> int | None:
        """Return a tensor's number; None for what is no tensor, or there before the step."""
        if not isinstance(leaf, torch.Tensor):
            return None
        key = storage_key(leaf)
        if key in self._static:
            return None
        if key not in self._numbers:
            self._seen.append(StorageReference(leaf))
            self._numbers[key] = len(self.bytes)
            self.bytes.append(leaf.untyped_storage().nbytes())
            self.gradient_bytes.append(0)
        return self._numbers[key]

    def numbers(self, leaves: Any) -> frozenset[int]:
        return frozenset(number for leaf in leaves if (number := self.number(leaf)) is not None)

    def numbered(self, leaves: Any) -> Iterator[int]:
        """Yield the numbers of those that have one."""
        for leaf in leaves:
            # A sparse tensor has no storage, and no unit is given one.
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided and storage_key(leaf) in self._numbers:
                yield self._numbers[storage_key(leaf)]

    def note_gradient(self, leaf: Any, held_bytes: int) -> None:
        """Take down what the gradient holds that a unit gives its input; that of a part becomes one of the whole."""
        number = self.number(leaf)
        if number is not None:
            whole = self.bytes[number] if leaf.nbytes < self.bytes[number] else 0
            self.gradient_bytes[number] = max(self.gradient_bytes[number], held_bytes, whole)


class _Uses(DispatchMode):
    """Tells which tensors go into operators: what a loop only passes on, keeps or asks for its shape does not."""

    def __init__(self, note: Callable[[list[Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(
        self, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._note(pytree.tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


class _Place(NamedTuple):
    """Where a unit stands in a chain; `sequential` is a chain that hands on all that a block returns."""

    chain: str
    position: int
    sequential: bool


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """The call that would continue a chain, after one of its blocks."""

    place: _Place
    call: Call


def _expected(place: _Place | None, call: Call, result: Any) -> _Expected | None:
    """Return what would continue the chain; None outside chains."""
    if place is None:
        return None
    expected = expected_next(call, result, sequential=place.sequential)
    return None if expected is None else _Expected(place=place, call=expected)


class _Profiler:
    """Stands in front of every unit during the one forward."""

    def __init__(
        self,
        module: nn.Module,
        modules: dict[str, nn.Module],
        given: Iterable[torch.Tensor],
        meter: UnitMeter,
        saves: Sequence[str],
        costs: dict[tuple[Any, ...], UnitCosts],
        *,
        depth: int,
        worth_bytes: int,
        timed: bool,
    ) -> None:
        self._module = module
        self._meter = meter
        self._saves = saves
        self._depth = depth
        self._worth_bytes = worth_bytes
        self._timed = timed
        self._modules = modules
        self._tensors = _BoundaryTensors(iter((*module.parameters(), *module.buffers(), *given)))
        self._costs = costs
        self._uses = _Uses(self._note_used)
        self._measuring = False
        self._between: dict[int, tuple[StorageReference, int]] = {}
        self._used: set[tuple[int, int]] = set()
        self._expected: _Expected | None = None
        self.units: list[UnitProfile] = []

    def around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs) if self._measuring else self._unit(path, forward, (args, kwargs))

        return run

    @contextmanager
    def between_units(self) -> Iterator[None]:
        """Watch what the model does between its units: what autograd saves of it, and which outputs it works on."""
        with saved_tensors_hooks(self._note_saved, as_saved), self._uses:
            yield

    def _note_saved(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note what is saved between units; as a hook, it has to return what is to be saved."""
        if not self._measuring and (number := self._tensors.number(tensor.detach())) is not None:
            self._between.setdefault(number, (StorageReference(tensor), len(self.units)))
        return tensor.detach()

    def _note_used(self, leaves: list[Any]) -> None:
        self._used.update((len(self.units), number) for number in self._tensors.numbered(leaves))

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Measure something, with nothing of ours in force: a dispatch mode costs time, and torch may refuse it."""
        self._measuring = True
        self._uses.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            self._uses.__enter__()  # type: ignore[no-untyped-call]
            self._measuring = False

    def _unit(self, path: str, forward: Forward, arguments: Arguments) -> Any:
        """Measure a unit, run it, and return its outputs cut off from its graph, which nobody needs any more."""
        leaves, spec = pytree.tree_flatten(arguments)
        specs: list[Any] = []

        def flat(*values: Any) -> tuple[Any, ...]:
            args, kwargs = pytree.tree_unflatten(list(values), spec)
            outputs, output_spec = pytree.tree_flatten(forward(*args, **kwargs))
            specs[:] = [output_spec]
            return tuple(outputs)

        module = self._modules[path]
        unit = UnitCall(forward=flat, leaves=tuple(leaves), members=(module,))
        with self._apart():
            try:
                trace = self._traced(unit)
                digest = trace.digest if trace else None
                signature = (*self._kind(module), str(spec), str(specs), digest) if digest else None
                costs = self._costs_of(unit, trace, signature)
            except UnitError:
                costs = None
            del trace  # and the gradients that it has left behind
        if costs is None:
            # Torch, or the unit's own code, does not run it cut out of its graph. So it is no unit: it is run as the
            # model does it, and counts as what is saved between two units.
            self._expected = None
            return forward(*arguments[0], **arguments[1])
        with self._apart():
            with torch.no_grad():
                outputs = list(flat(*leaves))
            ours = {id(leaf) for leaf in leaves}
            own = [at for at, leaf in enumerate(outputs) if id(leaf) not in ours]
            needing = [own.index(at) for at in costs.saved.needing if at in own]
            for at, made in zip(own, begun_with([outputs[at] for at in own], needing, []), strict=True):
                outputs[at] = made
        result = pytree.tree_unflatten(outputs, specs[0])
        place = self._place(path)
        follows = self._follows(place, arguments) and not has_hooks(module)
        self._add(path, costs, leaves, outputs, place, follows=follows)
        self._expected = None if has_hooks(module) else _expected(place, Call.of(arguments), result)
        return result

    def _kind(self, module: nn.Module) -> tuple[Any, ...]:
        """Return what two units must have in common to be measured alike, besides that they do the same.

        The names inside are those of the regions that it may be opened into.
        """
        names = [name for name, _ in module.named_modules(remove_duplicate=False)]
        opened = (self._depth, self._worth_bytes) if len(names) > 1 else ()
        return type(module), tuple(names), opened, tuple(self._saves)

    def _traced(self, unit: UnitCall) -> UnitTrace | None:
        """Run a step of a unit to know it by; None where torch refuses that, or it raises, as will come up again."""
        try:
            return self._meter.traced(unit, signed=True)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, UnitError):
            return None

    def _costs_of(self, unit: UnitCall, trace: UnitTrace | None, signature: tuple[Any, ...] | None) -> UnitCosts:
        """Return what was measured of a unit with this signature, or measure this one; None has no equal."""
        if signature is not None and signature in self._costs:
            return self._costs[signature]
        insides = partial(self._insides, unit)
        costs = measure_unit(self._meter, unit, self._saves, insides, trace=trace, timed=self._timed)
        if signature is not None:
            self._costs[signature] = costs
        return costs

    def _insides(self, unit: UnitCall, plain: Way) -> list[Inside]:
        """Profile a unit as a model of its own, and return regions over its parts that none beats by prediction."""
        (module,) = unit.members
        size = plain.saved_bytes + plain.backward_peak_bytes
        modules = parts(module)
        if self._depth == 0 or size < max(1, self._worth_bytes) or len(modules) < 2:
            return []
        # The parts of a part are worth it where they are most of it: what is opened then is the one that matters.
        worth_bytes = max(self._worth_bytes, size // 4)
        tensors = [leaf for leaf in unit.leaves if isinstance(leaf, torch.Tensor)]
        profiler = _Profiler(
            module,
            modules,
            tensors,
            self._meter,
            (),
            self._costs,  # a part of one unit may be a part of the next, which is measured once as well
            depth=self._depth - 1,
            worth_bytes=worth_bytes,
            timed=self._timed,
        )
        with self._meter.undisturbed(unit), shadowed(modules, profiler.around), profiler.between_units():
            try:
                output = unit.run(unit.fresh_leaves())
            except UnitError:
                return []
        found = profiler.profile(output)
        if len(found.units) < 2:
            return []
        everything = (UnitRegion(start=0, stop=len(found.units)),)
        schedules = [
            schedule for schedule in frontier(found.chain("flops")) if schedule.regions not in ((), everything)
        ]
        return [
            Inside(
                regions=placement_of("", found, schedule.regions).regions,
                recompute_s=simulate(found.chain("time"), schedule.regions).cost,
            )
            for schedule in _spread(schedules, _INSIDES)
        ]

    def loss(self, output: Any, loss_fn: Callable[[Any], torch.Tensor]) -> None:
        """Measure what makes a loss of the output, as the last unit, and what the model does itself after its last one.

        The output is there as long as whoever runs the step holds it, whether the loss saves it or not.
        """
        leaves, spec = pytree.tree_flatten(output)

        def flat(*values: Any) -> tuple[Any, ...]:
            return (loss_fn(pytree.tree_unflatten(list(values), spec)),)

        with self._apart():
            unit = UnitCall(forward=flat, leaves=tuple(leaves), members=())
            costs = measure_unit(self._meter, unit, (), timed=self._timed)
            try:
                end_bytes = self._meter.read_backward(loss_fn(output))
            except UnitError:  # what was cut out of the graph is missing, as to a checkpoint of the model's own
                end_bytes = 0
        plain, *_ = costs.ways
        way = replace(plain.way, backward_peak_bytes=max(plain.way.backward_peak_bytes, end_bytes))
        plain = replace(plain, way=way, inputs=tuple(range(len(leaves))), outputs=())
        costs = replace(costs, ways=(plain,), refusals={NOTHING: "it is the loss"})
        self._add(LOSS, costs, leaves, [], None, follows=False)

    def _add(
        self, path: str, costs: UnitCosts, leaves: list[Any], outputs: list[Any], place: _Place | None, *, follows: bool
    ) -> None:
        for at, held_bytes in costs.gradient_bytes.items():
            self._tensors.note_gradient(leaves[at], held_bytes)
        output_numbers = self._tensors.numbers(outputs)
        can_be_region = NOTHING not in costs.refusals
        begins = BEGINNING not in costs.refusals
        ways = [
            replace(
                found.way,
                saved=self._tensors.numbers(
                    [*(leaves[at] for at in found.inputs), *(outputs[at] for at in found.outputs)]
                ),
            )
            for found in costs.ways
            if found.way.inside or found is costs.ways[0] or (can_be_region and begins)
        ]
        self.units.append(
            UnitProfile(
                path=path,
                chain=place.chain if place else None,
                position=place.position if place else -1,
                inputs=self._tensors.numbers(leaves),
                outputs=output_numbers,
                ways=tuple(ways),
                cast_bytes=costs.cast_bytes,
                forward_bytes=costs.forward_bytes,
                forward_s=costs.forward_s,
                forward_flops=costs.forward_flops,
                rerun_s=costs.rerun_s,
                rerun_flops=costs.rerun_flops,
                parameter_gradient_bytes=0,
                can_be_region=can_be_region,
                begins=begins,
                refusals=costs.refusals,
                follows=follows,
            )
        )

    def _place(self, path: str) -> _Place | None:
        parent, _, name = path.rpartition(".")
        container = self._module.get_submodule(parent)
        if path not in self._modules or not isinstance(container, CONTAINERS):
            return None
        position = [child for child, _ in children_of(container)].index(name)
        return _Place(parent, position, isinstance(container, nn.Sequential))

    def _follows(self, place: _Place | None, arguments: Arguments) -> bool:
        """Tell whether this call is the one that the block before makes expect, by the rule that regions hold to."""
        expected = self._expected
        if expected is None or place is None or place != expected.place._replace(position=expected.place.position + 1):
            return False
        return continues(expected.call, arguments)

    def profile(self, output: Any) -> Profile:
        """Return what was measured, once the forward is over."""
        outputs = self._tensors.numbers(pytree.tree_leaves(output))
        sizes = self._tensors.bytes
        makers = {number: at for at, unit in enumerate(self.units) for number in unit.outputs - unit.inputs}
        between: dict[int, set[int]] = defaultdict(set)
        for number, (_, at) in self._between.items():
            between[at].add(number)
        lasting = Counter[int]()
        for number in outputs:
            lasting[makers.get(number, len(self.units) - 2) + 1] += sizes[number]
        units = [self._without_lasting(unit) for unit in self._with_gradients(self._joined(outputs))]
        return Profile(
            units=tuple(
                replace(
                    unit,
                    between_bytes=sum(sizes[number] for number in between[at]),
                    between=frozenset(between[at]),
                    lasting_bytes=lasting[at],
                )
                for at, unit in enumerate(units)
            ),
            tensor_bytes=tuple(sizes),
            tensor_gradient_bytes=tuple(self._tensors.gradient_bytes),
            region_bytes=self._meter.region_bytes,
        )

    def _without_lasting(self, unit: UnitProfile) -> UnitProfile:
        """Have nobody hold what the model returns but the loss, and what lasts from then on.

        A unit by itself lets go of it in the midst of its backward, where here it stays.
        """
        loss = self.units[-1]
        if loss.path != LOSS or unit.path == LOSS:
            return unit
        lasts = (unit.outputs - unit.inputs) & loss.inputs
        ways = tuple(
            replace(
                way,
                saved=way.saved - lasts,
                backward_peak_bytes=way.backward_peak_bytes
                + sum(self._tensors.bytes[tensor] for tensor in way.saved & lasts),
            )
            for way in unit.ways
        )
        return replace(unit, ways=ways)

    def _joined(self, outputs: frozenset[int]) -> list[UnitProfile]:
        """Part what no region may span: a value used in between, and modules that are called more than once.

        Inside a region nothing that a block returns is there for anyone but the next block. What the next one returns
        itself, handing it through, is there after it.
        """
        calls = Counter(unit.path for unit in self.units)
        joined: list[UnitProfile] = []
        later = set(outputs)
        for at, unit in reversed(list(enumerate(self.units))):
            once = calls[unit.path] == 1
            here = {number for position, number in self._used if position == at}
            made = self.units[at - 1].outputs if at else frozenset()
            follows = unit.follows and once and not made & (here | (later - unit.outputs))
            joined.append(replace(unit, follows=follows))
            later |= unit.inputs | here
        return joined[::-1]

    def _with_gradients(self, units: list[UnitProfile]) -> list[UnitProfile]:
        """Count the gradient of each parameter where backward makes it first."""
        seen: set[int] = set()
        found: list[UnitProfile] = []
        for unit in reversed(units):
            # Asked by `in`: a module may have a length, and a compiled one has none to ask for.
            parameters = self._modules[unit.path].parameters() if unit.path in self._modules else ()
            own = [p for p in parameters if p.requires_grad and id(p) not in seen]
            seen.update(map(id, own))
            found.append(replace(unit, parameter_gradient_bytes=sum(parameter.nbytes for parameter in own)))
        return found[::-1]
