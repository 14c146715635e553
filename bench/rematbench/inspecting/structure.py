"""How a model's step runs through its parts: their order, and the tensors that skip past some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rematbench.placing.parts import parts
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.records.measurement import Skip, Structure
from rematbench.torch_internals import StorageReference, pytree
from rematbench.workload.step import Workload, batch_tensors, call


@dataclass(frozen=True, kw_only=True)
class _PartCall:
    """One call of a part: the keys of the storages that went in and came out."""

    path: str
    inputs: frozenset[int]
    outputs: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class _Storage:
    """A storage that crossed a part's border."""

    reference: StorageReference
    size_bytes: int
    shape: tuple[int, ...]


class _CallRecorder:
    """Takes down every call of a part in a forward pass."""

    def __init__(self) -> None:
        self.calls: list[_PartCall] = []
        # A forward frees values as it goes, and their addresses are given to later ones: the references kept here
        # are what makes a key belong to one storage all the while.
        self.storages: dict[int, _Storage] = {}

    def around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            inputs = self.keys((args, kwargs))
            output = forward(*args, **kwargs)
            self.calls.append(_PartCall(path=path, inputs=inputs, outputs=self.keys(output)))
            return output

        return run

    def keys(self, values: Any) -> frozenset[int]:
        """Return the keys of the storages in a structure of values."""
        keys: set[int] = set()
        for leaf in pytree.tree_leaves(values):
            if isinstance(leaf, torch.Tensor):
                reference, size_bytes = StorageReference(leaf), leaf.untyped_storage().nbytes()
                storage = _Storage(reference=reference, size_bytes=size_bytes, shape=tuple(leaf.shape))
                self.storages.setdefault(reference.key, storage)
                keys.add(reference.key)
        return frozenset(keys)


def structure_of(workload: Workload) -> Structure:
    """Run a forward and say how it goes through the model's parts.

    Tensors of the batch and parameters are no skips: they are there whatever is checkpointed.
    """
    recorder = _CallRecorder()
    module = workload.module
    static = recorder.keys([*module.parameters(), *module.buffers(), batch_tensors(workload.batch)])
    with shadowed(parts(module), recorder.around):
        call(workload)
    calls = [
        _PartCall(path=made.path, inputs=made.inputs - static, outputs=made.outputs - made.inputs - static)
        for made in recorder.calls
    ]
    return Structure(
        blocks=tuple(dict.fromkeys(made.path for made in calls)),
        skips=tuple(_skips(calls, recorder.storages)),
    )


def _skips(calls: list[_PartCall], storages: dict[int, _Storage]) -> Iterator[Skip]:
    """Yield what a later part than the next one still takes in, by the last that does."""
    for at, made in enumerate(calls):
        for key in sorted(made.outputs, key=lambda key: -storages[key].size_bytes):
            users = [later for later in range(at + 1, len(calls)) if key in calls[later].inputs]
            if users and users[-1] > at + 1:
                storage = storages[key]
                target = calls[users[-1]].path
                yield Skip(source=made.path, target=target, bytes=storage.size_bytes, shape=storage.shape)
