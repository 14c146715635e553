"""From a placement's paths to the modules of one model: where each region starts and ends, and what it holds inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from rematbench.errors import PlacementError, unknown
from rematbench.placement.paths import Index, RegionPath
from rematbench.placement.placement import Placement, Region
from rematbench.placing.containers import CONTAINERS, has_forward
from rematbench.placing.outline import outline
from rematbench.torch_internals import children_of

DEEPEST = 100
"""How deep regions may nest: torch runs each inside the one around it, some nine calls a region, and Python's stack has
room for a thousand."""


@dataclass(kw_only=True)
class Site:
    """A region found in a model: `stop - start` neighbours among the children of one parent.

    Attributes:
        region: the region as written.
        parent: path of the parent; None for the model itself, which has none.
        start, stop: positions among the parent's children.
        names: each member's path.
        members: each member's module.
        sequential: whether the parent is a `Sequential`, which hands all of a member's result to the next.
        inner: the regions directly inside this one that cover neighbours of the same parent.
    """

    region: Region
    parent: str | None
    start: int
    stop: int
    names: tuple[str, ...]
    members: tuple[nn.Module, ...]
    sequential: bool = False
    inner: list[Site] = field(default_factory=list)


def find_sites(model: nn.Module, placement: Placement) -> list[Site]:
    """Return the outermost sites of every parent, the sites inside them nested by containment.

    Raises:
        PlacementError: a path matches nothing, two regions overlap, are the same or nest deeper than `DEEPEST`, or one
            module stands twice.
    """
    tree = _Tree(model)
    by_parent: dict[str | None, list[Site]] = defaultdict(list)
    for region in placement.regions:
        for site in _locate(tree, region):
            sites = by_parent[site.parent]
            sites.append(site)
            # Now and then, and not at the end alone: thousands inside each other name millions of members by then.
            if len(sites) > DEEPEST and len(sites).bit_count() == 1:
                _refuse_depth(sites)
    forest = [site for sites in by_parent.values() for site in _nest(sites)]
    _refuse_repeats(forest)
    return forest


def covered_modules(forest: Iterable[Site]) -> tuple[str, ...]:
    """Return the paths of the members that some region recomputes, each once, outermost regions only."""
    names = dict.fromkeys(name for site in _every(forest) if site.region.save != "everything" for name in site.names)
    return tuple(name for name in names if not any(parent in names for parent in _ancestors(name)))


def depth(forest: Iterable[Site]) -> int:
    """Return how deep these sites nest; 1 where none is inside another, 0 where there are none."""
    found, level = 0, list(forest)
    while level:
        found, level = found + 1, [inner for site in level for inner in site.inner]
    return found


def _every(forest: Iterable[Site]) -> Iterator[Site]:
    for site in forest:
        yield site
        yield from _every(site.inner)


def _ancestors(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


class _Place(NamedTuple):
    """A module reached by a path, and where it stands among its parent's children."""

    path: str
    name: str
    module: nn.Module
    parent: str | None
    position: int
    sequential: bool = False
    callable: bool = True


class _Tree:
    """A model's modules by path, each parent's children listed once however many regions name them."""

    def __init__(self, model: nn.Module) -> None:
        self.root = _Place("", "", model, None, 0, callable=has_forward(model))
        self._children: dict[str, list[_Place]] = {}

    def children(self, place: _Place) -> list[_Place]:
        if place.path not in self._children:
            prefix = f"{place.path}." if place.path else ""
            sequential = isinstance(place.module, nn.Sequential)
            self._children[place.path] = [
                _Place(prefix + name, name, child, place.path, at, sequential, has_forward(child))
                for at, (name, child) in enumerate(children_of(place.module))
            ]
        return self._children[place.path]


def _locate(tree: _Tree, region: Region) -> list[Site]:
    """Walk a region's path; a slice with more path behind it, or with a step, branches into one site a member."""
    parts = RegionPath(region.path).parts
    reached = [tree.root]
    for part in parts[:-1]:
        reached = [child for place in reached for child in _select(tree, region, place, part)]
    if not parts:
        return [_site(region, reached)]
    chosen = [_select(tree, region, place, parts[-1]) for place in reached]
    if isinstance(parts[-1], Index) and parts[-1].is_run:
        return [_site(region, run) for run in chosen]
    return [_site(region, [place]) for run in chosen for place in run]


