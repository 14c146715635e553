"""How a model's step runs through its parts: their order, its chains, and the tensors that skip past some of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rematbench.placement.outline import Chain, Outline
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


def chains_of(outline: Outline) -> tuple[str, ...]:
    """Say what chains there are, those that strategies act on first, each with the chains inside its blocks.

    `blocks 12 × Block, inside each mlp 3`; of blocks that do not all follow one another, how long their runs are.
    """
    inner = {path for chain in outline.outermost for path in _inside(chain, outline.chains)}
    others = (chain for chain in outline.chains if chain not in outline.outermost and chain.path not in inner)
    alike: dict[str, list[str]] = defaultdict(list)
    for chain in (*outline.outermost, *others):
        alike[f"{_starred(chain.path)} {_said(chain, outline.chains)}"].append(chain.path)
    return tuple(
        f"{len(paths)} of {text}" if len(paths) > 1 else text.replace(_starred(paths[0]), paths[0] or "the model", 1)
        for text, paths in alike.items()
    )


def _starred(path: str) -> str:
    """Write positions as a star, so that repeated chains have one name."""
    return ".".join("*" if name.isdecimal() else name for name in path.split("."))


def _said(chain: Chain, chains: Iterable[Chain]) -> str:
    classes = ", ".join(dict.fromkeys(chain.blocks))
    lengths = [run[-1] - run[0] for run in chain.runs]
    runs = ""
    if lengths != [len(chain)]:
        kinds = " and ".join(f"{count} of {length}" for length, count in sorted(Counter(lengths).items()))
        runs = f" in runs: {kinds}" if max(lengths, default=0) > 1 else ", no two in a row"
    inside: dict[str, list[int]] = defaultdict(list)
    for path, length in _inside(chain, chains).items():
        inside[_starred(path.removeprefix(f"{chain.path}." if chain.path else "").partition(".")[2])].append(length)
    parts = [
        f", inside {'each' if len(found) % len(chain) == 0 else 'some'} {name or 'of them'} "
        f"{' or '.join(map(str, sorted(set(found))))}"
        for name, found in inside.items()
    ]
    return f"{len(chain)} × {classes}{runs}{''.join(parts)}"


def _inside(chain: Chain, chains: Iterable[Chain]) -> dict[str, int]:
    """Return the lengths of the chains inside a chain's blocks, by path."""
    prefix = f"{chain.path}." if chain.path else ""
    return {inner.path: len(inner) for inner in chains if inner.path != chain.path and inner.path.startswith(prefix)}


def _skips(calls: list[_PartCall], storages: dict[int, _Storage]) -> Iterator[Skip]:
    """Yield what a later part than the next one still takes in, by the last that does."""
    for at, made in enumerate(calls):
        for key in sorted(made.outputs, key=lambda key: -storages[key].size_bytes):
            users = [later for later in range(at + 1, len(calls)) if key in calls[later].inputs]
            if users and users[-1] > at + 1:
                storage = storages[key]
                target = calls[users[-1]].path
                yield Skip(source=made.path, target=target, bytes=storage.size_bytes, shape=storage.shape)
