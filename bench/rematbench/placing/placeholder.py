"""What a region hands out for the values between its blocks: tensors to pass on, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from rematbench.errors import PlacementError
from rematbench.torch_internals import pytree, tensor_without_memory, without_torch_function

# Names as `__torch_function__` gets them (torch/overrides.py), those of properties by their `__get__`.
_HARMLESS = frozenset(
    "shape size ndim dim ndimension numel nelement element_size itemsize nbytes __len__ stride storage_offset layout "
    "dtype device get_device is_cpu is_cuda is_mps is_xpu is_meta is_floating_point is_complex is_sparse is_quantized "
    "is_nested is_leaf requires_grad _version is_inference is_contiguous names __repr__ __format__ "
    "to contiguous type_as".split()
)
"""What torch may be asked of a placeholder value: its kind, which it has, and never its elements or its gradient."""

_CONVERTING = frozenset("to contiguous type_as".split())
"""Of these, what returns the tensor itself where there is nothing to convert; else the dispatcher is asked next."""


class Placeholder(torch.Tensor):
    """Stands for a value between two blocks of one region, which is gone by the time the model's loop could use it.

    It has the value's shape, strides, dtype and device but no memory, and a loop may do with it what leaves the value
    alone: pass it on, keep it, ask for its shape. Whatever reads or changes the value raises `PlacementError`, so that
    no loop can take the end of a region for its middle. What a loop does beside the value, as drawing a random number
    or setting a flag on a module, is not seen.
    """

    _producer: str
    _consumer: str

    @staticmethod
    def __new__(cls, value: torch.Tensor, producer: str, consumer: str) -> Placeholder:
        """Stand in for `value`, which the block `producer` returned and only the block `consumer` may be given."""
        # What it claims to be is what the model's loop sees: one that branches by dtype, device or shape goes on as it
        # would with the value.
        placeholder: Placeholder = tensor_without_memory(cls, value)
        # Into the dictionary itself, as `__setattr__` refuses.
        vars(placeholder).update(_producer=producer, _consumer=consumer)
        return placeholder

    def __setattr__(self, name: str, _value: Any) -> NoReturn:
        """Refuse a note to the next block, which has run already."""
        _refuse(f"attribute {name!r}", self)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = _name(func)
        if name not in _HARMLESS:
            _refuse(name, args, kwargs)
        with without_torch_function():
            return func(*args, **(kwargs or {}))

    # What went past `__torch_function__` arrives here: operators that C++ calls, and those of `to` and `contiguous`
    # where there is something to convert.
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> NoReturn:
        _refuse(_name(func), args, kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Placeholder(result of {self._producer}, shape={tuple(self.shape)}, dtype={self.dtype})"


def _name(func: Any) -> str:
    """Return `mul` for a function or an operator, `shape` for the reading of a property."""
    name = getattr(func, "__name__", str(func)).partition(".")[0]
    if name == "__get__":
        return func.__self__.__name__
    return name


def only_asks(func: Callable[..., Any]) -> bool:
    """Tell whether a function of torch only asks of what kind a tensor is, so that a placeholder answers it."""
    name = _name(func)
    return name in _HARMLESS and name not in _CONVERTING


def may_return_the_same(func: Callable[..., Any]) -> bool:
    """Tell whether a function of torch is let through on a placeholder where it returns the tensor it was given."""
    return _name(func) in _CONVERTING


def _refuse(use: str, *values: Any) -> NoReturn:
    used = next(leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Placeholder))
    raise PlacementError(
        f"the model uses what {used._producer} returns in {use}, not only as the input of {used._consumer}, "
        f"and inside a region that value is not kept: end the region before {used._consumer}"
    )