def _site(region: Region, run: list[_Place]) -> Site:
    _refuse_uncallable(region, run)
    start, stop = run[0].position, run[-1].position + 1
    names, members = tuple(place.path for place in run), tuple(place.module for place in run)
    return Site(
        region=region,
        parent=run[0].parent,
        start=start,
        stop=stop,
        names=names,
        members=members,
        sequential=run[0].sequential,
    )


def _refuse_uncallable(region: Region, run: list[_Place]) -> None:
    """Refuse what nothing ever calls, above all the lists themselves: a region there would do nothing, unnoticed."""
    for place in run:
        if not place.callable:
            inside = ", ".join(name for name, _ in children_of(place.module)[:12]) or "no module"
            kind = type(place.module).__name__
            raise PlacementError(
                f"region {region.path!r}: {place.path or 'the model'} is a {kind}, which has no forward to checkpoint; "
                f"inside it is {inside}"
            )


def _select(tree: _Tree, region: Region, place: _Place, part: str | Index) -> list[_Place]:
    """Return the children that one part of a path means.

    Raises:
        PlacementError: there are none; the sentence lists what there is.
    """
    children = tree.children(place)
    where = place.path or "the model"
    if isinstance(part, str):
        named = [child for child in children if child.name == part]
        if not named:
            problem = unknown("module", part, (child.name for child in children))
            raise PlacementError(f"region {region.path!r} matches nothing in {where}: {problem}")
        return named
    if not isinstance(place.module, CONTAINERS):
        chains = ", ".join(map(str, outline(tree.root.module).chains)) or "no chain"
        kind = type(place.module).__name__
        raise PlacementError(f"region {region.path!r}: {where} is a {kind}, not a chain; the model has {chains}")
    chosen = [children[position] for position in part.positions(len(children))]
    if not chosen:
        raise PlacementError(f"region {region.path!r} matches nothing: {where} has {len(children)} blocks")
    return chosen


def _nest(sites: list[Site]) -> list[Site]:
    """Order the sites of one parent into a forest by containment, in one sweep from left to right."""
    _refuse_depth(sites)
    roots: list[Site] = []
    open_sites: list[Site] = []
    for site in sorted(sites, key=lambda site: (site.start, -site.stop)):
        while open_sites and open_sites[-1].stop <= site.start:
            open_sites.pop()
        if open_sites:
            _refuse_overlap(open_sites[-1], site)
        (open_sites[-1].inner if open_sites else roots).append(site)
        open_sites.append(site)
    return roots


def _refuse_depth(sites: list[Site]) -> None:
    stops: list[int] = []
    for site in sorted(sites, key=lambda site: (site.start, -site.stop)):
        while stops and stops[-1] <= site.start:
            stops.pop()
        stops.append(site.stop)
        if len(stops) > DEEPEST:
            raise PlacementError(
                f"region {site.region.path!r} is inside {DEEPEST} others: each runs inside the one around it, and "
                f"Python's stack has no room for more; leave some out"
            )


def _refuse_overlap(outer: Site, site: Site) -> None:
    first, second = outer.region.path, site.region.path
    if (outer.start, outer.stop) == (site.start, site.stop):
        raise PlacementError(f"regions {first!r} and {second!r} are the same: leave one out")
    if site.stop > outer.stop:
        raise PlacementError(f"regions {first!r} and {second!r} overlap: nest one inside the other or keep them apart")


def _refuse_repeats(forest: list[Site]) -> None:
    seen: dict[int, str] = {}
    for name, module in ((n, m) for site in forest for n, m in zip(site.names, site.members, strict=True)):
        first = seen.setdefault(id(module), name)
        if first != name:
            raise PlacementError(
                f"{first} and {name} are one module with shared weights: give a region to only one of them"
            )
