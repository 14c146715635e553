"""What a step may change, kept and put back: every step of a model starts from the same state."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rematbench.torch_internals import buffers_of, parameters_of, storage_key, write_count
from rematbench.workload.building import optimizer_tensors
from rematbench.workload.devices import random_state, restore_random_state
from rematbench.workload.step import Workload, batch_tensors

_SCALARS = (bool, int, float, complex, str, type(None))
_TORCH_S = frozenset(vars(nn.Module()))
"""What every module has; the rest of a module's attributes is the model's own."""


class State:
    """A model's state before a step: weights, buffers, plain attributes, batch, optimizer state and random states.

    All go by module and name, so that what a step assigns anew comes back too. Weights, buffers and random states are
    as they were at first. A module's other attributes (tensors, numbers, and lists and dictionaries of them) are as the
    first step that changed them left them: what lives on from step to step is there before every one.
    """

    def __init__(self, workload: Workload, device: torch.device, *, weights: bool = True) -> None:
        """Keep what there is; without `weights`, those of a model whose steps are known to leave them alone are not."""
        self._workload = workload
        self._device = device
        self._random = random_state(device, workload.module)
        if workload.optimizer:
            _settle(workload.optimizer)
        modules = list(workload.module.modules())
        self._parameters = [(home := parameters_of(module), dict(home)) for module in modules]
        parameters = list(workload.module.parameters())
        batch = [tensor for tensor in batch_tensors(workload.batch).values() if tensor.layout == torch.strided]
        # With an optimizer every weight changes in every step; without, hardly any does. Copies are in host memory: on
        # the device they would take three times the weights from the model.
        optimizer = workload.optimizer
        changing = [*parameters, *optimizer_tensors(optimizer)] if optimizer else []
        self._tensors = [(tensor, _on_host(tensor)) for tensor in changing]
        rarely = batch if workload.optimizer or not weights else [*parameters, *batch]
        self._watched = [_Watched(tensor) for tensor in {id(tensor): tensor for tensor in rarely}.values()]
        self._buffers: dict[int, _Buffer] = {}
        for module in modules:
            for name, buffer in buffers_of(module).items():
                if buffer is not None:
                    self._buffers.setdefault(id(buffer), _Buffer(buffer)).places.append((buffers_of(module), name))
        # Those of a scripted module can only be written to.
        named = {id(buffer) for module in modules for buffer in buffers_of(module).values()}
        scripted = [buffer for buffer in workload.module.buffers() if id(buffer) not in named]
        self._tensors += [(buffer, _on_host(buffer)) for buffer in scripted]
        self._places = {(id(home), name) for kept in self._buffers.values() for home, name in kept.places}
        self._attributes: dict[tuple[int, str], tuple[nn.Module, Any]] = {}
        self._seen = self._marks()
        self._is_settled = False

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for home, before in self._parameters:
                home.update(before)
            for tensor, kept in self._tensors:
                tensor.copy_(kept)
            for watched in self._watched:
                watched.restore()
            for buffer in self._buffers.values():
                buffer.restore()
            self._restore_attributes()
        # What has come since, as a package imported late, is kept from here on.
        self._random = random_state(self._device, self._workload.module) | self._random
        restore_random_state(self._random, self._device, self._workload.module)

    def _restore_attributes(self) -> None:
        if not self._is_settled:
            marks = self._marks()
            if marks == self._seen:
                return
            self._is_settled = True
        model_s = self._storages()
        for module, name, value in self._own_attributes():
            key = id(module), name
            if key not in self._attributes:
                self._attributes[key] = module, _copied(value, model_s)
        for (_, name), (module, kept) in self._attributes.items():
            _put(module, name, _restored(kept, _get(module, name), model_s))

    def _storages(self) -> set[int]:
        module = self._workload.module
        tensors = [*module.parameters(), *module.buffers(), *batch_tensors(self._workload.batch).values()]
        return {storage_key(tensor) for tensor in tensors if tensor.layout == torch.strided}

    def _own_attributes(self) -> Iterator[tuple[nn.Module, str, Any]]:
        for module in self._workload.module.modules():
            home = buffers_of(module)
            buffers = [(name, value) for name, value in home.items() if (id(home), name) not in self._places]
            plain = [(name, value) for name, value in vars(module).items() if name not in _TORCH_S]
            yield from ((module, name, value) for name, value in (*buffers, *plain) if _is_data(value))

    def _marks(self) -> list[tuple[int, str, Any]]:
        """Return what tells whether a step has changed an attribute: which tensors there are, and how often written."""
        return [(id(module), name, _mark(value)) for module, name, value in self._own_attributes()]


class _Watched:
    """A tensor that steps seldom change, with a copy in host memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._kept = _on_host(tensor)
        self._mark = self._marked()

    def restore(self) -> None:
        if self._has_changed():
            self._tensor.copy_(self._kept)
            self._mark = self._marked()

    def _has_changed(self) -> bool:
        if self._tensor.is_cpu:
            return not torch.equal(self._tensor, self._kept)
        return self._marked() != self._mark

    def _marked(self) -> tuple[int, int]:
        """Return the count of writes, and a sum over the bits, as a write through `.data` is not counted."""
        if self._tensor.is_cpu:
            return 0, 0
        bits = self._tensor.detach().contiguous()
        bits = torch.view_as_real(bits) if bits.is_complex() else bits
        whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[bits.element_size()]
        return write_count(self._tensor), int(bits.view(whole).sum(dtype=torch.int64))


