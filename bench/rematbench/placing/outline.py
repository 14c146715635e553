"""Describe a model to placements: its chains of blocks, its modules and its parameters, by path."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from rematbench.placement.outline import Chain, Outline
from rematbench.placing.containers import is_chain
from rematbench.torch_internals import children_of


def outline(model: nn.Module) -> Outline:
    """Describe a model; no forward pass is run."""
    modules = {path: type(module).__name__ for path, module in model.named_modules()}
    found = list(_chains(model))
    outermost = [chain for chain, _, top in found if top]
    composite = [chain for chain, composite, top in found if top and composite]
    chains = tuple(chain for chain, _, _ in found)
    shapes = {path: () if is_lazy(tensor) else tuple(tensor.shape) for path, tensor in model.named_parameters()}
    return Outline(modules=modules, chains=chains, outermost=tuple(composite or outermost), parameters=shapes)


def _chains(module: nn.Module, path: str = "", top: bool = True) -> Iterator[tuple[Chain, bool, bool]]:
    """Yield (chain, whether a block has children of its own, whether it is inside no other chain)."""
    children = children_of(module)
    here = is_chain(module)
    if here:
        classes = tuple(type(child).__name__ for _, child in children)
        yield Chain(path=path, blocks=classes), any(list(child.children()) for _, child in children), top
    for name, child in children:
        yield from _chains(child, f"{path}.{name}" if path else name, top and not here)
