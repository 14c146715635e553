"""`torch.compile` under an activation memory budget: the compiler's own planner, as a peer of placements.

The budget is a share of what the plain compiled step saves, between recomputing all it can (0) and nothing (1). It is
`activation_memory_budget` of torch/_functorch/config.py, read while a graph is cut into its forward and its backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

from rematbench.torch_internals import call_of, inductor_backend

_Calls = dict[float, Callable[..., Any]]

_COMPILED: WeakKeyDictionary[nn.Module, _Calls] = WeakKeyDictionary()
"""Of every model, by budget: a placement is applied anew for each step, and compiled once."""


def compiled_call(model: nn.Module, budget: float) -> Callable[..., Any]:
    """Return what stands in for `model.__call__`; its first call, and the backward of that, compile."""
    calls = _COMPILED.setdefault(model, {})
    if budget not in calls:
        calls[budget] = torch.compile(_called(model), backend=inductor_backend(budget))
    return calls[budget]


def _called(model: nn.Module) -> Callable[..., Any]:
    """Return the model's call as a function of ours: dynamo passes over the frames of torch's own containers."""
    reference = ref(model)  # held, the model would keep itself among those that are compiled

    def call(*args: Any, **kwargs: Any) -> Any:
        held = reference()
        assert held is not None
        return call_of(held)(*args, **kwargs)

    # Another code object each time: dynamo keeps what it compiled by code, and runs eagerly what it has compiled too
    # often (`recompile_limit` in torch/_dynamo/config.py), though each time was for another model.
    call.__code__ = call.__code__.replace()
    return call
