"""What autograd keeps for backward, tensor by tensor, from the graph of a real forward."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from bench.measuring.parts import marked
from bench.measuring.step import Workload, batch_tensors, forward_loss
from bench.results.inspection import SavedKind, SavedTensor
from bench.results.record import LOSS

_TORCH = str(Path(torch.__file__).parent)
_OURS = Path(__file__).parent.parent
_SILENT = (_TORCH, "<", *(str(room) for room in _OURS.iterdir() if room.name != "models"))
"""Where the line that called an operator is not to be looked for: reference models may lie in our own folder."""


@dataclass(frozen=True)
class _Packed:
    """What stands in the graph for a saved tensor; without its history, or an output would keep itself alive."""

    number: int
    tensor: torch.Tensor


@dataclass(kw_only=True)
class _Entry:
    """One saved tensor, as it is known when it is packed."""

    tensor: torch.Tensor
    module: str
    line: str
    operator: str = ""


@dataclass(kw_only=True)
class _Watch:
    """Sees every tensor that goes into the graph and, once the graph is walked, which node it went to."""

    entries: list[_Entry] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    unpacked: list[int] = field(default_factory=list)

    @contextmanager
    def inside(self, path: str) -> Iterator[None]:
        self.modules.append(path)
        try:
            yield
        finally:
            self.modules.pop()

    def pack(self, tensor: torch.Tensor) -> _Packed:
        plain = tensor.detach()
        module = self.modules[-1] if self.modules else LOSS
        self.entries.append(_Entry(tensor=plain, module=module, line=_line(sys._getframe(1))))
        return _Packed(len(self.entries) - 1, plain)

    def unpack(self, packed: _Packed) -> torch.Tensor:
        self.unpacked.append(packed.number)
        return packed.tensor

    def name_operators(self, loss: torch.Tensor) -> None:
        """Ask every node of the graph for what it saved, and see which tensors that unpacks."""
        for node in _nodes(loss.grad_fn):
            for attribute in _saved_attributes(node):
                self.unpacked.clear()
                getattr(node, attribute)
                for number in self.unpacked:
                    self.entries[number].operator = _operator(node, attribute)


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
        output, loss = forward_loss(workload)
    watch.name_operators(loss)
    static = _static_kinds(workload)
    found = sorted(_by_storage(watch.entries, static), key=lambda saved: -saved.bytes)
    known = {*static, *(_address(entry.tensor) for entry in watch.entries)}
    leaves = [leaf for leaf in (*pytree.tree_leaves(output), loss) if isinstance(leaf, torch.Tensor)]
    output_bytes = {_address(leaf): leaf.untyped_storage().nbytes() for leaf in leaves if _address(leaf) not in known}
    return Kept(saved=tuple(found), output_bytes=sum(output_bytes.values()))


def _by_storage(entries: list[_Entry], static: dict[int, SavedKind]) -> Iterator[SavedTensor]:
    by_storage: dict[int, list[_Entry]] = {}
    for entry in entries:
        by_storage.setdefault(_address(entry.tensor), []).append(entry)
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
    return {_address(tensor): kind for kind, tensors in groups.items() for tensor in tensors}


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _nodes(root: Any) -> Iterator[Any]:
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        yield node
        new = [following for following, _ in node.next_functions if following not in seen]
        seen.update(new)
        stack += new


def _saved_attributes(node: Any) -> list[str]:
    """Return the attributes that unpack what a node saved; a user's `autograd.Function` has one for all."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    return names or [name for name in ("saved_tensors",) if hasattr(type(node), name)]


def _operator(node: Any, attribute: str) -> str:
    """`NativeBatchNormBackward0` and `_saved_input` become `native_batch_norm (input)`."""
    name = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    name = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", name).lower()
    what = attribute.removeprefix("_saved_")
    return name if what == attribute else f"{name} ({what})"


def _line(frame: FrameType | None) -> str:
    """Return the innermost line outside torch and this package, as `net.py:12`; empty where there is none."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_SILENT):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
