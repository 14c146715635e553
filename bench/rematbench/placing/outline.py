"""Describe a model to placements: its chains of blocks, its modules and its parameters, by path."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getattr_static

from torch import nn
from torch.nn.parameter import is_lazy

from rematbench.placement.outline import Chain, Outline
from rematbench.torch_internals import children_of

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def outline(model: nn.Module) -> Outline:
    """Describe a model; no forward pass is run."""
    modules = {path: type(module).__name__ for path, module in model.named_modules()}
    found = list(_chains(model))
    outermost = [chain for chain, _, top in found if top]
    composite = [chain for chain, composite, top in found if top and composite]
    chains = tuple(chain for chain, _, _ in found)
    shapes = {path: () if is_lazy(tensor) else tuple(tensor.shape) for path, tensor in model.named_parameters()}
    return Outline(modules=modules, chains=chains, outermost=tuple(composite or outermost), parameters=shapes)


def has_forward(module: nn.Module) -> bool:
    """Tell whether a module can be called; the containers that only list others cannot."""
    # Asked of the class without binding: that of a scripted module has a forward that exists for instances alone.
    return "forward" in vars(module) or getattr_static(type(module), "forward") is not nn.Module.forward


def _chains(module: nn.Module, path: str = "", top: bool = True) -> Iterator[tuple[Chain, bool, bool]]:
    """Yield (chain, whether a block has children of its own, whether it is inside no other chain)."""
    children = children_of(module)
    is_chain = isinstance(module, CONTAINERS) and bool(children)
    if is_chain:
        classes = tuple(type(child).__name__ for _, child in children)
        yield Chain(path=path, blocks=classes), any(list(child.children()) for _, child in children), top
    for name, child in children:
        yield from _chains(child, f"{path}.{name}" if path else name, top and not is_chain)
