"""An inspection as tables: the module tree with repeated blocks folded, and the tensors kept for backward."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rematbench.records.inspection import Inspection, ModuleCost, SavedTensor
from rematbench.reporting.sheet import Sheet
from rematbench.units import format_bytes, format_flops, format_percent, format_seconds

_INDENT = "· "
_SHOWN_SHAPES = 2


@dataclass(kw_only=True)
class Node:
    """A module and the modules inside it, by the path behind the nearest module around it."""

    name: str
    cost: ModuleCost
    children: list[Node] = field(default_factory=list)

    @property
    def held_bytes(self) -> int:
        """What it and the modules inside allocated and left."""
        return (self.cost.own_bytes or 0) + sum(child.held_bytes for child in self.children)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What two blocks have in common when one row can stand for both."""
        return self.cost.class_name, self.cost.parameters, self.cost.outputs, *(child.shape for child in self.children)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Neighbours of one shape, shown as one row; the numbers are their sums."""

    name: str
    nodes: tuple[Node, ...]

    @property
    def first(self) -> ModuleCost:
        return self.nodes[0].cost

    def total(self, number: str) -> Any:
        """Return the sum of a number over the bundle; None where any lacks it."""
        values = [getattr(node.cost, number) for node in self.nodes]
        return None if any(value is None for value in values) else sum(values)

    @property
    def held_bytes(self) -> int:
        return sum(node.held_bytes for node in self.nodes)


def tree(modules: Iterable[ModuleCost]) -> Node:
    """Build the tree of an inspection's modules, the model first."""
    root, *rest = modules
    nodes = {root.path: Node(name=root.class_name, cost=root)}
    for cost in rest:
        around = cost.path
        while around not in nodes:
            around = around.rpartition(".")[0]
        node = Node(name=cost.path.removeprefix(f"{around}.") if around else cost.path, cost=cost)
        nodes[around].children.append(node)
        nodes[cost.path] = node
    return nodes[root.path]


def folded(nodes: Iterable[Node]) -> Iterator[Bundle]:
    """Yield the nodes in order, runs of neighbours in one chain with one shape as one bundle: `layers[0:3]`."""
    run: list[Node] = []
    for node in nodes:
        if run:
            (chain, at), (next_chain, next_at) = _place(run[-1].name), _place(node.name)
            if at is None or (next_chain, next_at) != (chain, at + 1) or run[-1].shape != node.shape:
                yield _bundle(run)
                run = []
        run.append(node)
    if run:
        yield _bundle(run)


def _place(name: str) -> tuple[str, int | None]:
    """Split `layers.3` into its chain and the position in it; a name without a position has none."""
    chain, _, last = name.rpartition(".")
    return (chain, int(last)) if last.isdecimal() else (name, None)


def _bundle(run: list[Node]) -> Bundle:
    chain, at = _place(run[0].name)
    name = run[0].name if len(run) == 1 or at is None else f"{chain}[{at}:{at + len(run)}]"
    return Bundle(name=name, nodes=tuple(run))


def _rows(bundle: Bundle, level: int, depth: int) -> Iterator[tuple[Bundle, int]]:
    yield bundle, level
    if level < depth:
        for children in folded(bundle.nodes[0].children):
            names = {child.name for child in children.nodes}
            inside = tuple(child for node in bundle.nodes for child in node.children if child.name in names)
            yield from _rows(Bundle(name=children.name, nodes=inside), level + 1, depth)


def tree_sheet(inspection: Inspection, depth: int) -> Sheet:
    """Return the module tree as a table whose kept bytes add up to what was measured."""
    root = tree(inspection.modules)
    top = Bundle(name=root.name, nodes=(root,))
    lines = [_line(bundle, level, inspection) for bundle, level in _rows(top, 0, depth)]
    if inspection.loss_bytes:
        lines.append(("(loss)", "", "", "", *_kept(inspection.loss_bytes, inspection), "", "", ""))
    lines.append(("sum", "", "", "", *_kept(inspection.held_bytes, inspection), "", "", ""))
    return Sheet(
        title=f"{inspection.model} on {inspection.device}, {inspection.dtype}",
        header=("module", "class", "parameters", "output", "kept", "share", "forward", "backward", "FLOPs"),
        rows=tuple(lines),
        notes=tuple(_notes(inspection)),
    )


