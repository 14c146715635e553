"""One unit measured by itself, again and again on its own inputs: memory, what it saves, FLOPs, seconds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from rematbench.measuring.flops import FlopMeter
from rematbench.measuring.meter import Meter, grain_bytes, meter_for
from rematbench.placing.checkpointing import Checkpointer, checkpointer
from rematbench.planner.profile import Way, region_of
from rematbench.solver.schedule import NOTHING, OFFLOAD
from rematbench.torch_internals import storage_key
from rematbench.traces.replay import Reading
from rematbench.workload.devices import clock_for, is_accelerator, random_state, restore_random_state
from rematbench.workload.step import Phases, unmarked

_ROUNDS = 5
"""How often seconds are taken; the median counts."""


class CannotCheckpointError(Exception):
    """The unit, or torch, raised while the unit ran under a checkpoint. Says what; never leaves this file."""


def as_saved(tensor: torch.Tensor) -> torch.Tensor:
    """Unpack a saved tensor that was packed as itself, as `saved_tensors_hooks` asks for."""
    return tensor


class _BeginUnit(torch.autograd.Function):
    """Hands on a unit's inputs as results of an operator, so that their gradients add up as in a real step.

    A leaf's gradient ends in `grad`, copied where it cannot be taken over, as a view or an expanded one
    (torch/csrc/autograd/functions/accumulate_grad.h). Inside a model it goes on to the operator before, uncopied.

    `gradient_bytes`, a list given in, becomes the bytes that each gradient holds: that of a view, as a concatenation
    hands them out, holds the whole storage, which is more than its own elements.
    """

    @staticmethod
    def forward(ctx: Any, gradient_bytes: list[int], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.gradient_bytes = gradient_bytes
        return tuple(_alias(tensor) for tensor in inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        storages: set[int] = set()
        ctx.gradient_bytes[:] = [_held_bytes(gradient, storages) for gradient in gradients]
        return (None,) * (1 + len(gradients))


def _held_bytes(gradient: torch.Tensor | None, seen: set[int]) -> int:
    """Return the bytes of a gradient's storage, the first time that it is seen."""
    if gradient is None or storage_key(gradient) in seen:
        return 0
    seen.add(storage_key(gradient))
    return gradient.untyped_storage().nbytes()


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Return another tensor on the same storage that autograd does not take for a view.

    A custom function that returns its inputs as they are has views as results, and torch refuses to let a unit change
    one of several such views in place.
    """
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    return tensor.new_empty(0).set_(storage, offset, tensor.shape, tensor.stride())


class _EndUnit(torch.autograd.Function):
    """Makes a scalar of a unit's outputs whose backward hands the engine gradients that nobody else holds.

    The gradients of `output.sum()` would be expanded views of one number. In a real step they are whole tensors, freed
    or written into as soon as the unit's backward has read them.
    """

    @staticmethod
    def forward(ctx: Any, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.likes = [(output.shape, output.dtype, output.device) for output in outputs]
        return outputs[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> Any:
        return tuple(torch.ones(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)


@dataclass(kw_only=True)
class UnitCall:
    """A unit's call as something to repeat.

    Attributes:
        forward: takes the leaves of the inputs and returns those of the outputs.
        leaves: of the inputs, as the model gave them.
        members: the unit's module; nothing for the loss.
        gradient_bytes: what the gradients of the leaves in `needing` held in the last backward.
    """

    forward: Callable[..., tuple[Any, ...]]
    leaves: tuple[Any, ...]
    members: tuple[nn.Module, ...]
    gradient_bytes: list[int] = field(default_factory=list)

    @cached_property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(parameter for member in self.members for parameter in member.parameters())

    @cached_property
    def needing(self) -> tuple[int, ...]:
        """Positions of the leaves that require a gradient."""
        return tuple(at for at, leaf in enumerate(self.leaves) if _needs_gradient(leaf))

    def saving(self, save: str) -> Checkpointer:
        """Return what runs the forward as a region over this unit alone does that saves this, once it is applied.

        Batch norm counts once, as in every plan for a model that has some; elsewhere it makes no difference.
        """
        return checkpointer(region_of("", save, "once"), self.members)

    def fresh_leaves(self) -> tuple[Any, ...]:
        leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        if self.needing:
            starts = [leaves[at].requires_grad_() for at in self.needing]
            begun = _BeginUnit.apply(self.gradient_bytes, *starts)  # type: ignore[no-untyped-call]
            for at, tensor in zip(self.needing, begun, strict=True):
                leaves[at] = tensor
        return tuple(leaves)

    def step(self, phases: Phases, checkpointed: Checkpointer | None = None, *, holding: bool = False) -> None:
        """Run forward and backward, as `checkpointed` does if it is given; gradients are dropped at the end.

        Outputs are dropped right after forward unless `holding`, so that only what backward needs is there.

        Raises:
            CannotCheckpointError: the unit or torch raised while it ran under the checkpoint.
        """
        guarded = _as_refusal if checkpointed else nullcontext
        leaves = self.fresh_leaves()
        try:
            with phases("forward"):
                with guarded():
                    outputs = checkpointed(self.forward, leaves, {}) if checkpointed else self.forward(*leaves)
                end = _EndUnit.apply(*_differentiable(outputs))  # type: ignore[no-untyped-call]
                held = outputs if holding else ()
                del outputs
            with phases("backward"):
                del held
                if end.requires_grad:
                    with guarded():
                        end.backward()
        finally:
            for parameter in self.parameters:
                parameter.grad = None


@contextmanager
def _as_refusal() -> Iterator[None]:
    """Tell what a unit under a checkpoint raises from what our own measuring does.

    Its forward runs twice and is held to the same tensors, under dispatch modes of torch's where it saves selectively.
    So anything may come: a `CheckpointError`, an operator without a rule, or an exception of the user's own code.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise CannotCheckpointError(f"{type(error).__name__}: {first_line}".removesuffix(": ")) from error


