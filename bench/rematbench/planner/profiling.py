"""Measure a model's units one at a time, so that a solver can predict any placement from them.

One forward is run in which every unit, the moment it is called, is measured by itself on what it was given: forward,
what it keeps, backward, and again under each save policy. Only one unit's activations are there at a time, so a model
can be profiled on a device that its plain step does not fit on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from rematbench.placing.outline import CONTAINERS
from rematbench.placing.parts import parts
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.planner.profile import Profile, UnitProfile
from rematbench.planner.unit_meter import Bench, Measured, Run, measure_unit, unpacked
from rematbench.solver.schedule import OFFLOAD
from rematbench.torch_internals import StorageReference, children_of, pytree, write_count
from rematbench.traces.timeline import LOSS
from rematbench.workload.step import Workload, batch_tensors, call, clear_gradients, loss_of

POLICIES = ("matmuls",)
"""The save policies that a plan may choose from for single blocks; on a GPU, `offload` too."""


def profile(workload: Workload, device: torch.device) -> Profile:
    """Measure every unit of a model, and the loss as the last of them.

    The model is left as it was but for what a forward changes in it (buffers, random state).
    """
    bench = Bench(device)
    profiler = _Profiler(workload, bench)
    modules = parts(workload.module)
    with shadowed(modules, profiler.around), saved_tensors_hooks(profiler.keep_glue, unpacked):
        output = call(workload)
        profiler.loss(output)
    return profiler.profile(output)


class _Travellers:
    """Numbers the tensors that go from unit to unit, by storage; one seen again has its number."""

    def __init__(self, static: Iterator[torch.Tensor]) -> None:
        self._static = [StorageReference(tensor) for tensor in static]
        self._known = {reference.key for reference in self._static}
        self._references: dict[int, StorageReference] = {}
        self._numbers: dict[int, int] = {}
        self.bytes: list[int] = []
        self.gradient_bytes: list[int] = []

    def number(self, leaf: Any) -> int | None:
        """Return a tensor's number; None for what is no tensor, or there before the step."""
        if not isinstance(leaf, torch.Tensor):
            return None
        reference = StorageReference(leaf)
        if reference.key in self._known:
            return None
        if reference.key not in self._numbers:
            self._references[reference.key] = reference
            self._numbers[reference.key] = len(self.bytes)
            self.bytes.append(leaf.untyped_storage().nbytes())
            self.gradient_bytes.append(0)
        return self._numbers[reference.key]

    def note_gradient(self, leaf: Any, held_bytes: int) -> None:
        """Take down what the gradient holds that a taker gives a tensor; that of a part becomes one of the whole."""
        number = self.number(leaf)
        if number is not None:
            whole = self.bytes[number] if leaf.nbytes < self.bytes[number] else 0
            self.gradient_bytes[number] = max(self.gradient_bytes[number], held_bytes, whole)

    def numbers(self, leaves: Any) -> frozenset[int]:
        return frozenset(number for leaf in leaves if (number := self.number(leaf)) is not None)


@dataclass(kw_only=True)
class _Before:
    """The unit before, as the next one is held against it; the leaves themselves, so that they stay who they are."""

    chain: str | None
    position: int
    outputs: list[Any]
    rest: list[Any]


