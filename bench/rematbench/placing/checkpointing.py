"""Run a forward under one checkpoint, as the options of a region say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
    set_checkpoint_early_stop,
)

from rematbench.placement.placement import Region
from rematbench.placing.batch_norm import BuffersOnce, Place
from rematbench.placing.policies import load_policy
from rematbench.torch_internals import pytree
from rematbench.workload.devices import is_pinned_for

Forward = Callable[..., Any]
Checkpointer = Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]
"""Calls a forward with positional and keyword arguments, and sees to it that backward recomputes it."""


def checkpointer(region: Region, members: Sequence[nn.Module]) -> Checkpointer:
    """Return what runs the forward of these members as the region's options say.

    Raises:
        PlacementError: the region names a save policy that is not there.
    """
    if region.save == "everything":
        call: Checkpointer = _plain
    else:
        once = BuffersOnce(members) if region.batch_norm == "once" else None
        early_stop = region.early_stop and not _is_scripted(members)
        call = partial(_checkpoint, region, _contexts(region), once, early_stop)
    return partial(_offloaded, call) if region.offload else call


def _is_scripted(members: Sequence[nn.Module]) -> bool:
    return any(isinstance(module, torch.jit.ScriptModule) for member in members for module in member.modules())


def _plain(forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return forward(*args, **kwargs)


def _offloaded(call: Checkpointer, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with save_on_cpu(pin_memory=is_pinned_for(pytree.tree_leaves((args, kwargs)))):
        return call(forward, args, kwargs)


def _contexts(region: Region) -> Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]:
    if region.save == "nothing":
        return noop_context_fn
    return partial(create_selective_checkpoint_contexts, load_policy(region.save))


def _checkpoint(
    region: Region,
    contexts: Callable[[], Any],
    once: BuffersOnce | None,
    early_stop: bool,
    forward: Forward,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Checkpoint one call.

    Every tensor goes in and out as a leaf of its own: the reentrant variant sees no others, and the non-reentrant one
    saves only those through autograd, so a tensor inside a tuple would outlive the enclosing region's forward.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    call = _Call(forward, spec, once)
    variant: dict[str, Any] = {} if region.reentrant else {"context_fn": contexts}
    with set_checkpoint_early_stop(early_stop):
        flat = checkpoint(
            call, *leaves, use_reentrant=region.reentrant, preserve_rng_state=region.preserve_rng, **variant
        )
    return pytree.tree_unflatten(list(flat), call.output_spec)


class _Call:
    """One call of a region: its first run is the forward, every later one a recomputation."""

    def __init__(self, forward: Forward, spec: pytree.TreeSpec, once: BuffersOnce | None) -> None:
        self._forward = forward
        self._spec = spec
        self._once = once
        self._written: list[Place] = []
        self._ran = False
        self.output_spec: pytree.TreeSpec

    def __call__(self, *leaves: Any) -> tuple[Any, ...]:
        args, kwargs = pytree.tree_unflatten(list(leaves), self._spec)
        recomputing, self._ran = self._ran, True
        with self._buffers(recomputing):
            output = self._forward(*args, **kwargs)
        flat, self.output_spec = pytree.tree_flatten(output)
        return tuple(flat)

    def _buffers(self, recomputing: bool) -> AbstractContextManager[None]:
        if self._once is None:
            return nullcontext()
        return self._once.unwritten(self._written) if recomputing else self._once.noting(self._written)
