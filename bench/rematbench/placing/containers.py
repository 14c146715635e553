"""What can be asked of a module by itself: whether it lists blocks, can be called, runs compiled."""

from __future__ import annotations

from inspect import getattr_static

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from rematbench.torch_internals import children_of, runs_compiled

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_chain(module: nn.Module) -> bool:
    """Tell whether a module is a container with blocks in it; what makes the weights of another has none."""
    if not isinstance(module, CONTAINERS) or isinstance(module, ParametrizationList):
        return False
    return any(not isinstance(child, ParametrizationList) for _, child in children_of(module))


def has_forward(module: nn.Module) -> bool:
    """Tell whether a module can be called; the containers that only list others cannot."""
    # Asked of the class without binding: that of a scripted module has a forward that exists for instances alone.
    return "forward" in vars(module) or getattr_static(type(module), "forward") is not nn.Module.forward


def every_module(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module that has a forward of its own, by its first path."""
    return {path: module for path, module in model.named_modules() if has_forward(module)}


def is_compiled(model: nn.Module) -> bool:
    """Tell whether any module of a model runs through `torch.compile`; asked without importing what compiles."""
    return any(runs_compiled(module) for module in model.modules())
