"""A placement drawn over its model: blocks in the order they run, regions as brackets over them, skips between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rematbench.placement.paths import Index, parse_path
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


def brackets(placement: Placement, blocks: Sequence[str]) -> list[Bracket]:
    """Return the regions that cover blocks of the chain; one that lies inside a block is drawn under that block."""
    spans = [(str(region), *span) for region in placement.regions for span in _spans(region.path, blocks)]
    return [
        Bracket(text=text, first=first, last=last, depth=sum(_around(other, at, spans) for other in range(len(spans))))
        for at, (text, first, last) in enumerate(spans)
    ]


def _around(other: int, at: int, spans: Sequence[tuple[str, int, int]]) -> bool:
    """Tell whether a span lies around another; of two equal ones the first lies around the second."""
    (_, outer_first, outer_last), (_, first, last) = spans[other], spans[at]
    if (outer_first, outer_last) == (first, last):
        return other < at
    return outer_first <= first and last <= outer_last


def _spans(path: str, blocks: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where a region path lies in a chain: once, or for each member of a slice that means several regions."""
    covered: dict[tuple[str, ...], list[int]] = {}
    for at, block in enumerate(blocks):
        member = _member(path, block, blocks)
        if member is not None:
            covered.setdefault(member, []).append(at)
    yield from ((found[0], found[-1]) for found in covered.values())


def _member(path: str, block: str, blocks: Sequence[str]) -> tuple[str, ...] | None:
    """Return which of a path's regions a block belongs to; None where to none."""
    parts, names = parse_path(path), block.split(".") if block else []
    member: list[str] = []
    for place, part in enumerate(parts):
        if place >= len(names):
            return tuple(member)
        if isinstance(part, Index):
            if not _contains(part, names[:place], names[place], blocks):
                return None
            whole = part.is_run and place == len(parts) - 1
            member.append("" if whole else names[place])
        elif part != names[place]:
            return None
    return tuple(member)


def _contains(index: Index, container: Sequence[str], name: str, blocks: Sequence[str]) -> bool:
    """Tell whether an index means a child by its number; a child with a name of its own is not told."""
    prefix = ".".join(container) + "." if container else ""
    children = {int(found[1]) for block in blocks if (found := re.match(rf"{re.escape(prefix)}(\d+)(?:\.|$)", block))}
    return name.isdecimal() and int(name) in index.positions(max(children, default=-1) + 1)


def arcs(structure: Structure) -> list[Arc]:
    """Return the skips between blocks of the chain."""
    place = {block: at for at, block in enumerate(structure.blocks)} | {"": -1}
    return [
        Arc(source=place[skip.source], target=place[skip.target], bytes=skip.bytes, shape=skip.shape)
        for skip in structure.skips
        if skip.source in place and skip.target in place
    ]


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