def _line(bundle: Bundle, level: int, inspection: Inspection) -> tuple[str, ...]:
    first, count = bundle.first, len(bundle.nodes)
    kept = _kept(bundle.held_bytes, inspection) if first.own_bytes is not None else ("", "")
    backward, flops = bundle.total("backward_s"), bundle.total("forward_flops")
    return (
        _INDENT * level + bundle.name,
        first.class_name + (f" × {count}" if count > 1 else ""),
        f"{bundle.total('parameters'):,}",
        _shapes(first.outputs),
        *kept,
        format_seconds(bundle.total("forward_s")),
        format_seconds(backward) if backward is not None else "",
        format_flops(flops) if flops else "",
    )


def _shapes(outputs: tuple[tuple[int, ...], ...]) -> str:
    """Return the first two shapes and how many more there are: a state of many tensors would fill the screen."""
    shown = [_shape(shape) for shape in outputs[:_SHOWN_SHAPES]]
    return " ".join(shown) + (f" +{len(outputs) - len(shown)}" if len(outputs) > len(shown) else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _kept(count: int, inspection: Inspection) -> tuple[str, str]:
    return format_bytes(count), format_percent(count / inspection.held_bytes) if inspection.held_bytes else ""


def _notes(inspection: Inspection) -> Iterator[str]:
    yield (
        f"kept: allocated inside the module and there at the end of forward; the step peaks "
        f"{format_bytes(inspection.peak_bytes)} above its start, static are {format_bytes(inspection.static_bytes)}"
    )
    rest = inspection.unexplained_bytes
    other = f"{'-' if rest < 0 else ''}{format_bytes(abs(rest))}"
    yield (
        f"of the {format_bytes(inspection.held_bytes)} kept, autograd saved {format_bytes(inspection.saved_bytes)}, "
        f"output and loss are {format_bytes(inspection.output_bytes)}, {other} other (fused kernels, caches, the "
        "model's own hooks and checkpoints)"
    )
    yield f"chains: {'; '.join(inspection.chains) or 'none'}"
    yield from inspection.remarks


def saved_sheets(inspection: Inspection) -> list[Sheet]:
    """Return what autograd keeps, a table for each module, the largest first; equal ones of repeated blocks folded."""
    by_module: dict[str, list[SavedTensor]] = defaultdict(list)
    for saved in inspection.saved:
        if saved.kind == "activation":
            by_module[_pattern(saved.module)].append(saved)
    largest = sorted(by_module.items(), key=lambda item: -sum(saved.bytes for saved in item[1]))
    sheets = [_saved_sheet(module, tensors) for module, tensors in largest]
    static = [saved for saved in inspection.saved if saved.kind != "activation"]
    if sheets and static:
        kinds = ", ".join(sorted({saved.kind for saved in static}))
        size = format_bytes(sum(saved.bytes for saved in static))
        note = f"besides, {kinds} tensors of {size}, which are there anyway"
        sheets[-1] = replace(sheets[-1], notes=(note,))
    return sheets


def _saved_sheet(module: str, tensors: list[SavedTensor]) -> Sheet:
    alike: dict[tuple[Any, ...], list[SavedTensor]] = defaultdict(list)
    for saved in tensors:
        shared = tuple(map(_pattern, saved.shared_with))
        alike[saved.shape, saved.dtype, saved.operator, saved.line, shared].append(saved)
    total = format_bytes(sum(saved.bytes for saved in tensors))
    return Sheet(
        title=f"{module or 'the model itself'} keeps {total}",
        header=("bytes", "shape", "dtype", "module", "operator", "line", "also kept for"),
        rows=tuple(_saved_line(key, group) for key, group in alike.items()),
    )


def _saved_line(key: tuple[Any, ...], group: list[SavedTensor]) -> tuple[str, ...]:
    shape, dtype, operator, line, _ = key
    first = group[0]
    size, shown = format_bytes(first.bytes), _shape(shape)
    if len(group) == 1:
        return size, shown, dtype, first.module, operator, line, " ".join(first.shared_with)
    shared = dict.fromkeys(map(_pattern, first.shared_with))
    return f"{size} × {len(group)}", shown, dtype, _pattern(first.module), operator, line, " ".join(shared)


def _pattern(path: str) -> str:
    """Write positions in chains as a star, so that repeated blocks have one name."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", path)
