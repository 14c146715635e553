"""Measure a model's units one at a time, so that a solver can predict any placement from them.

One forward is run in which every unit, the moment it is called, is measured by itself on its inputs: forward, what it
saves, backward, and again by each save set. Only one unit's activations are there at a time, so a model can be profiled
on a device that its plain step does not fit on. Units that do the same are measured once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from rematbench.placement.policies import SELECTIVE
from rematbench.placing.calls import Arguments, Call, departure, next_call
from rematbench.placing.containers import CONTAINERS
from rematbench.placing.parts import parts
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.planner.profile import Profile, UnitProfile
from rematbench.planner.signature import signature_of
from rematbench.planner.unit_meter import UnitCall, UnitCosts, UnitMeter, as_saved, measure_unit
from rematbench.solver.schedule import NOTHING, OFFLOAD
from rematbench.torch_internals import (
    DispatchMode,
    StorageReference,
    children_of,
    has_hooks,
    pytree,
    storage_key,
    write_count,
)
from rematbench.traces.timeline import LOSS
from rematbench.workload.step import Workload, batch_tensors, call, clear_gradients, loss_of


def profile(workload: Workload, device: torch.device, at: str | None = None) -> Profile:
    """Measure every unit of a model, and the loss as the last of them; the units are those of `parts`.

    The model is left as it was but for what a forward changes in it (buffers, random state).
    """
    modules = parts(workload.module, at)
    profiler = _Profiler(workload, UnitMeter(device), modules)
    with shadowed(modules, profiler.around), profiler.between_units():
        output = call(workload)
        profiler.loss(output)
    return profiler.profile(output)


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
    expected = next_call(call, result, sequential=place.sequential)
    if not place.sequential and pytree.tree_structure(expected.value) != pytree.tree_structure(call.value):
        # What a loop hands on goes by what a region's first block was given, and a region may begin at any block.
        return None
    return _Expected(place=place, call=expected)


class _Profiler:
    """Stands in front of every unit during the one forward."""

    def __init__(self, workload: Workload, meter: UnitMeter, modules: dict[str, nn.Module]) -> None:
        self._workload = workload
        self._meter = meter
        module = workload.module
        self._modules = modules
        static = (*module.parameters(), *module.buffers(), *batch_tensors(workload.batch).values())
        self._tensors = _BoundaryTensors(iter(static))
        self._saves = (*SELECTIVE, OFFLOAD) if meter.can_offload else SELECTIVE
        self._costs: dict[tuple[Any, ...] | None, UnitCosts] = {}
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
            versions = [write_count(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
            digest = signature_of(unit, self._meter)
            costs = self._costs_of(unit, (type(module), str(spec), str(specs), digest) if digest else None)
            with torch.no_grad():
                outputs = list(flat(*leaves))
            ours = {id(leaf) for leaf in leaves}
            outputs = [
                leaf.detach().requires_grad_(at in costs.saved.needing)
                if isinstance(leaf, torch.Tensor) and id(leaf) not in ours
                else leaf
                for at, leaf in enumerate(outputs)
            ]
        if versions != [write_count(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]:
            costs = replace(costs, refusals={NOTHING: "it changes its input in place", **costs.refusals})
        result = pytree.tree_unflatten(outputs, specs[0])
        place = self._place(path)
        follows = self._follows(place, arguments) and not has_hooks(module)
        self._add(path, costs, leaves, outputs, place, follows=follows)
        self._expected = None if has_hooks(module) else _expected(place, Call.of(arguments), result)
        return result

    def _costs_of(self, unit: UnitCall, signature: tuple[Any, ...] | None) -> UnitCosts:
        """Return what was measured of a unit with this signature, or measure this one; None has no equal."""
        costs = self._costs.get(signature) or measure_unit(self._meter, unit, self._saves)
        if signature is not None:
            self._costs[signature] = costs
        return costs

    def loss(self, output: Any) -> None:
        """Measure what makes a loss of the output, as the last unit, and what the model does itself after its last one.

        The output is there as long as whoever runs the step holds it, whether the loss saves it or not.
        """
        leaves, spec = pytree.tree_flatten(output)
        loss_fn = self._workload.loss_fn or loss_of

        def flat(*values: Any) -> tuple[Any, ...]:
            return (loss_fn(pytree.tree_unflatten(list(values), spec)),)

        with self._apart():
            costs = measure_unit(self._meter, UnitCall(forward=flat, leaves=tuple(leaves), members=()), ())
            end_bytes = self._meter.read_backward(loss_fn(output))
        plain, *_ = costs.ways
        plain = replace(plain, backward_peak_bytes=max(plain.backward_peak_bytes, end_bytes))
        saved = replace(costs.saved, inputs=tuple(range(len(leaves))))
        costs = replace(costs, ways=(plain,), saved=saved, refusals={NOTHING: "it is the loss"})
        self._add(LOSS, costs, leaves, [], None, follows=False)
        clear_gradients(self._workload)

    def _add(
        self, path: str, costs: UnitCosts, leaves: list[Any], outputs: list[Any], place: _Place | None, *, follows: bool
    ) -> None:
        for at, held_bytes in costs.gradient_bytes.items():
            self._tensors.note_gradient(leaves[at], held_bytes)
        output_numbers = self._tensors.numbers(outputs)
        can_be_region = NOTHING not in costs.refusals
        saved = [*(leaves[at] for at in costs.saved.inputs), *(outputs[at] for at in costs.saved.outputs if outputs)]
        self.units.append(
            UnitProfile(
                path=path,
                chain=place.chain if place else None,
                position=place.position if place else -1,
                inputs=self._tensors.numbers(leaves),
                outputs=output_numbers,
                saved=self._tensors.numbers(saved),
                ways=costs.ways if can_be_region else costs.ways[:1],
                forward_bytes=costs.forward_bytes,
                forward_s=costs.forward_s,
                forward_flops=costs.forward_flops,
                rerun_s=costs.forward_s * costs.saved.early_share,
                rerun_flops=costs.rerun_flops,
                parameter_gradient_bytes=0,
                can_be_region=can_be_region,
                refusals=costs.refusals,
                follows=follows,
            )
        )

    def _place(self, path: str) -> _Place | None:
        parent, _, name = path.rpartition(".")
        container = self._workload.module.get_submodule(parent)
        if path not in self._modules or not isinstance(container, CONTAINERS):
            return None
        position = [child for child, _ in children_of(container)].index(name)
        return _Place(parent, position, isinstance(container, nn.Sequential))

    def _follows(self, place: _Place | None, arguments: Arguments) -> bool:
        """Tell whether this call is the one that the block before makes expect, by the rule that regions hold to."""
        expected = self._expected
        if expected is None or place is None or place != expected.place._replace(position=expected.place.position + 1):
            return False
        return departure(expected.call, Call.of(arguments, expected.call.keyword)) is None

    def profile(self, output: Any) -> Profile:
        """Return what was measured, once the forward is over."""
        outputs = self._tensors.numbers(pytree.tree_leaves(output))
        sizes = self._tensors.bytes
        between = Counter[int]()
        for number, (_, at) in self._between.items():
            between[at] += sizes[number]
        makers = {number: at for at, unit in enumerate(self.units) for number in unit.outputs - unit.inputs}
        lasting = Counter[int]()
        for number in outputs:
            lasting[makers.get(number, len(self.units) - 2) + 1] += sizes[number]
        units = self._with_gradients(self._joined(outputs))
        return Profile(
            units=tuple(
                replace(unit, between_bytes=between[at], lasting_bytes=lasting[at]) for at, unit in enumerate(units)
            ),
            tensor_bytes=tuple(0 if number in self._between else size for number, size in enumerate(sizes)),
            tensor_gradient_bytes=tuple(self._tensors.gradient_bytes),
            region_bytes=self._meter.region_bytes,
        )

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
            refusals = unit.refusals if once else {NOTHING: "it is called more than once", **unit.refusals}
            joined.append(replace(unit, can_be_region=unit.can_be_region and once, refusals=refusals, follows=follows))
            later |= unit.inputs | here
        return joined[::-1]

    def _with_gradients(self, units: list[UnitProfile]) -> list[UnitProfile]:
        """Count the gradient of each parameter where backward makes it first."""
        seen: set[int] = set()
        found: list[UnitProfile] = []
        for unit in reversed(units):
            module = self._modules.get(unit.path)
            own = [p for p in module.parameters() if p.requires_grad and id(p) not in seen] if module else []
            seen.update(map(id, own))
            found.append(replace(unit, parameter_gradient_bytes=sum(parameter.nbytes for parameter in own)))
        return found[::-1]