def _differentiable(outputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """Return the outputs that require a gradient; the first tensor where none does, for something to end in."""
    tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
    return tuple(tensor for tensor in tensors if tensor.requires_grad) or tuple(tensors[:1])


@dataclass(frozen=True, kw_only=True)
class SavedTensors:
    """What autograd saves of one call.

    Attributes:
        inputs, outputs: positions of the saved ones among the leaves of its inputs and of its outputs.
        needing: positions of the outputs that require a gradient; `gradient_bytes` are of these gradients.
        new_bytes: of the storages that the call returns and made itself; `new_saved_bytes` of those that are saved.
        early_share: how much of the call is over when the last tensor is saved.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    needing: tuple[int, ...]
    gradient_bytes: int
    new_bytes: int
    new_saved_bytes: int
    early_share: float


class UnitMeter:
    """Measures single units: with a memory meter, a clock and a FLOP counter, each from the same random state.

    Attributes:
        end_bytes: what the end of a unit takes in its forward, which is nothing of the unit's own.
        region_bytes: what a region keeps besides its input: the generator's state, where that lies in measured memory.
        can_offload: whether there is another memory to offload to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meter: Meter = meter_for(device)
        self._clock = clock_for(device)
        self.can_offload = is_accelerator(device)
        self.end_bytes = max(4, grain_bytes(self._meter))  # one float
        self.region_bytes = 0 if self.can_offload else torch.get_rng_state().nbytes

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Put the random state back on leaving."""
        state = random_state(self._device)
        try:
            yield
        finally:
            restore_random_state(state, self._device)

    def read(self, call: UnitCall, checkpointed: Checkpointer | None = None, *, holding: bool = False) -> Reading:
        """Return what a step allocates."""
        with self.undisturbed():
            return self._meter.read(lambda phases: call.step(phases, checkpointed, holding=holding))

    def read_unsaved(self, call: UnitCall) -> int:
        """Return the peak of a forward that saves nothing, as inside a region.

        Under `no_grad` a unit might go another way; with hooks that let go of what they are given it goes its own.
        """

        def step(phases: Phases) -> None:
            with phases("forward"), saved_tensors_hooks(lambda _tensor: None, as_saved):
                call.forward(*call.fresh_leaves())

        with self.undisturbed():
            return self._meter.read(step).peak_bytes

    def read_backward(self, loss: torch.Tensor) -> int:
        """Return the peak of a backward from a loss to where its graph ends; 0 where there is none."""

        def step(phases: Phases) -> None:
            with phases("forward"):
                pass
            with phases("backward"):
                if loss.requires_grad:
                    loss.backward()

        return self._meter.read(step).peak_bytes

    def saved(self, call: UnitCall) -> SavedTensors:
        """Return what autograd saves, as it hands it to the hooks for saved tensors."""
        storages: set[int] = set()
        last = 0.0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal last
            storages.add(storage_key(tensor))
            last = self._clock()
            # Packing a unit's output as itself would tie a knot: the tensor holds its graph, and that the tensor.
            return tensor.detach()

        with self.undisturbed(), saved_tensors_hooks(pack, as_saved):
            start = self._clock()
            leaves = call.fresh_leaves()
            outputs = call.forward(*leaves)
            stop = self._clock()
        before = {storage_key(leaf) for leaf in (*leaves, *call.parameters) if isinstance(leaf, torch.Tensor)}
        new = {
            storage_key(leaf): leaf.untyped_storage().nbytes()
            for leaf in outputs
            if isinstance(leaf, torch.Tensor) and storage_key(leaf) not in before
        }
        return SavedTensors(
            inputs=tuple(at for at, leaf in enumerate(leaves) if _is_in(leaf, storages)),
            outputs=tuple(at for at, leaf in enumerate(outputs) if _is_in(leaf, storages)),
            needing=tuple(at for at, leaf in enumerate(outputs) if _needs_gradient(leaf)),
            gradient_bytes=sum(leaf.nbytes for leaf in outputs if _needs_gradient(leaf)),
            new_bytes=sum(new.values()),
            new_saved_bytes=sum(size for storage, size in new.items() if storage in storages),
            early_share=min(1.0, max(0.0, last - start) / max(stop - start, 1e-12)),
        )

    def forward_s(self, call: UnitCall) -> float:
        """Return the seconds of a forward, the median over rounds."""
        return median(self._forward_s(call) for _ in range(_ROUNDS))

    def _forward_s(self, call: UnitCall) -> float:
        with self.undisturbed():
            leaves = call.fresh_leaves()
            start = self._clock()
            call.forward(*leaves)
            return self._clock() - start

    def extra_s(self, call: UnitCall, checkpointed: Checkpointer) -> float:
        """Return by how many seconds a step under a checkpoint is longer, the median over pairs."""
        return max(0.0, median(self._step_s(call, checkpointed) - self._step_s(call) for _ in range(_ROUNDS)))

    def _step_s(self, call: UnitCall, checkpointed: Checkpointer | None = None) -> float:
        with self.undisturbed():
            start = self._clock()
            call.step(unmarked, checkpointed)
            return self._clock() - start

    def flops(self, call: UnitCall, checkpointed: Checkpointer | None = None) -> tuple[int, int]:
        """Return what a forward counts, and what a whole step does."""
        counted: list[int] = []
        with self.undisturbed(), FlopMeter() as meter:

            @contextmanager
            def phases(_phase: str) -> Iterator[None]:
                yield
                counted.append(meter.read().flops)

            call.step(phases, checkpointed)
        return counted[0], counted[-1]


def _is_in(leaf: Any, storages: set[int]) -> bool:
    return isinstance(leaf, torch.Tensor) and storage_key(leaf) in storages


def _needs_gradient(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """A unit's numbers, whichever tensors of the model it runs on; units that do the same have the same.

    Attributes:
        ways, forward_bytes, forward_s, forward_flops, rerun_flops, refusals: as in `UnitProfile`.
        gradient_bytes: what the gradient of each input that requires one holds, by its position among the leaves.
    """

    saved: SavedTensors
    ways: tuple[Way, ...]
    gradient_bytes: Mapping[int, int]
    forward_bytes: int
    forward_s: float
    forward_flops: int
    rerun_flops: int
    refusals: Mapping[str, str]


def measure_unit(meter: UnitMeter, call: UnitCall, saves: tuple[str, ...]) -> UnitCosts:
    """Measure a unit plainly, recomputed, and by each save set; what it cannot be run as is told in `refusals`."""
    meter.read(call)  # discarded: the first step of a kernel allocates what none after it does
    saved = meter.saved(call)
    forward_flops, plain_flops = meter.flops(call)
    plain = _plain_way(meter, call, saved)
    gradient_bytes = tuple(call.gradient_bytes)
    refusals: dict[str, str] = {}
    rerun_flops = 0
    ways = [plain]
    if not saved.needing:
        refusals[NOTHING] = "none of its outputs requires a gradient"
    with _noting(refusals, NOTHING):
        rerun_flops = max(0, meter.flops(call, call.saving(NOTHING))[1] - plain_flops)
    for save in saves if NOTHING not in refusals else ():
        with _noting(refusals, save):
            way = _selective_way(meter, call, save, saved, plain_flops)
            if way.saved_bytes < plain.saved_bytes:
                ways.append(way)
    return UnitCosts(
        saved=saved,
        ways=tuple(ways),
        gradient_bytes=dict(zip(call.needing, gradient_bytes, strict=False)),
        forward_bytes=meter.read_unsaved(call),
        forward_s=meter.forward_s(call),
        forward_flops=forward_flops,
        rerun_flops=rerun_flops,
        refusals=refusals,
    )


@contextmanager
def _noting(refusals: dict[str, str], save: str) -> Iterator[None]:
    """Note why a unit cannot be run so; every way fails by itself."""
    try:
        yield
    except CannotCheckpointError as error:
        refusals.setdefault(save, str(error))
    else:
        return
    # A traceback holds the unit's tensors in a cycle, and their release would be part of what is metered next.
    gc.collect()


def _plain_way(meter: UnitMeter, call: UnitCall, saved: SavedTensors) -> Way:
    reading = meter.read(call)
    return Way(
        save="everything",
        # What is saved of the outputs is a boundary tensor's to count.
        saved_bytes=reading.held_bytes - meter.end_bytes - saved.new_saved_bytes,
        forward_peak_bytes=reading.phase_peak_bytes["forward"] - meter.end_bytes,
        backward_peak_bytes=_backward_peak(reading, saved),
    )


def _selective_way(meter: UnitMeter, call: UnitCall, save: str, saved: SavedTensors, plain_flops: int) -> Way:
    checkpointed = call.saving(save)
    # A policy's cache holds tensors that no hook sees. Whether the outputs are among them shows in the difference: a
    # step that holds its outputs holds no more than one that drops them.
    reading, holding = meter.read(call, checkpointed), meter.read(call, checkpointed, holding=True)
    saved_of_outputs = saved.new_bytes - (holding.held_bytes - reading.held_bytes)
    whole = bool(saved.new_bytes) and saved_of_outputs == saved.new_bytes
    _, flops = meter.flops(call, checkpointed)
    # Offloading recomputes nothing, so that it keeps no random state.
    region_bytes = 0 if save == OFFLOAD else meter.region_bytes
    return Way(
        save=save,
        saved_bytes=reading.held_bytes - meter.end_bytes - region_bytes - (saved_of_outputs if whole else 0),
        saves_outputs=whole,
        forward_peak_bytes=reading.phase_peak_bytes["forward"] - meter.end_bytes,
        backward_peak_bytes=_backward_peak(reading, saved),
        recompute_s=meter.extra_s(call, checkpointed),
        recompute_flops=max(0, flops - plain_flops),
    )


def _backward_peak(reading: Reading, saved: SavedTensors) -> int:
    """Return the peak above what is there when backward begins: what is held, and the gradients of the outputs."""
    return max(0, reading.phase_peak_bytes["backward"] - reading.held_bytes - saved.gradient_bytes)
