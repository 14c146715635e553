"""A placement drawn over its model: blocks in the order they run, regions as brackets over them, skips between them."""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rematbench.placement.paths import Index, RegionPath
from rematbench.placement.placement import Placement
from rematbench.records.measurement import Structure


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A region over neighbouring blocks, by their positions, both ends included; `depth` is 0 for an outermost one."""

    text: str
    first: int
    last: int
    depth: int


@dataclass(frozen=True, kw_only=True)
class Arc:
    """A tensor that goes from one block's position to another's; -1 where it comes with the batch."""

    source: int
    target: int
    bytes: int
    shape: tuple[int, ...]


CELLS = 240
"""How many blocks are told apart at most: more would be narrower than what can be seen, and pointed at."""

DRAWN = 300
"""How many regions, and how many skips, are drawn over the blocks at most; and how deep regions inside others are."""

_DEPTHS = 12


def cells(blocks: Sequence[str]) -> list[range]:
    """Return which neighbouring blocks stand for one in a drawing: each for itself, but where there are too many."""
    size = -(-len(blocks) // CELLS) or 1
    return [range(start, min(start + size, len(blocks))) for start in range(0, len(blocks), size)]


def cell_names(blocks: Sequence[str]) -> list[str]:
    """Return what stands at each cell."""
    named = [block or "(model)" for block in blocks]
    return [named[cell[0]] if len(cell) == 1 else f"{named[cell[0]]} to {named[cell[-1]]}" for cell in cells(blocks)]


def drawn_brackets(placement: Placement, blocks: Sequence[str]) -> tuple[list[Bracket], list[str]]:
    """Return the brackets over cells, those that cannot be told apart as one, and what is not drawn in sentences."""
    size = len(cells(blocks)[0]) if blocks else 1
    found: dict[tuple[int, int, int], list[Bracket]] = {}
    every = brackets(placement, blocks)
    for one in every:
        found.setdefault((one.depth, one.first // size, one.last // size), []).append(one)
    drawn = [
        Bracket(
            text=f"region {same[0].text}" if len(same) == 1 else f"{len(same)} regions, first {same[0].text}",
            first=first,
            last=last,
            depth=depth,
        )
        for (depth, first, last), same in sorted(found.items(), key=lambda item: item[0][0])
        if depth < _DEPTHS
    ]
    notes = [f"{len(blocks):,} blocks, {size} neighbours drawn as one"] if size > 1 else []
    if len(drawn) > DRAWN or len(drawn) < len(found):
        rest = len(every) - sum(len(found[one.depth, one.first, one.last]) for one in drawn[:DRAWN])
        notes.append(f"{rest:,} of {len(every):,} regions are not drawn, those deepest inside others")
    return drawn[:DRAWN], notes


def brackets(placement: Placement, blocks: Sequence[str]) -> list[Bracket]:
    """Return the regions that cover blocks of the chain; one that lies inside a block is drawn under that block."""
    top = _tree(blocks)
    spans = [(str(region), *span) for region in placement.regions for span in _spans(region.path, top)]
    depths = _depths([(first, last) for _, first, last in spans])
    return [
        Bracket(text=text, first=first, last=last, depth=depth)
        for (text, first, last), depth in zip(spans, depths, strict=True)
    ]


def _depths(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return how many others lie around each span; of two equal ones the first lies around the second."""
    depths = [0] * len(spans)
    ends: list[int] = []  # of the spans that begin no later, in order
    for at in sorted(range(len(spans)), key=lambda at: (spans[at][0], -spans[at][1])):
        _, last = spans[at]
        depths[at] = len(ends) - bisect_left(ends, last)
        insort(ends, last)
    return depths


@dataclass(kw_only=True)
class _Node:
    """A module that is a block or lies around blocks: its block's position, and the first and last block inside.

    Attributes:
        block: None where the module itself is no block.
        children: by name.
        numbered: those whose names are numbers, by them.
    """

    block: int | None = None
    first: int = sys.maxsize
    last: int = -1
    children: dict[str, _Node] = field(default_factory=dict)
    numbered: dict[int, list[tuple[str, _Node]]] = field(default_factory=dict)


def _tree(blocks: Sequence[str]) -> _Node:
    top = _Node()
    for at, block in enumerate(blocks):
        node = top
        _widen(node, at, at)
        for name in block.split(".") if block else ():
            if name not in node.children:
                node.children[name] = _Node()
                if name.isdecimal():
                    node.numbered.setdefault(int(name), []).append((name, node.children[name]))
            node = node.children[name]
            _widen(node, at, at)
        node.block = at
    return top


def _widen(node: _Node, first: int, last: int) -> None:
    node.first, node.last = min(node.first, first), max(node.last, last)


def _spans(path: str, top: _Node) -> list[tuple[int, int]]:
    """Return where a region path lies in a chain: once, or for each member of a slice that means several regions.

    A member is told by the names that a part of the path could have meant others by; the children that a run at the
    end of it means are one.
    """
    parts = RegionPath(path).parts
    covered: dict[tuple[str, ...], _Node] = {}

    def cover(member: tuple[str, ...], first: int, last: int) -> None:
        _widen(covered.setdefault(member, _Node()), first, last)

    reached: list[tuple[tuple[str, ...], _Node]] = [((), top)]
    for place, part in enumerate(parts):
        following: list[tuple[tuple[str, ...], _Node]] = []
        for member, node in reached:
            if node.block is not None:  # the path goes on inside a block
                cover(member, node.block, node.block)
            if isinstance(part, Index):
                whole = part.is_run and place == len(parts) - 1
                following += [((*member, "" if whole else name), child) for name, child in _indexed(part, node)]
            elif part in node.children:
                following.append((member, node.children[part]))
        reached = following
    for member, node in reached:
        if node.last >= 0:
            cover(member, node.first, node.last)
    return sorted((found.first, found.last) for found in covered.values())


def _indexed(index: Index, node: _Node) -> Iterator[tuple[str, _Node]]:
    """Yield the children that an index means by their numbers; a child with a name of its own is not told."""
    for position in index.positions(max(node.numbered, default=-1) + 1):
        yield from node.numbered.get(position, ())


def arcs(structure: Structure) -> list[Arc]:
    """Return the skips between blocks of the chain."""
    place = {block: at for at, block in enumerate(structure.blocks)} | {"": -1}
    return [
        Arc(source=place[skip.source], target=place[skip.target], bytes=skip.bytes, shape=skip.shape)
        for skip in structure.skips
        if skip.source in place and skip.target in place
    ]


def drawn_arcs(structure: Structure) -> list[tuple[Arc, Arc]]:
    """Return the largest skips, each as it is drawn between cells and as it is."""
    size = len(cells(structure.blocks)[0]) if structure.blocks else 1
    largest = sorted(arcs(structure), key=lambda arc: -arc.bytes)[:DRAWN]
    return [(replace(arc, source=arc.source // size, target=arc.target // size), arc) for arc in largest]


def held(held_by_block: Mapping[str, int], blocks: Sequence[str]) -> list[int]:
    """Return the bytes kept by each block, what its inner modules allocated included, and last those of none."""
    totals = [0] * (len(blocks) + 1)
    place = {block: at for at, block in enumerate(blocks)}
    for path, count in held_by_block.items():
        around = path
        while around and around not in place:
            around = around.rpartition(".")[0]
        totals[place.get(around, -1)] += count
    return totals
