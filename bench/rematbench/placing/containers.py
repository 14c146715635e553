"""Which modules list others: containers, whose children may be blocks of a chain."""

from __future__ import annotations

from inspect import getattr_static

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from rematbench.torch_internals import children_of

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_chain(module: nn.Module) -> bool:
    """Tell whether a module is a container with blocks in it; what makes a weight of a parametrization is none."""
    return isinstance(module, CONTAINERS) and not isinstance(module, ParametrizationList) and bool(children_of(module))


def has_forward(module: nn.Module) -> bool:
    """Tell whether a module can be called; the containers that only list others cannot."""
    # Asked of the class without binding: that of a scripted module has a forward that exists for instances alone.
    return "forward" in vars(module) or getattr_static(type(module), "forward") is not nn.Module.forward
