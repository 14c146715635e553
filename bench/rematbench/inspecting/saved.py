"""What autograd keeps for backward, tensor by tensor, from the graph of a real forward."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from rematbench.placing.parts import marked
from rematbench.records.inspection import SavedKind, SavedTensor
from rematbench.torch_internals import pytree, saved_attributes, saved_objects, storage_key
from rematbench.traces.timeline import LOSS
from rematbench.workload.step import Workload, batch_tensors, call, loss_from

_TORCH = str(Path(torch.__file__).parent)
_OURS = Path(__file__).parent.parent
_SILENT = (_TORCH, "<", *(str(room) for room in _OURS.iterdir() if room.name != "models"))
"""Where the line that called an operator is not to be looked for: reference models may lie in our own folder."""


@dataclass(kw_only=True, eq=False)
class _Entry:
    """What stands in the graph for a saved tensor, and lives as long as that part of the graph.

    The tensor is without its history, or an output would keep itself alive.
    """

    tensor: torch.Tensor
    module: str
    line: str
    operator: str = ""


@dataclass(kw_only=True)
class _Watch:
    """Sees every tensor that goes into the graph and, once the graph is walked, which node it went to."""

    packed: list[weakref.ref[_Entry]] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    unpacked: list[_Entry] = field(default_factory=list)

    @property
    def entries(self) -> list[_Entry]:
        """What the graph still keeps; a branch that was detached is gone with what it saved."""
        return [entry for packed in self.packed if (entry := packed()) is not None]

    @contextmanager
    def inside(self, path: str) -> Iterator[None]:
        self.modules.append(path)
        try:
            yield
        finally:
            self.modules.pop()

    def pack(self, tensor: torch.Tensor) -> _Entry:
        module = self.modules[-1] if self.modules else LOSS
        entry = _Entry(tensor=tensor.detach(), module=module, line=_line(sys._getframe(1)))
        self.packed.append(weakref.ref(entry))
        return entry

    def unpack(self, entry: _Entry) -> torch.Tensor:
        self.unpacked.append(entry)
        return entry.tensor

    def name_operators(self, tensors: Iterable[torch.Tensor]) -> None:
        """Ask the nodes behind these for what they saved, and see which tensors that unpacks."""
        for node in _nodes(tensor.grad_fn for tensor in tensors):
            for attribute, argument in saved_attributes(node).items():
                if _is_packed_elsewhere(node, attribute):
                    continue
                self.unpacked.clear()
                getattr(node, attribute)
                for entry in self.unpacked:
                    entry.operator = _operator(node, argument)
        self.unpacked.clear()


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a forward leaves behind; `output_bytes` are of its output and loss, where autograd keeps neither."""

    saved: tuple[SavedTensor, ...]
    output_bytes: int


def kept_tensors(workload: Workload) -> Kept:
    """Run a forward with its loss and return what autograd keeps, each storage once, the largest first.

    A storage that several modules save is told by the first; `shared_with` names the others. What a fused kernel
    keeps by itself (an LSTM's workspace) is seen only where it goes through autograd.
    """
    watch = _Watch()
    with (
        marked(workload.module, watch.inside, every=True),
        saved_tensors_hooks(watch.pack, watch.unpack),
    ):
        with watch.inside(""):
            output = call(workload)
        loss = loss_from(workload, output)
    leaves = [leaf for leaf in (*pytree.tree_leaves(output), loss) if isinstance(leaf, torch.Tensor)]
    watch.name_operators(leaves)
    entries = watch.entries
    static = _static_kinds(workload)
    found = sorted(_by_storage(entries, static), key=lambda saved: -saved.bytes)
    known = {*static, *(storage_key(entry.tensor) for entry in entries)}
    output_bytes = {
        storage_key(leaf): leaf.untyped_storage().nbytes() for leaf in leaves if storage_key(leaf) not in known
    }
    return Kept(saved=tuple(found), output_bytes=sum(output_bytes.values()))


def _by_storage(entries: list[_Entry], static: dict[int, SavedKind]) -> Iterator[SavedTensor]:
    by_storage: dict[int, list[_Entry]] = {}
    for entry in entries:
        by_storage.setdefault(storage_key(entry.tensor), []).append(entry)
    for address, savers in by_storage.items():
        first = savers[0]
        yield SavedTensor(
            bytes=first.tensor.untyped_storage().nbytes(),
            shape=tuple(first.tensor.shape),
            dtype=str(first.tensor.dtype).removeprefix("torch."),
            kind=static.get(address, "activation"),
            operator=first.operator,
            module=first.module,
            line=first.line,
            shared_with=tuple(dict.fromkeys(saver.module for saver in savers[1:] if saver.module != first.module)),
        )


def _static_kinds(workload: Workload) -> dict[int, SavedKind]:
    """Say of what is there before the step what it is, by storage."""
    module = workload.module
    groups: dict[SavedKind, Any] = {
        "batch": batch_tensors(workload.batch).values(),
        "buffer": module.buffers(),
        "parameter": module.parameters(),
    }
    return {storage_key(tensor): kind for kind, tensors in groups.items() for tensor in tensors}


def _nodes(roots: Iterable[Any]) -> Iterator[Any]:
    stack = list(dict.fromkeys(roots))
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node is None:
            continue
        yield node
        new = [following for following, _ in node.next_functions if following not in seen]
        seen.update(new)
        stack += new


def _is_packed_elsewhere(node: Any, attribute: str) -> bool:
    """Tell whether hooks of the model's own saved it: asked, a region that it checkpoints would run once more.

    False where torch is too old to say.
    """
    packed = saved_objects(node, attribute)
    return bool(packed) and not any(isinstance(entry, _Entry) for entry in packed)


def _operator(node: Any, argument: str) -> str:
    """Return `native_batch_norm (input)` for a node `NativeBatchNormBackward0`."""
    name = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    name = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", name).lower()
    return f"{name} ({argument})" if argument else name


def _line(frame: FrameType | None) -> str:
    """Return the innermost line outside torch and this package, as `net.py:12`; empty where there is none."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_SILENT):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
