"""Apply a placement to one model instance, and undo it.

Each region replaces the `forward` of its members as an instance attribute, so parameter names, `state_dict` and the
hooks around a member stay what they were. The first member, when called, runs the whole region under one
`torch.utils.checkpoint.checkpoint`; the others, called in turn by a loop that is not ours, hand its result on, and
check on every call that the loop gave them exactly that. So a region over neighbours needs no rewriting of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
    set_checkpoint_early_stop,
)

from bench.errors import PlacementError
from bench.placing.placement import Placement, Region
from bench.placing.policies import load_policy
from bench.placing.sites import Site, covered_modules, find_sites
from bench.placing.statistics import batch_norms, frozen_statistics

Forward = Callable[..., Any]


class Handle:
    """A placement in force; `remove()` restores the model exactly, and does nothing the second time.

    Attributes:
        blocks: paths of the modules that are recomputed, outermost only.
    """

    def __init__(self, blocks: tuple[str, ...]) -> None:
        self.blocks = blocks
        self._shadowed: list[tuple[nn.Module, Forward | None]] = []

    def shadow(self, module: nn.Module, forward: Forward) -> None:
        """Put `forward` in front of the module's own, remembering an instance attribute that was there."""
        self._shadowed.append((module, module.__dict__.get("forward")))
        module.forward = forward

    def remove(self) -> None:
        """Give every member its own forward back, last replaced first."""
        while self._shadowed:
            module, previous = self._shadowed.pop()
            if previous is None:
                del module.forward
            else:
                module.forward = previous


def apply(model: nn.Module, placement: Placement) -> Handle:
    """Put a placement in force on this instance until `Handle.remove`.

    Raises:
        PlacementError: a region matches nothing, overlaps another, or cannot be built; the model is then untouched.
    """
    sites = find_sites(model, placement)
    handle = Handle(covered_modules(sites))
    for site, run in [(site, _RegionRun(site)) for site in sites]:
        handle.shadow(site.members[0], run)
        for position in range(1, len(site.members)):
            handle.shadow(site.members[position], _HandOn(run, position))
    return handle


@contextmanager
def applied(model: nn.Module, placement: Placement) -> Iterator[Handle]:
    """Hold a placement in force for the length of a `with` block."""
    handle = apply(model, placement)
    try:
        yield handle
    finally:
        handle.remove()


class _Due(NamedTuple):
    """The call a region is waiting for: which member's, and what it has to be given."""

    position: int
    output: Any
    rest: tuple[Any, ...]
    keywords: dict[str, Any]
    versions: list[int]


