"""One unit's call, cut out of its model: a step of it alone that allocates what it does in a real one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from rematbench.measuring.state import State
from rematbench.placing.checkpointing import Checkpointer, checkpointer
from rematbench.planner.profile import region_of
from rematbench.torch_internals import outside_autocast, storage_key
from rematbench.workload.step import Phases, Workload


class UnitError(Exception):
    """The unit, or torch, raised while the unit ran cut out of its model. Says what; never leaves this room."""


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
    def forward(ctx: Any, uneven: bool, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.likes = [(output.shape, output.dtype, output.device) for output in outputs]
        ctx.uneven = uneven
        return outputs[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> Any:
        made = _uneven if ctx.uneven else torch.ones
        return None, *(made(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)


def _uneven(shape: torch.Size, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a gradient for an output; one that is the same everywhere vanishes in a normalisation's backward."""
    return torch.linspace(-1, 1, shape.numel(), device=device).reshape(shape).to(dtype)


@dataclass(kw_only=True)
class UnitCall:
    """A unit's call as something to repeat.

    Attributes:
        forward: takes the leaves of the inputs and returns those of the outputs.
        leaves: of the inputs, as the model gave them.
        members: the unit's module; nothing for the loss.
        gradient_bytes: what the gradients of the leaves in `needing` held in the last backward.
        start: what a run may change, as it was before the first; None until it is asked for.
    """

    forward: Callable[..., tuple[Any, ...]]
    leaves: tuple[Any, ...]
    members: tuple[nn.Module, ...]
    gradient_bytes: list[int] = field(default_factory=list)
    start: State | None = None

    def start_on(self, device: torch.device) -> State:
        """Return what to put back after a run: buffers and attributes, the inputs' elements, the random states."""
        if self.start is None:
            module = nn.ModuleList(self.members)
            self.start = State(Workload(module=module, batch=self.leaves), device, weights=False)
        return self.start

    @cached_property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(parameter for member in self.members for parameter in member.parameters())

    @cached_property
    def needing(self) -> tuple[int, ...]:
        """Positions of the leaves that require a gradient."""
        return tuple(at for at, leaf in enumerate(self.leaves) if needs_gradient(leaf))

    def saving(self, save: str) -> Checkpointer:
        """Return what runs the forward as a region over this unit alone does that saves this, once it is applied.

        Batch norm counts once, as in every plan for a model that has some; elsewhere it makes no difference.
        """
        return checkpointer(region_of("", save, "once"), self.members)

    def fresh_leaves(self) -> tuple[Any, ...]:
        return begun_with(self.leaves, self.needing, self.gradient_bytes)

    def run(self, leaves: tuple[Any, ...], checkpointed: Checkpointer | None = None) -> tuple[Any, ...]:
        """Return the outputs for these inputs.

        Raises:
            UnitError: the unit or torch raised.
        """
        with as_unit_error():
            return checkpointed(self.forward, leaves, {}) if checkpointed else self.forward(*leaves)

    def step(self, phases: Phases, checkpointed: Checkpointer | None = None, *, casts: bool = False) -> None:
        """Run forward and backward, as `checkpointed` does if it is given; gradients are dropped at the end.

        Outputs are dropped right after forward, so that only what backward needs is there; and so are the copies that
        autocast keeps unless `casts`. Backward runs outside of the model's autocast, as in a real step.

        Raises:
            UnitError: the unit or torch raised.
        """
        leaves = self.fresh_leaves()
        try:
            with phases("forward"):
                outputs = self.run(leaves, checkpointed)
                end = end_of(outputs)
                del outputs
                if not casts:
                    torch.clear_autocast_cache()
            with phases("backward"), outside_autocast(end.device):
                if end.requires_grad:
                    with as_unit_error():
                        end.backward()
        finally:
            for parameter in self.parameters:
                parameter.grad = None


def begun_with(leaves: Iterable[Any], needing: Collection[int], gradient_bytes: list[int]) -> tuple[Any, ...]:
    """Return the same values cut off from their graph; those at `needing` require a gradient.

    These are no leaves of the new graph, for what comes next may change them in place, as it may in a real step.

    Args:
        gradient_bytes: becomes the bytes that the gradient of each of those held in backward.
    """
    values = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    if needing:
        starts = [values[at].requires_grad_() for at in needing]
        begun = _BeginUnit.apply(gradient_bytes, *starts)  # type: ignore[no-untyped-call]
        for at, tensor in zip(needing, begun, strict=True):
            values[at] = tensor
    return tuple(values)


@contextmanager
def as_unit_error() -> Iterator[None]:
    """Tell what a unit raises from what our own measuring does.

    Cut out of its graph it may miss what the model does around it. Under a checkpoint its forward runs twice and is
    held to the same tensors, under dispatch modes of torch's where it saves selectively. So anything may come: a
    `CheckpointError`, an operator without a rule, or an exception of the user's own code.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise UnitError(f"{type(error).__name__}: {first_line}".removesuffix(": ")) from error


def end_of(outputs: tuple[Any, ...], *, uneven: bool = False) -> torch.Tensor:
    """Return what a backward may begin with; `uneven` gives the outputs gradients that nothing makes vanish."""
    end: torch.Tensor = _EndUnit.apply(uneven, *_differentiable(outputs))  # type: ignore[no-untyped-call]
    return end


def _differentiable(outputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """Return the outputs that require a gradient; the first tensor where none does, for something to end in."""
    tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
    return tuple(tensor for tensor in tensors if tensor.requires_grad) or tuple(tensors[:1])


def needs_gradient(leaf: Any) -> bool:
    """Tell whether a leaf of inputs or outputs is a tensor that requires a gradient."""
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad
