"""Build a model by the contract of its factory: `(module, batch)` or `(module, batch, loss_fn)`, on a device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rematbench.errors import ModelError
from rematbench.loading import load_attribute
from rematbench.suite.model_ref import ModelRef
from rematbench.torch_internals import pytree, storage_key
from rematbench.workload.step import Batch, Workload, batch_tensors

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


_CONVERSIONS: dict[torch.dtype, Callable[[nn.Module], nn.Module]] = {
    torch.float64: nn.Module.double,
    torch.float32: nn.Module.float,
    torch.bfloat16: nn.Module.bfloat16,
    torch.float16: nn.Module.half,
}
"""These convert real floating tensors alone; `Module.to` would take the real parts of complex ones."""


def build(
    ref: ModelRef, device: torch.device, *, dtype: torch.dtype | None = None, seed: int, optimizer: str = "none"
) -> Workload:
    """Load the factory, seed, call it, and put what it returns on the device.

    Parameters, buffers and batch keep their dtypes unless there is a `dtype`, which the real floating ones of them
    take; a batch tensor that requires a gradient still does.

    Raises:
        ModelError: the factory cannot be loaded, does not take the arguments, or returns something else.
    """
    factory = checked_factory(ref)
    torch.manual_seed(seed)
    module, batch, loss_fn = unpacked(ref.reference, factory(**ref.arguments))
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        _materialise(module, batch)
    if dtype is not None:
        _CONVERSIONS[dtype](module)
    module = module.to(device=device)
    placed = pytree.tree_map_only(torch.Tensor, lambda tensor: _placed(tensor, device, dtype), batch)
    made = OPTIMIZERS[optimizer](module.parameters()) if optimizer != "none" else None
    return Workload(module=module, batch=placed, loss_fn=loss_fn, optimizer=made)


def checked_factory(ref: ModelRef) -> Any:
    """Load a factory and see that it takes the arguments.

    Raises:
        ModelError: as of `build`.
    """
    factory = load_attribute(ref.reference, ref.root)
    if not callable(factory):
        raise ModelError(
            f"{ref.reference} is a {type(factory).__name__}: expected a factory that returns (module, batch)"
        )
    try:
        signature = inspect.signature(factory)
        signature.bind(**ref.arguments)
    except TypeError as error:
        raise ModelError(f"{ref.reference}{signature}: {error}") from error
    except ValueError:  # one that tells no signature
        pass
    return factory


def unpacked(name: str, made: Any) -> tuple[nn.Module, Batch, Callable[[Any], torch.Tensor] | None]:
    """Take apart what a factory returned.

    Raises:
        ModelError: it is not what one returns.
    """
    parts = made if isinstance(made, tuple) else (made,)
    module, batch, loss_fn = (*parts, None, None)[:3] if len(parts) <= 3 else (None, None, None)
    if not isinstance(module, nn.Module) or not isinstance(batch, tuple | list | Mapping):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ModelError(
            f"{name} returned ({kinds}): expected (module, batch) or (module, batch, loss_fn), "
            f"the batch a tuple of arguments or a dict of keyword arguments"
        )
    return module, tuple(batch) if isinstance(batch, list) else batch, loss_fn


def _materialise(module: nn.Module, batch: Batch) -> None:
    """Run a model with lazy modules forward once, which gives them their shapes; other buffers stay as they are."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if not is_lazy(buffer)]
    with torch.no_grad():
        module(**batch) if isinstance(batch, Mapping) else module(*batch)
        for buffer, kept in buffers:
            buffer.copy_(kept)
    left = [name for name, tensor in module.named_parameters() if is_lazy(tensor)]
    if left:
        raise ModelError(
            f"parameter {left[0]} has no shape after a forward on the batch: run its lazy module in forward, "
            f"or build the module with its sizes"
        )


def _placed(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> torch.Tensor:
    kept = tensor.detach().to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    return kept.requires_grad_(tensor.requires_grad)


def floating_dtype(workload: Workload) -> str:
    """Return the name of the dtype that a model is in, as rows have it: `float32`, or `bfloat16+float32` where mixed.

    That of the floating and complex parameters; where there are none, of the buffers, else of the batch, else torch's
    default.
    """
    module = workload.module
    for tensors in (module.parameters(), module.buffers(), batch_tensors(workload.batch).values()):
        found = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
        if found:
            return "+".join(sorted(map(_name, found)))
    return _name(torch.get_default_dtype())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def static_bytes(workload: Workload) -> int:
    """Return the bytes of parameters, buffers, batch and optimizer state, each storage once.

    Tensors that modules keep as attributes, or in lists and dictionaries there, are among them.
    """
    return sum(size for _, size in static_sizes(workload))


def static_sizes(workload: Workload) -> list[tuple[str, int]]:
    """Return what `static_bytes` adds up, each storage by the first name it is found under."""
    module = workload.module
    named = [
        *module.named_parameters(),
        *module.named_buffers(),
        *batch_tensors(workload.batch).items(),
        *(("optimizer", state) for state in (optimizer_tensors(workload.optimizer) if workload.optimizer else ())),
        *((path, leaf) for path, part in module.named_modules() for leaf in pytree.tree_leaves(dict(vars(part)))),
    ]
    found: dict[object, tuple[str, int]] = {}
    for name, tensor in named:
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
            found.setdefault(storage_key(tensor), (name, tensor.untyped_storage().nbytes()))
    return list(found.values())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the tensors an optimizer keeps between steps."""
    return [leaf for state in optimizer.state.values() for leaf in state.values() if isinstance(leaf, torch.Tensor)]