class _RegionRun:
    """A region at work: stands as the forward of its first member and runs them all under one checkpoint."""

    def __init__(self, site: Site) -> None:
        if len(site.members) > 1:
            _refuse_hooks(site)
        self.names = site.names
        self._checkpointed = _checkpointer(site.region, batch_norms(site.members))
        self._steps = _steps(site)
        self._due: _Due | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._due = None
        output = self.inline(*args, **kwargs)
        if len(self.names) > 1:
            self._due = _Due(1, output, args[1:], kwargs, _versions((output, args[1:], kwargs)))
        return output

    def inline(self, *args: Any, **kwargs: Any) -> Any:
        """Run the region where nobody calls its other members: inside a larger region."""
        if not torch.is_grad_enabled():
            return self._run(*args, **kwargs)
        return self._checkpointed(self._run, args, kwargs)

    def hand_on(self, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer the call to a later member with the region's result, if the call is the one assumed."""
        due, self._due = self._due, None
        name, before = self.names[position], self.names[position - 1]
        if due is None or position != due.position:
            raise PlacementError(
                f"{name} was called out of turn: its region assumes that it follows {before} in every step"
            )
        if not args or not _same(args[0], due.output):
            raise PlacementError(f"{name} did not get what {before} returned: end the region before {name}")
        if not _same(args[1:], due.rest) or not _same(kwargs, due.keywords):
            raise PlacementError(
                f"{name} got other further arguments than {self.names[0]}: end the region before {name}"
            )
        if _versions((due.output, due.rest, due.keywords)) != due.versions:
            raise PlacementError(f"{name} got a tensor changed in place after {before}: end the region before {name}")
        if position < len(self.names) - 1:
            self._due = due._replace(position=position + 1)
        return due.output

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        value, *rest = args if args else (None,)
        first, *others = self._steps
        value = first(*args, **kwargs)
        for step in others:
            value = step(value, *rest, **kwargs)
        return value


class _HandOn:
    """Stands as the forward of a region's later member."""

    def __init__(self, run: _RegionRun, position: int) -> None:
        self._run = run
        self._position = position

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run.hand_on(self._position, args, kwargs)


def _steps(site: Site) -> list[Forward]:
    """Return what a region runs, in order: inner regions of the same chain, and the other members' own forwards."""
    steps: list[Forward] = []
    position = site.start
    for inner in site.inner:
        steps += [member.forward for member in site.members[position - site.start : inner.start - site.start]]
        steps.append(_RegionRun(inner).inline)
        position = inner.stop
    return steps + [member.forward for member in site.members[position - site.start :]]


def _refuse_hooks(site: Site) -> None:
    for name, member in zip(site.names, site.members, strict=True):
        if member._forward_hooks or member._forward_pre_hooks or member._backward_hooks or member._backward_pre_hooks:
            raise PlacementError(
                f"region {site.region.path!r}: {name} has hooks of its own, which would see the whole region's values; "
                f"give it a region of its own"
            )


def _same(left: Any, right: Any) -> bool:
    """Tell whether two argument structures are the same objects, leaf by leaf."""
    left_leaves, left_spec = pytree.tree_flatten(left)
    right_leaves, right_spec = pytree.tree_flatten(right)
    return left_spec == right_spec and all(
        a is b or _equal_plain(a, b) for a, b in zip(left_leaves, right_leaves, strict=True)
    )


def _versions(values: Any) -> list[int]:
    """Return how often each tensor in a structure was written to; where torch does not count, neither does this."""
    tensors = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _equal_plain(left: Any, right: Any) -> bool:
    return type(left) is type(right) and isinstance(left, int | float | str | bool) and left == right


def _checkpointer(region: Region, norms: list[nn.Module]) -> Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]:
    """Return what runs a forward as this region's options say."""
    if region.save == "everything":
        call = _plain
    else:
        call = partial(_checkpoint, region, _contexts(region), norms if region.batch_norm == "once" else [])
    return partial(_offloaded, call) if region.offload else call


def _plain(forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return forward(*args, **kwargs)


def _offloaded(call: Callable[..., Any], forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return call(forward, args, kwargs)


def _contexts(region: Region) -> Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]:
    if region.save == "nothing":
        return noop_context_fn
    return partial(create_selective_checkpoint_contexts, load_policy(region.save))


def _checkpoint(
    region: Region,
    contexts: Callable[[], Any],
    norms: list[nn.Module],
    forward: Forward,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Checkpoint one call.

    Every tensor goes in and out as a leaf of its own: the reentrant variant sees no others, and the non-reentrant one
    saves only those through autograd, so a tensor inside a tuple would outlive the enclosing region's forward.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    call = _Call(forward, spec, norms)
    variant: dict[str, Any] = {} if region.reentrant else {"context_fn": contexts}
    with set_checkpoint_early_stop(region.early_stop):
        flat = checkpoint(
            call, *leaves, use_reentrant=region.reentrant, preserve_rng_state=region.preserve_rng, **variant
        )
    return pytree.tree_unflatten(list(flat), call.output_spec)


class _Call:
    """One call of a region: its first run is the forward, every later one a recomputation."""

    def __init__(self, forward: Forward, spec: pytree.TreeSpec, norms: list[nn.Module]) -> None:
        self._forward = forward
        self._spec = spec
        self._norms = norms
        self._ran = False
        self.output_spec: pytree.TreeSpec

    def __call__(self, *leaves: Any) -> tuple[Any, ...]:
        args, kwargs = pytree.tree_unflatten(list(leaves), self._spec)
        recomputing, self._ran = self._ran, True
        with frozen_statistics(self._norms) if recomputing else nullcontext():
            output = self._forward(*args, **kwargs)
        flat, self.output_spec = pytree.tree_flatten(output)
        return tuple(flat)