class _Profiler:
    """Stands in front of every unit during the one forward."""

    def __init__(self, workload: Workload, bench: Bench) -> None:
        self._workload = workload
        self._bench = bench
        module = workload.module
        self._modules = parts(module)
        self._static = (*module.parameters(), *module.buffers(), *batch_tensors(workload.batch).values())
        self._policies = (*POLICIES, OFFLOAD) if bench.can_offload else POLICIES
        self._travellers = _Travellers(iter(self._static))
        self._measuring = False
        self._glue: dict[int, tuple[StorageReference, int]] = {}
        self._before: _Before | None = None
        self.units: list[UnitProfile] = []

    def around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs) if self._measuring else self._unit(path, forward, args, kwargs)

        return run

    def keep_glue(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note what is saved between units; as a hook, it has to return what is to be saved."""
        if not self._measuring and (number := self._travellers.number(tensor.detach())) is not None:
            self._glue.setdefault(number, (StorageReference(tensor), len(self.units)))
        return tensor.detach()

    def _unit(self, path: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        specs: list[Any] = []

        def flat(*values: Any) -> tuple[Any, ...]:
            call_args, call_kwargs = pytree.tree_unflatten(list(values), spec)
            outputs, output_spec = pytree.tree_flatten(forward(*call_args, **call_kwargs))
            specs[:] = [output_spec]
            return tuple(outputs)

        module = self._modules[path]
        run = Run(forward=flat, leaves=tuple(leaves), parameters=tuple(module.parameters()))
        with self._alone():
            versions = [write_count(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
            measured = measure_unit(self._bench, run, self._policies)
            changed = versions != [write_count(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
            with torch.no_grad():
                outputs = list(flat(*leaves))
        ours = {id(leaf) for leaf in leaves}
        outputs = [
            leaf.detach().requires_grad_(at in measured.saved.needing)
            if isinstance(leaf, torch.Tensor) and id(leaf) not in ours
            else leaf
            for at, leaf in enumerate(outputs)
        ]
        first = pytree.tree_leaves(args[:1])
        self._add(path, measured, leaves, outputs, can_be_region=measured.can_be_region and not changed, first=first)
        self._before = self._as_before(path, outputs, leaves[len(first) :])
        return pytree.tree_unflatten(outputs, specs[0])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False

    def loss(self, output: Any) -> None:
        """Measure what makes a loss of the output, as the last unit, and what the model does itself after its last one.

        The output is there as long as whoever runs the step holds it, whether the loss saves it or not.
        """
        leaves, spec = pytree.tree_flatten(output)
        loss_fn = self._workload.loss_fn or loss_of

        def flat(*values: Any) -> tuple[Any, ...]:
            return (loss_fn(pytree.tree_unflatten(list(values), spec)),)

        run = Run(forward=flat, leaves=tuple(leaves), parameters=())
        with self._alone():
            measured = measure_unit(self._bench, run, ())
            end_bytes = self._bench.read_backward(loss_fn(output))
        plain, *_ = measured.ways
        plain = replace(plain, backward_peak_bytes=max(plain.backward_peak_bytes, end_bytes))
        saved = replace(measured.saved, inputs=tuple(range(len(leaves))))
        self._add(LOSS, replace(measured, ways=(plain,), saved=saved), leaves, [], can_be_region=False, first=[])
        clear_gradients(self._workload)

    def _add(
        self, path: str, measured: Measured, leaves: list[Any], outputs: list[Any], *, can_be_region: bool, first: Any
    ) -> None:
        saved = measured.saved
        for at, held_bytes in measured.gradient_bytes.items():
            self._travellers.note_gradient(leaves[at], held_bytes)
        chain, position = self._place(path)
        number = self._travellers.number
        kept = [*(leaves[at] for at in saved.inputs), *(outputs[at] for at in saved.outputs if outputs)]
        given = self._travellers.numbers(outputs)
        self.units.append(
            UnitProfile(
                path=path,
                chain=chain,
                position=position,
                taken=self._travellers.numbers(leaves),
                given=given,
                kept=frozenset(found for leaf in kept if (found := number(leaf)) is not None),
                ways=measured.ways,
                forward_bytes=measured.forward_bytes,
                forward_s=measured.forward_s,
                forward_flops=measured.forward_flops,
                rerun_s=measured.forward_s * saved.early_share,
                rerun_flops=measured.rerun_flops,
                parameter_gradient_bytes=0,
                can_be_region=can_be_region,
                follows=self._follows(path, leaves, first),
            )
        )

    def _place(self, path: str) -> tuple[str | None, int]:
        parent, _, name = path.rpartition(".")
        if path in self._modules:
            container = self._workload.module.get_submodule(parent)
            if isinstance(container, CONTAINERS):
                return parent, [child for child, _ in children_of(container)].index(name)
        return None, -1

    def _as_before(self, path: str, outputs: list[Any], rest: list[Any]) -> _Before:
        chain, position = self._place(path)
        return _Before(chain=chain, position=position, outputs=outputs, rest=rest)

    def _follows(self, path: str, leaves: list[Any], first: list[Any]) -> bool:
        before, (chain, position) = self._before, self._place(path)
        if before is None or chain is None or (chain, position) != (before.chain, before.position + 1):
            return False
        return _same(first, before.outputs) and _same(leaves[len(first) :], before.rest)

    def profile(self, output: Any) -> Profile:
        """Return what was measured, once the forward is over."""
        outputs = self._travellers.numbers(pytree.tree_leaves(output))
        sizes = self._travellers.bytes
        glue = Counter[int]()
        for number, (_, before) in self._glue.items():
            glue[before] += sizes[number]
        makers = {number: at for at, unit in enumerate(self.units) for number in unit.given - unit.taken}
        lasting = Counter[int]()
        for number in outputs:
            lasting[makers.get(number, len(self.units) - 2) + 1] += sizes[number]
        units = self._with_gradients(self._joined(outputs))
        return Profile(
            units=tuple(replace(unit, glue_bytes=glue[at], lasting_bytes=lasting[at]) for at, unit in enumerate(units)),
            tensor_bytes=tuple(0 if number in self._glue else size for number, size in enumerate(sizes)),
            tensor_gradient_bytes=tuple(self._travellers.gradient_bytes),
            region_bytes=self._bench.region_bytes,
        )

    def _joined(self, outputs: frozenset[int]) -> list[UnitProfile]:
        """Part what no region may span: a value used in between, and modules that are called more than once."""
        calls = Counter(unit.path for unit in self.units)
        joined: list[UnitProfile] = []
        for at, unit in enumerate(self.units):
            once = calls[unit.path] == 1
            later = set(outputs).union(*(other.taken for other in self.units[at + 1 :])) - unit.given
            follows = unit.follows and once and not later & unit.taken
            joined.append(replace(unit, can_be_region=unit.can_be_region and once, follows=follows))
        return joined

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


def _same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(a is b or _equal_plain(a, b) for a, b in zip(left, right, strict=True))


def _equal_plain(left: Any, right: Any) -> bool:
    return type(left) is type(right) and isinstance(left, int | float | str | bool | None) and left == right
