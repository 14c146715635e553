"""What a model offers to a placement: its chains of blocks and its module paths, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import getattr_static

from torch import nn
from torch.nn.parameter import is_lazy

from bench.placing.fingerprint import fingerprint

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A container whose children run one after the other; `blocks` names the children's classes."""

    path: str
    blocks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    def __str__(self) -> str:
        """Return `encoder.layers[0:6] × Layer`, or the classes there are."""
        classes = ", ".join(dict.fromkeys(self.blocks))
        return f"{self.path}[0:{len(self)}] × {classes}"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model as a placement sees it.

    Attributes:
        modules: class name by module path, in registration order, the model itself (`""`) first.
        chains: every container that is not empty, in registration order.
        outermost: the chains that strategies act on: those inside no other; chains of bare layers only where there is
            nothing else, so that a head written as a `Sequential` is not taken for a stack of blocks.
        parameters: shape by parameter path, in registration order; `()` for one not initialised yet.
    """

    modules: dict[str, str]
    chains: tuple[Chain, ...]
    outermost: tuple[Chain, ...]
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """What a placement for this model may carry, to be refused on any other: `Placement.fingerprint`."""
        return fingerprint(self.modules, self.parameters)


def outline(model: nn.Module) -> Outline:
    """Describe a model; no forward pass is run."""
    modules = {path: type(module).__name__ for path, module in model.named_modules()}
    found = list(_chains(model))
    outermost = [chain for chain, _, top in found if top]
    composite = [chain for chain, composite, top in found if top and composite]
    chains = tuple(chain for chain, _, _ in found)
    shapes = {path: () if is_lazy(tensor) else tuple(tensor.shape) for path, tensor in model.named_parameters()}
    return Outline(modules=modules, chains=chains, outermost=tuple(composite or outermost), parameters=shapes)


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a module's children with their names; one registered twice stands twice, unlike in `named_children`."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


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
