"""Record what tells why a model's step takes its memory: a few steps, traced, and whose memory it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate as running_sums
from math import inf
from typing import Any

import torch
from torch import nn

from rematbench.errors import DeviceError, PlacementError
from rematbench.inspecting.caches import tensors_in
from rematbench.inspecting.inspect import forward_once
from rematbench.measuring.session import Session
from rematbench.placement.placement import PLAIN, Placement
from rematbench.placing.apply import Handle, applied
from rematbench.placing.containers import every_module, is_compiled
from rematbench.placing.parts import parts
from rematbench.placing.placeholder import Placeholder
from rematbench.placing.region import RegionRun
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.records.evidence import (
    Evidence,
    LossInput,
    ParameterFacts,
    RegionFacts,
    Static,
    StepEnd,
    Stored,
)
from rematbench.torch_internals import StorageReference, pytree, storage_key
from rematbench.traces.timeline import LOSS
from rematbench.traces.trace import AllocationTrace
from rematbench.workload.building import optimizer_tensors
from rematbench.workload.step import Workload, batch_tensors, call, forward_loss, loss_from

_STEPS = 3
_PLAIN_STEP = Placement(name=PLAIN)
_MODULE_S = frozenset(vars(nn.Module())) | {"forward"}
"""What every module has, and what stands in front of its forward; the rest of its attributes is the model's own."""


def evidence_of(session: Session, placement: Placement, *, accumulate: int = 1) -> Evidence:
    """Run a plain step, steps under a placement, and three of them in a row; the state is put back.

    Raises:
        ModelError: nothing in the step needs a gradient.
        PlacementError: the placement does not fit the model.
        DeviceError: the device does not tell which module allocated what.
    """
    workload = session.workload
    forward_once(session)
    plain = _traced(session, _PLAIN_STEP)
    reached = _reached(workload)
    placed, reached_in_regions = plain, reached
    if placement.regions or placement.compile_budget is not None:
        _refuse_lost_loss(session, placement)
        placed = _traced(session, placement)
        reached_in_regions = _reached(workload)
    session.fresh()
    with applied(workload.module, placement) as handle:
        seen = _watched_forward(workload, handle)
    steps = tuple(_step_ends(session, placement, accumulate))
    session.fresh()
    return Evidence(
        plain=plain,
        placed=placed,
        regions=seen.regions,
        parts=tuple(parts(workload.module)),
        static=static_of(workload),
        parameters=tuple(
            ParameterFacts(
                path=path,
                bytes=parameter.untyped_storage().nbytes(),
                is_trained=parameter.requires_grad,
                is_reached=path in reached,
                is_reached_in_regions=path in reached_in_regions,
            )
            for path, parameter in workload.module.named_parameters()
        ),
        loss_input=seen.loss_input,
        stored=seen.stored,
        steps=steps,
        accumulate=accumulate,
    )


def static_of(workload: Workload) -> Static:
    """Say what is there before the step, each storage once, told by the first group that has it."""
    module, optimizer = workload.module, workload.optimizer
    attributes = (tensor for each in module.modules() for tensor in tensors_in(_own_attributes(each), set()))
    groups = {
        "parameter_bytes": module.parameters(),
        "buffer_bytes": module.buffers(),
        "batch_bytes": batch_tensors(workload.batch).values(),
        "optimizer_bytes": optimizer_tensors(optimizer) if optimizer else (),
        "attribute_bytes": attributes,
    }
    sizes: dict[int, int] = {}
    sums = dict.fromkeys(groups, 0)
    for name, tensors in groups.items():
        for tensor in tensors:
            if tensor.layout == torch.strided and storage_key(tensor) not in sizes:
                sizes[storage_key(tensor)] = tensor.untyped_storage().nbytes()
                sums[name] += sizes[storage_key(tensor)]
    return Static(**sums, sizes=tuple(size for size in sizes.values() if size))


def _traced(session: Session, placement: Placement) -> AllocationTrace:
    trace = session.trace(placement, every=True)
    if trace is None:
        raise DeviceError(
            "this device's allocator does not tell which module allocated what: ask on the CPU, whose bytes are alike"
        )
    return trace


def _refuse_lost_loss(session: Session, placement: Placement) -> None:
    session.fresh()
    with applied(session.workload.module, placement):
        _, loss = forward_loss(session.workload)
    if not loss.requires_grad:
        raise PlacementError(
            f"under {placement.name} no gradient reaches any parameter: a reentrant region whose inputs need none "
            f"gives none, as behind a frozen embedding; take reentrant=false, the default, or "
            f"model.enable_input_require_grads() in transformers"
        )


