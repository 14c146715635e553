"""What is inside a model: every module with what it costs, and every tensor autograd keeps."""

from __future__ import annotations

from typing import Literal

from rematbench.record import Record
from rematbench.records.measurement import Environment

SavedKind = Literal["activation", "parameter", "buffer", "batch"]


class SavedTensor(Record):
    """A storage that autograd keeps from forward to backward.

    Attributes:
        bytes: of the whole storage; `shape` and `dtype` are those of the first tensor saved from it.
        kind: an activation, or something that is there anyway.
        operator: whose backward needs it, and as what: `addmm (mat1)`; empty where the graph does not tell.
        module: path of the innermost module at work when it was saved first; `""` is the model, `(loss)` none.
        line: the line of code that called the operator, outside torch.
        shared_with: other modules that save the same storage.
    """

    bytes: int
    shape: tuple[int, ...]
    dtype: str
    kind: SavedKind
    operator: str
    module: str
    line: str
    shared_with: tuple[str, ...] = ()


class ModuleCost(Record):
    """One module in one plain step; its children's shares are in every number but `own_bytes`.

    Attributes:
        parameters: elements, each tensor once.
        outputs: shapes of the tensors its first call returned.
        calls: in one forward.
        own_bytes: allocated by the module itself, outside its children, and still there after forward; None where
            the meter cannot tell.
        forward_s, backward_s: median seconds a step, taken with clocks around every module and every node of the
            graph, which costs small ones most; backward is None where the module made no node.
    """

    path: str
    class_name: str
    parameters: int
    outputs: tuple[tuple[int, ...], ...]
    calls: int
    own_bytes: int | None
    forward_s: float
    backward_s: float | None
    forward_flops: int | None


class Inspection(Record):
    """A model's plain step, taken apart.

    Attributes:
        modules: in the order of `named_modules`, the model itself (`""`) first; those that were never called, or
            cannot be watched (compiled, scripted), are left out.
        chains: what a placement can cut, as the step runs it: `layers 4 × Block, inside each mlp 3`; those that
            strategies act on first.
        saved: what autograd keeps, the largest first.
        held_bytes: measured, live at the end of forward; `loss_bytes` of them were allocated outside all modules.
        output_bytes: of the model's output and the loss, where nothing in `saved` holds them.
        peak_bytes, static_bytes: as in `Memory`.
        remarks: what is worth knowing, a sentence each.
    """

    model: str
    device: str
    dtype: str
    modules: tuple[ModuleCost, ...]
    chains: tuple[str, ...]
    saved: tuple[SavedTensor, ...]
    held_bytes: int
    loss_bytes: int | None
    output_bytes: int
    peak_bytes: int
    static_bytes: int
    remarks: tuple[str, ...] = ()
    environment: Environment

    @property
    def saved_bytes(self) -> int:
        """What autograd keeps of activations."""
        return sum(saved.bytes for saved in self.saved if saved.kind == "activation")

    @property
    def unexplained_bytes(self) -> int:
        """What is held and neither saved through autograd nor part of the output: kept by fused kernels or caches."""
        return self.held_bytes - self.saved_bytes - self.output_bytes
