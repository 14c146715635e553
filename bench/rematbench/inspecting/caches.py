"""Caches in a model's output, which keep alive what checkpointing would free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from rematbench.measuring.session import Session
from rematbench.torch_internals import storage_key
from rematbench.units import format_bytes
from rematbench.workload.step import call

_NAMES = ("past_key_values", "cache_params", "mems")
"""Under these a model of the transformers library returns the states it keeps for generating the next token."""


def cache_warnings(session: Session) -> list[str]:
    """Run a forward and return a sentence for every cache that the model returns."""
    session.fresh()
    return warnings_about(call(session.workload))


def warnings_about(output: Any) -> list[str]:
    """Return a sentence for every cache in the output of a training step's forward, with the bytes it keeps alive.

    A cache is no error: gradients may well be right. But each of its tensors outlives the region that made it, and
    a recomputation writes into it once more.
    """
    found = ((name, _held_bytes(_field(output, name))) for name in _NAMES)
    return [
        f"the model returns {name}, which keeps {format_bytes(held)} alive that regions would free: "
        f"train with use_cache=False"
        for name, held in found
        if held
    ]


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _held_bytes(cache: Any) -> int:
    storages = {storage_key(tensor): tensor.untyped_storage() for tensor in tensors_in(cache, set())}
    return sum(storage.nbytes() for storage in storages.values())


def tensors_in(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Yield every tensor that can be reached through containers and the attributes of objects, but of no module."""
    if id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in (*inside, *getattr(value, "__dict__", {}).values()):
        yield from tensors_in(item, seen)