def _reached(workload: Workload) -> frozenset[str]:
    return frozenset(path for path, each in workload.module.named_parameters() if each.grad is not None)


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _MODULE_S}


# --- one forward, watched


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one forward under a placement shows."""

    regions: tuple[RegionFacts, ...]
    loss_input: LossInput | None
    stored: tuple[Stored, ...]


@dataclass(kw_only=True)
class _Storages:
    """Storages by key; each belongs to one as long as it is noted here, though its memory may be gone."""

    noted: dict[int, StorageReference] = field(default_factory=dict)

    def note(self, values: Any) -> Iterator[torch.Tensor]:
        """Note every tensor in a structure; yield those whose storage was not noted before."""
        for leaf in pytree.tree_leaves(values):
            # What stands for a value inside a region has no memory, and refuses to be asked.
            if not isinstance(leaf, torch.Tensor) or isinstance(leaf, Placeholder) or leaf.layout != torch.strided:
                continue
            try:
                reference = StorageReference(leaf)
            except RuntimeError:  # a tensor of a kind of its own, such as those of `torch.func`
                continue
            if reference.key not in self.noted:
                self.noted[reference.key] = reference
                yield leaf


@dataclass(kw_only=True)
class _Crossed(_Storages):
    """What went through the borders of one region."""

    calls: int = 0
    output_bytes: int = 0
    passes_gradient: bool = False

    def into(self, values: Any) -> None:
        self.calls += 1
        for _ in self.note(values):
            pass

    def out_of(self, values: Any) -> None:
        leaves = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]
        self.passes_gradient = self.passes_gradient or any(leaf.requires_grad for leaf in leaves)
        self.output_bytes += sum(leaf.untyped_storage().nbytes() for leaf in self.note(values))


@dataclass(frozen=True, kw_only=True)
class _Returned:
    """A tensor that a module returned and no module inside it, without the tensor."""

    path: str
    key: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    input_bytes: int


def _watched_forward(workload: Workload, handle: Handle) -> _Seen:
    """Run a forward in regions and see what crosses their borders, what the loss is taken of and what is stored."""
    model = workload.module
    named = dict(model.named_modules(remove_duplicate=False))
    crossed = {region.title: _Crossed() for region in handle.regions}
    first = {id(named[region.names[0]]): crossed[region.title] for region in handle.regions}
    last = {id(named[region.names[-1]]): crossed[region.title] for region in handle.regions}
    results, returned = _Storages(), dict[int, _Returned]()

    def around(path: str, forward: Forward) -> Forward:
        this = id(named[path])

        def run(*args: Any, **kwargs: Any) -> Any:
            if this in first:
                first[this].into((args, kwargs))
            output = forward(*args, **kwargs)
            if this in last:
                last[this].out_of(output)
            for leaf in results.note(output):
                if leaf.ndim and leaf.requires_grad:
                    returned[storage_key(leaf)] = _described(path, leaf, (args, kwargs))
            return output

        return run

    before = _Storages()
    static = [*model.parameters(), *model.buffers(), *batch_tensors(workload.batch).values()]
    kept = [tensor for module in model.modules() for tensor in tensors_in(_own_attributes(module), set())]
    ours = list(before.note([static, kept]))
    del kept, ours
    is_on_cpu = all(tensor.is_cpu for tensor in static)
    with shadowed({} if is_compiled(model) else every_module(model), around):
        output = call(workload)
        loss = loss_from(workload, output)
    for _ in before.note([loss, list(model.buffers())]):
        pass
    loss_input = _loss_input(output, returned)
    borders = {key for each in crossed.values() for key in each.noted}
    beside = borders | set(before.noted) | ({loss_input.key} if loss_input else set())
    return _Seen(
        regions=tuple(_facts(region, crossed[region.title], named, is_on_cpu) for region in handle.regions),
        loss_input=_as_facts(loss_input, named),
        stored=tuple(sorted(_stored(model, output, beside), key=lambda each: -each.bytes)),
    )


def _described(path: str, tensor: torch.Tensor, inputs: Any = ()) -> _Returned:
    leaves = {id(leaf): leaf for leaf in pytree.tree_leaves(inputs) if _is_loss_input(leaf)}
    return _Returned(
        path=path,
        key=storage_key(tensor),
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        bytes=tensor.untyped_storage().nbytes(),
        input_bytes=sum(leaf.nbytes for leaf in leaves.values()),
    )


def _facts(region: RegionRun, crossed: _Crossed, named: dict[str, nn.Module], is_on_cpu: bool) -> RegionFacts:
    # What a checkpoint keeps of a processor's generator lies in the memory that is told there.
    states = torch.get_rng_state().nbytes if is_on_cpu else 0
    # Memory is told by a module's first path, whatever the placement calls it.
    paths = {id(module): path for path, module in reversed(named.items())}
    return RegionFacts(
        title=region.title,
        members=tuple(paths[id(named[name])] for name in region.names),
        kind=", ".join(dict.fromkeys(type(named[name]).__name__ for name in region.names)),
        saves=region.region.save != "nothing" or region.region.offload,
        border_bytes=crossed.output_bytes + crossed.calls * (states if region.region.preserve_rng else 0),
        passes_gradient=crossed.passes_gradient,
    )


def _loss_input(output: Any, returned: dict[int, _Returned]) -> _Returned | None:
    """Return what the loss is taken of: the model's logits or its one output; of several the one a module made last.

    Where only a loss is returned, it is what the last module returned.
    """
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    leaves = [leaf for leaf in pytree.tree_leaves(output if logits is None else logits) if _is_loss_input(leaf)]
    if leaves:
        keys = [storage_key(leaf) for leaf in leaves]
        found = [each for key, each in returned.items() if key in keys]
        return found[-1] if found else _described("", leaves[0])
    return next(reversed(returned.values()), None)


def _is_loss_input(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided and leaf.ndim > 0 and leaf.requires_grad


def _as_facts(found: _Returned | None, named: dict[str, nn.Module]) -> LossInput | None:
    if found is None:
        return None
    weights = (each for each in named[found.path].parameters() if each.requires_grad) if found.path else ()
    return LossInput(
        path=found.path,
        shape=found.shape,
        dtype=found.dtype,
        bytes=found.bytes,
        gradient_bytes=found.input_bytes + sum(each.nbytes for each in weights),
    )


def _stored(model: nn.Module, output: Any, beside: set[int]) -> Iterator[Stored]:
    """Yield what the forward leaves in attributes of modules and in the model's output, each storage once."""
    fields = dict(output) if isinstance(output, Mapping) else {}
    if isinstance(output, tuple | list):
        fields = {f"[{number}]": value for number, value in enumerate(output)}
    places = [(f"output{name}" if name[:1] == "[" else f"output.{name}", value, True) for name, value in fields.items()]
    for path, module in model.named_modules():
        for name, value in _own_attributes(module).items():
            places.append((f"{path}.{name}" if path else name, value, False))
    seen = set(beside)
    for name, value, is_output in places:
        found: dict[int, int] = {}
        for tensor in tensors_in(value, set()):
            if tensor.layout == torch.strided and storage_key(tensor) not in seen:
                found[storage_key(tensor)] = tensor.untyped_storage().nbytes()
        seen |= set(found)
        if sum(found.values()):
            yield Stored(name=name, bytes=sum(found.values()), is_output=is_output)


# --- steps in a row


def _step_ends(session: Session, placement: Placement, accumulate: int) -> Iterator[StepEnd]:
    """Yield what each of a few steps in a row came to; nothing where the meter cannot tell who allocated what."""
    base = 0
    for readings in session.in_a_row(placement, steps=_STEPS, accumulate=accumulate):
        traces = [reading.trace for reading in readings if reading.trace is not None]
        if len(traces) < len(readings):
            return
        ends = [trace.sums[-1] for trace in traces]
        starts = [base + start for start in running_sums([0, *ends[:-1]])]
        yield StepEnd(
            peak_bytes=max(start + reading.peak_bytes for start, reading in zip(starts, readings, strict=True)),
            left_bytes=sum(ends),
            batch_left_bytes=tuple(ends[:-1]),
            left_by=_left_by(traces),
        )
        base += sum(ends)


def _left_by(traces: Iterable[AllocationTrace]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for trace in traces:
        for lifetime in trace.lifetimes:
            if lifetime.freed_at == inf:
                sums[LOSS if lifetime.module is None else lifetime.module] += lifetime.size_bytes
    return {module: size for module, size in sums.items() if size > 0}
