"""The operators of a step as data: what was called with arguments of which shapes, to be called alone elsewhere."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from rematbench.measuring.flops import FlopMeter
from rematbench.torch_internals import Operator, StorageReference, pytree, storage_key
from rematbench.traces.calls import Asked, Noted

MARK = "@"
"""How the names of marks around operators begin; paths of modules do not."""

_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format)


class CallMeter(FlopMeter):
    """Counts FLOPs, and notes each operator with its arguments, inside a mark of its number.

    Attributes:
        noted: the operators in order; the nth stood inside the mark `MARK` n.
    """

    def __init__(self, mark: Callable[[str], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.noted: list[Noted] = []
        self._mark = mark
        self._buffers: dict[int, tuple[StorageReference, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kind, numbers = described(func, args, kwargs or {})
        sources = self._sources(args)
        before = len(self.calls)
        with self._mark(f"{MARK}{len(self.noted)}"):
            out = super().__torch_dispatch__(func, types, args, kwargs)
        for leaf in pytree.tree_leaves(out):
            if _is_buffer(leaf) and storage_key(leaf) not in self._buffers:
                self._buffers[storage_key(leaf)] = StorageReference(leaf), len(self.noted)
        # Under a mode autograd adds up gradients out of place (`accumulate` in torch/csrc/autograd/input_buffer.cpp).
        is_extra = func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled()
        flops = sum(flops for _, flops in self.calls[before:])
        self.noted.append(Noted(kind, numbers, flops, sources, is_extra))
        return out

    def _sources(self, args: Sequence[Any]) -> dict[int, int | None]:
        """Return which whole numbers of the arguments are the bytes of a buffer, and which call made it."""
        found: dict[int, int | None] = {}
        numbers: list[int] = []
        for value in args:
            if _is_buffer(value):
                known = self._buffers.get(storage_key(value))
                found[len(numbers)] = known[1] if known else None
            try:
                _template(value, numbers)
            except _Unlike:
                break
        return found


def _is_buffer(value: object) -> bool:
    """Tell whether a value is a row of bytes: the workspace that a kernel leaves for its gradient."""
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 1


class _Unlike(Exception):
    """An argument that cannot be made again from its description."""


def described(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return the kind of a call and the whole numbers of its arguments; an empty kind where it cannot be made again."""
    numbers: list[int] = []
    if not isinstance(func, Operator):
        return "", ()
    try:
        template = _template((tuple(args), tuple(sorted(kwargs.items()))), numbers)
    except _Unlike:
        return "", ()
    return f"{func}|{template!r}", tuple(numbers)


def _template(value: Any, numbers: list[int]) -> Any:
    """Describe a value by literals, with its whole numbers left out and appended to a list.

    A fraction is left out as well, but for 0 and 1, which switch things off: models scale by sizes (attention by the
    root of its width), and no kernel chooses memory by it.
    """
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            raise _Unlike
        numbers += [*value.shape, *value.stride()]
        return ("tensor", str(value.dtype), str(value.device), value.dim())
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        numbers.append(value)
        return "int"
    if isinstance(value, float):
        return ("float", value if value in (0.0, 1.0) else 0.5)
    if isinstance(value, str):
        return ("str", value)
    if isinstance(value, _CONSTANTS):
        return ("constant", str(value))
    if isinstance(value, torch.device):
        return ("device", str(value))
    if isinstance(value, list | tuple):
        return ("row", *(_template(item, numbers) for item in value))
    raise _Unlike


def operator_of(asked: Asked) -> Operator:
    """Return what a call calls."""
    namespace, name, overload = asked.operator.split(".")
    found: Operator = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    return found


def arguments_of(asked: Asked) -> tuple[list[Any], dict[str, Any]]:
    """Make the arguments of a call: tensors of zeros, which are indices and targets of anything."""
    args, kwargs = _made(literal_eval(asked.kind.partition("|")[2]), iter(asked.numbers), torch.zeros)
    return args, dict(kwargs)


def argument_bytes(asked: Asked) -> int:
    """Return what the tensors of a call's arguments need."""
    sizes: list[int] = []

    def size(extent: int, *, dtype: torch.dtype, **_: object) -> Tensor:
        sizes.append(extent * dtype.itemsize)
        return torch.empty(0, dtype=dtype, device="meta")

    _made(literal_eval(asked.kind.partition("|")[2]), iter(asked.numbers), size, viewed=False)
    return sum(sizes)


def _made(template: Any, numbers: Iterator[int], zeros: Callable[..., Tensor], *, viewed: bool = True) -> Any:
    """Make a value again; the inverse of `_template`."""
    if template == "int":
        return next(numbers)
    if not isinstance(template, tuple):
        return template
    kind, *rest = template
    if kind == "tensor":
        dtype, device, dimensions = rest
        shape = [next(numbers) for _ in range(dimensions)]
        strides = [next(numbers) for _ in range(dimensions)]
        extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if all(shape) else 0
        flat = zeros(extent, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device)
        return flat.as_strided(shape, strides) if viewed else flat
    if kind == "row":
        return [_made(item, numbers, zeros, viewed=viewed) for item in rest]
    if kind == "device":
        return torch.device(rest[0])
    if kind == "constant":
        return getattr(torch, rest[0].removeprefix("torch."))
    return rest[0]
