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
class Call:
    """One call of a part: the storages that went in and came out, each by an identity that is not given twice."""

    path: str
    taken: frozenset[int]
    given: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A storage that crossed a part's border; the weak reference keeps its identity from being given again."""

    reference: StorageReference
    size_bytes: int
    shape: tuple[int, ...]


class _Watch:
    """Notes every call of a part in a forward pass."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.seen: dict[int, _Seen] = {}

    def around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            taken = self.note((args, kwargs))
            output = forward(*args, **kwargs)
            self.calls.append(Call(path=path, taken=taken, given=self.note(output)))
            return output

        return run

    def note(self, values: Any) -> frozenset[int]:
        """Return the identities of the storages in a structure of values."""
        return frozenset(self._identity(leaf) for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor))

    def _identity(self, tensor: torch.Tensor) -> int:
        reference, size_bytes = StorageReference(tensor), tensor.untyped_storage().nbytes()
        seen = _Seen(reference=reference, size_bytes=size_bytes, shape=tuple(tensor.shape))
        return self.seen.setdefault(reference.key, seen).reference.key


def structure_of(workload: Workload) -> Structure:
    """Run a forward and say how it goes through the model's parts.

    Tensors of the batch and parameters are no skips: they are there whatever is checkpointed.
    """
    watch = _Watch()
    static = watch.note([*workload.module.parameters(), *workload.module.buffers(), batch_tensors(workload.batch)])
    with shadowed(parts(workload.module), watch.around):
        call(workload)
    calls = [
        Call(path=made.path, taken=made.taken - static, given=made.given - made.taken - static) for made in watch.calls
    ]
    return Structure(
        blocks=tuple(dict.fromkeys(made.path for made in calls)),
        skips=tuple(_skips(calls, watch.seen)),
    )


def _skips(calls: list[Call], seen: dict[int, _Seen]) -> Iterator[Skip]:
    """Yield what a later part than the next one still takes in, by the last that does."""
    for at, made in enumerate(calls):
        for identity in sorted(made.given, key=lambda identity: -seen[identity].size_bytes):
            takers = [later for later in range(at + 1, len(calls)) if identity in calls[later].taken]
            if takers and takers[-1] > at + 1:
                facts = seen[identity]
                yield Skip(source=made.path, target=calls[takers[-1]].path, bytes=facts.size_bytes, shape=facts.shape)
