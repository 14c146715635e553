"""One training step of a model, cut into its phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rematbench.errors import ModelError
from rematbench.torch_internals import pytree
from rematbench.traces.timeline import Phase

Batch = tuple[Any, ...] | Mapping[str, Any]
Phases = Callable[[Phase], AbstractContextManager[Any]]
"""What a meter offers: `with phases("forward"): …` marks where a phase begins and ends."""


def unmarked(_phase: Phase) -> AbstractContextManager[Any]:
    """Mark nothing: the phases of a step that nobody meters."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one step works on.

    Attributes:
        batch: positional arguments as a tuple, or keyword arguments as a mapping.
        loss_fn: from output to scalar loss; None for the rule of `loss_of`.
        optimizer: stepped at the end of every step; None leaves it out.
    """

    module: nn.Module
    batch: Batch
    loss_fn: Callable[[Any], torch.Tensor] | None = None
    optimizer: torch.optim.Optimizer | None = None


def training_step(workload: Workload, phases: Phases = unmarked) -> torch.Tensor:
    """Run forward, backward and, if there is one, the optimizer; return the loss, detached.

    The output stays alive to the end of the step, as in the usual training loop. Gradients are added to what is there.
    """
    with phases("forward"):
        output, loss = forward_loss(workload)
    with phases("backward"):
        loss.backward()
    if workload.optimizer is not None:
        with phases("optimizer"):
            workload.optimizer.step()
    del output
    return loss.detach()


def forward_loss(workload: Workload) -> tuple[Any, torch.Tensor]:
    """Run the forward phase; return the model's output and the loss."""
    output = call(workload)
    return output, loss_from(workload, output)


def call(workload: Workload) -> Any:
    """Run the model on the batch; return its output."""
    batch = workload.batch
    return workload.module(**batch) if isinstance(batch, Mapping) else workload.module(*batch)


def loss_from(workload: Workload, output: Any) -> torch.Tensor:
    """Return the loss of an output, by the workload's own function or the rule of `loss_of`."""
    return workload.loss_fn(output) if workload.loss_fn else loss_of(output)


def loss_of(output: Any) -> torch.Tensor:
    """Return a loss for a model that names none.

    The output itself if it is a real scalar tensor, else its `loss`, else the mean of squares over every floating
    tensor in it, all of them together; of complex numbers the squares of their magnitudes.

    Raises:
        ModelError: there is no floating tensor in the output.
    """
    if isinstance(output, torch.Tensor) and output.ndim == 0 and not output.is_complex():
        return output
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, torch.Tensor):
        return named
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    tensors = [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]
    if not tensors:
        raise ModelError(
            f"the model returned a {type(output).__name__} without a floating tensor: return a loss_fn from build"
        )
    squares = torch.stack([_real(tensor).square().sum() for tensor in tensors])
    return squares.sum() / sum(tensor.numel() for tensor in tensors)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def batch_tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch by a name a person can find them by: `batch[0]`, `batch['input_ids']`."""
    leaves, _ = pytree.tree_flatten_with_path(dict(batch) if isinstance(batch, Mapping) else batch)
    return {f"batch{pytree.keystr(path)}": leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}


def clear_gradients(workload: Workload) -> None:
    """Set the gradients of the parameters and of the batch to None."""
    workload.module.zero_grad(set_to_none=True)
    for tensor in batch_tensors(workload.batch).values():
        tensor.grad = None
