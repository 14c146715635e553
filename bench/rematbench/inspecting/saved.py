"""What autograd keeps for backward, tensor by tensor, from the graph of a real forward."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
class _Packed:
    """What stands in the graph for a saved tensor, and lives as long as that part of the graph.

    The tensor is without its history, or an output would keep itself alive.
    """

    tensor: torch.Tensor
    module: str
    line: str
    operator: str = ""


class _SavedRecorder:
    """Sees every tensor that goes into the graph and, once the graph is walked, which node it went to."""

    def __init__(self) -> None:
        self._packed: list[weakref.ref[_Packed]] = []
        self._running: list[str] = []
        self._unpacked: list[_Packed] = []

    @property
    def packed(self) -> list[_Packed]:
        """What the graph still keeps; a branch that was detached is gone with what it saved."""
        return [packed for reference in self._packed if (packed := reference()) is not None]

    @contextmanager
    def inside(self, path: str) -> Iterator[None]:
        self._running.append(path)
        try:
            yield
        finally:
            self._running.pop()

    def pack(self, tensor: torch.Tensor) -> _Packed:
        module = self._running[-1] if self._running else LOSS
        packed = _Packed(tensor=tensor.detach(), module=module, line=_line(sys._getframe(1)))
        self._packed.append(weakref.ref(packed))
        return packed

    def unpack(self, packed: _Packed) -> torch.Tensor:
        self._unpacked.append(packed)
        return packed.tensor

    def name_operators(self, tensors: Iterable[torch.Tensor]) -> None:
        """Ask the nodes behind these for what they saved, and see which tensors that unpacks.

        `pack` is told the tensor alone, and before there is a node; a node's attributes are the only way from it to
        what it saved.
        """
        for node in _nodes(tensor.grad_fn for tensor in tensors):
            for attribute, argument in saved_attributes(node).items():
                packed = saved_objects(node, attribute)
                # Packed by hooks of the model's own: asked, a region that it checkpoints would run once more.
                if packed and not any(isinstance(each, _Packed) for each in packed):
                    continue
                self._unpacked.clear()
                getattr(node, attribute)
                for each in self._unpacked:
                    each.operator = _operator(node, argument)
        self._unpacked.clear()


@dataclass(frozen=True, kw_only=True)
class SavedByForward:
    """What a forward leaves behind; `output_bytes` are of its output and loss, where autograd saves neither."""

    saved: tuple[SavedTensor, ...]
    output_bytes: int


def saved_by_forward(workload: Workload) -> SavedByForward:
    """Run a forward with its loss and return what autograd keeps, each storage once, the largest first.

    A storage that several modules save is told by the first; `shared_with` names the others. What a fused kernel
    keeps by itself (an LSTM's workspace) is seen only where it goes through autograd.
    """
    recorder = _SavedRecorder()
    with (
        marked(workload.module, recorder.inside, every=True),
        saved_tensors_hooks(recorder.pack, recorder.unpack),
    ):
        with recorder.inside(""):
            output = call(workload)
        loss = loss_from(workload, output)
    leaves = [leaf for leaf in (*pytree.tree_leaves(output), loss) if isinstance(leaf, torch.Tensor)]
    recorder.name_operators(leaves)
    static = _static_kinds(workload)
    by_storage: dict[int, list[_Packed]] = {}
    for packed in recorder.packed:
        by_storage.setdefault(storage_key(packed.tensor), []).append(packed)
    saved = (_saved_tensor(savers, static.get(key, "activation")) for key, savers in by_storage.items())
    output_bytes = {storage_key(leaf): leaf.untyped_storage().nbytes() for leaf in leaves}
    return SavedByForward(
        saved=tuple(sorted(saved, key=lambda tensor: -tensor.bytes)),
        output_bytes=sum(size for key, size in output_bytes.items() if key not in static and key not in by_storage),
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


def _saved_tensor(savers: list[_Packed], kind: SavedKind) -> SavedTensor:
    """Describe what was packed of one storage, in the order of packing, by the first of them."""
    first = savers[0]
    return SavedTensor(
        bytes=first.tensor.untyped_storage().nbytes(),
        shape=tuple(first.tensor.shape),
        dtype=str(first.tensor.dtype).removeprefix("torch."),
        kind=kind,
        operator=first.operator,
        module=first.module,
        line=first.line,
        shared_with=tuple(dict.fromkeys(saver.module for saver in savers[1:] if saver.module != first.module)),
    )


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