class _Buffer:
    """A buffer as it was at first, and everywhere that it stands; another tensor is put there if a step has put one.

    The tensor itself is not held: a step that assigns the buffer anew is to free the one before.
    """

    def __init__(self, buffer: torch.Tensor) -> None:
        self.places: list[tuple[dict[str, Any], str]] = []
        self._kept = buffer.detach().clone()
        self._tensor = weakref.ref(buffer)

    def restore(self) -> None:
        tensor = self._tensor()
        if tensor is None or any(home.get(name) is not tensor for home, name in self.places):
            tensor = self._kept.clone()
            self._tensor = weakref.ref(tensor)
            for home, name in self.places:
                home[name] = tensor
        else:
            _write(tensor, self._kept)


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _write(tensor: torch.Tensor, kept: torch.Tensor) -> None:
    """Write what was kept; not where it is still there, as a tensor that is expanded cannot be written to."""
    if not torch.equal(tensor, kept):
        tensor.copy_(kept)


def _is_data(value: Any) -> bool:
    """Tell whether an attribute is made of tensors, numbers and text alone."""
    if isinstance(value, torch.Tensor):
        return value.layout == torch.strided and not isinstance(value, nn.Parameter)
    if isinstance(value, dict):
        return all(isinstance(key, _SCALARS) and _is_data(item) for key, item in value.items())
    if type(value) in (list, tuple, deque):
        return all(map(_is_data, value))
    return isinstance(value, _SCALARS)


def _mark(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return id(value), write_count(value)
    if isinstance(value, dict):
        return id(value), [(key, _mark(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return id(value), [_mark(item) for item in value]
    return repr(value)


def _copied(value: Any, model_s: set[int]) -> Any:
    """Copy an attribute; a tensor on memory of the model's parameters, buffers or batch stays the one it is."""
    if isinstance(value, torch.Tensor):
        if storage_key(value) in model_s:
            return value
        return value.detach().clone().requires_grad_(value.requires_grad and value.is_leaf)
    if isinstance(value, dict):
        return {key: _copied(item, model_s) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return tuple(_copied(item, model_s) for item in value)
    return value


def _restored(kept: Any, now: Any, model_s: set[int]) -> Any:
    """Return an attribute as it was kept, in the containers that are there now, which others may know too."""
    if isinstance(kept, torch.Tensor):
        return _copied(kept, model_s)
    if isinstance(kept, dict):
        items = {key: _restored(item, None, model_s) for key, item in kept.items()}
        if not isinstance(now, dict):
            return items
        now.clear()
        now.update(items)
        return now
    if isinstance(kept, tuple):
        items_ = [_restored(item, None, model_s) for item in kept]
        if isinstance(now, list | deque):
            now.clear()
            now.extend(items_)
            return now
        return tuple(items_)
    return kept


def _get(module: nn.Module, name: str) -> Any:
    home = buffers_of(module) if name in buffers_of(module) else vars(module)
    return home.get(name)


def _put(module: nn.Module, name: str, value: Any) -> None:
    home = buffers_of(module) if name in buffers_of(module) else vars(module)
    home[name] = value


def _settle(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer allocate its state by one step on zero gradients, the weights left where they were."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [_on_host(parameter) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.copy_(kept)
