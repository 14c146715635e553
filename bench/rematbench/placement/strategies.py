"""The strategies that come with rematbench: each a function of the model's outline, registered under its name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rematbench.errors import PlacementError, unknown
from rematbench.placement.goal import MOST_POINTS, Goal, read_budget, read_point
from rematbench.placement.paths import RegionPath, matches
from rematbench.placement.placement import PLAIN, Placement, Region
from rematbench.placement.registry import Answer, Planning, strategy

if TYPE_CHECKING:
    from rematbench.placement.outline import Chain, Outline

Spans = Callable[[int], Iterable[tuple[int, int]]]
"""Where regions start and stop, as in slices, in a run of so many blocks."""


def _blocks(outline: Outline, positions: Callable[[int], Iterable[int]], *, least: int = 1) -> Placement:
    """Return single blocks of every chain that is acted on, those left out that cannot be a region."""
    paths: list[str] = []
    notes = _Notes()
    for chain in _chains(outline, least, notes):
        path, alone = RegionPath.of_module(chain.path), set(chain.alone)
        wanted = list(positions(len(chain)))
        paths += [path.at(position) for position in wanted if position in alone]
        notes.left_plain(chain, [position for position in wanted if position not in alone])
    paths += [RegionPath.of_module(outline.loose[position]) for position in positions(len(outline.loose))]
    return _placed(outline, paths, notes)


def _cut(outline: Outline, spans: Spans, *, least: int = 1) -> Placement:
    """Return regions over neighbours: of each run of every chain that is acted on, cut where it may be."""
    paths: list[str] = []
    notes = _Notes()
    for chain in _chains(outline, least, notes):
        path = RegionPath.of_module(chain.path)
        for run in chain.runs:
            paths += [path.over(run[start], run[stop]) for start, stop in spans(len(run) - 1)]
        spanned = {position for run in chain.runs for position in range(run[0], run[-1])}
        notes.left_plain(chain, [position for position in range(len(chain)) if position not in spanned])
    for block in outline.loose:
        paths += [RegionPath.of_module(block) for _ in spans(1)]
    return _placed(outline, paths, notes)


class _Notes:
    """What a strategy could not act on as it was asked to, in sentences for the row."""

    def __init__(self) -> None:
        self._plain: dict[str, list[str]] = {}
        self._short: list[str] = []

    def left_plain(self, chain: Chain, positions: Iterable[int]) -> None:
        path = RegionPath.of_module(chain.path)
        for position in positions:
            if position in chain.plain:
                self._plain.setdefault(chain.plain[position], []).append(path.at(position))

    def short(self, chain: Chain) -> None:
        self._short.append(f"{chain.path or 'the model'} has only {len(chain)} blocks")

    def sentences(self) -> tuple[str, ...]:
        plain = (
            f"{_some(paths)} left plain, as {'it' if len(paths) == 1 else 'each'} {why}"
            for why, paths in self._plain.items()
        )
        short = [f"{_some(self._short)}: cut as far as {'it goes' if len(self._short) == 1 else 'they go'}"]
        return (*plain, *(short if self._short else ()))


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts) if len(texts) <= 4 else f"{', '.join(texts[:3])} and {len(texts) - 3} more"


def _placed(outline: Outline, paths: Sequence[str], notes: _Notes) -> Placement:
    sentences = notes.sentences()
    if not outline.loose and not any(chain.alone for chain in outline.outermost):
        raise PlacementError(f"no block can be a region: {'; '.join(sentences)}")
    regions = tuple(Region(path=path) for path in dict.fromkeys(paths))
    return Placement(name="regions", regions=regions, notes=sentences)


def _chains(outline: Outline, least: int, notes: _Notes) -> Sequence[Chain]:
    """Return the chains that are acted on.

    Raises:
        PlacementError: there are none, and no loose blocks; or, where no step was recorded, there are fewer blocks than
            `least` in all of them together.
    """
    hint = "modules:PATTERN takes any module"
    if not outline.outermost and outline.scope is not None:
        raise PlacementError(f"{unknown('chain', outline.scope, (chain.path for chain in outline.chains))}; {hint}")
    if not outline.outermost and not outline.loose:
        raise PlacementError(f"the model has no Sequential, ModuleList or ModuleDict of blocks; {hint}")
    short = [chain for chain in outline.outermost if len(chain) < least]
    if short and not outline.recorded and sum(map(len, outline.outermost)) < least:
        raise PlacementError(f"{short[0].path or 'the model'} has only {len(short[0])} blocks")
    for chain in short:
        notes.short(chain)
    return outline.outermost


def _segments(length: int, count: int, start: int = 0) -> list[tuple[int, int]]:
    """Cut `length` blocks into `count` runs, or as many as there are, whose lengths differ by one at most.

    The longer ones come first.
    """
    count = min(count, length)
    size, longer = divmod(length, count)
    cuts = [start + index * size + min(index, longer) for index in range(count + 1)]
    return list(pairwise(cuts))


@strategy(PLAIN, "the plain step, which every row is compared with")
def _none(_outline: Outline) -> Answer:
    return ()


@strategy("all", "each chain as one region")
def _all(outline: Outline) -> Answer:
    return _cut(outline, lambda length: [(0, length)])


@strategy("each", "every block a region of its own")
def _each(outline: Outline) -> Answer:
    return _blocks(outline, range)


@strategy("each-but-last", "every block but a chain's last, whose recomputation saves nothing")
def _each_but_last(outline: Outline) -> Answer:
    return _blocks(outline, lambda length: range(length - 1))


@strategy("every:N", "every Nth block, beginning with the first")
def _every(outline: Outline, n: int) -> Answer:
    return _blocks(outline, lambda length: range(0, length, n), least=n)


@strategy("segments:N", "each chain in N regions of even length")
def _even_segments(outline: Outline, n: int) -> Answer:
    return _cut(outline, lambda length: _segments(length, n), least=n)


@strategy(
    "checkpoint_sequential:N", "as torch's function of that name: N - 1 equal regions, the rest of the chain plain"
)
def _checkpoint_sequential(outline: Outline, n: int) -> Answer:
    def spans(length: int) -> Iterator[tuple[int, int]]:
        # torch.utils.checkpoint.checkpoint_sequential: what does not divide is left over for the last, plain run.
        count = min(n, length)
        size = length // count
        yield from ((start, start + size) for start in range(0, size * (count - 1), size))

    return _cut(outline, spans, least=n)


@strategy("sqrt", "each chain of n blocks in √n regions (arXiv 1604.06174)")
def _sqrt(outline: Outline) -> Answer:
    return _cut(outline, lambda length: _segments(length, round(math.sqrt(length))))


@strategy("nested:N", "N regions, each cut into N again, down to single blocks")
def _nested(outline: Outline, n: int) -> Answer:
    if n < 2:
        raise PlacementError("nested:N cuts every region into N parts: N is 2 or more")

    def spans(length: int, start: int = 0) -> Iterator[tuple[int, int]]:
        for left, right in _segments(length, n, start):
            yield left, right
            if right - left > 1:
                yield from spans(right - left, left)

    return _cut(outline, spans, least=n)


@strategy("first:N", "the first N blocks, each a region")
def _first(outline: Outline, n: int) -> Answer:
    return _blocks(outline, lambda length: range(length)[:n], least=n)


@strategy("last:N", "the last N blocks, each a region")
def _last(outline: Outline, n: int) -> Answer:
    return _blocks(outline, lambda length: range(length)[-n:], least=n)


@strategy("modules:PATTERN", "every module whose path matches, part by part: transformer.h.*, **.mlp")
def _modules(outline: Outline, pattern: str) -> Answer:
    scope = f"{outline.scope}." if outline.scope else ""
    inside = [path for path in outline.modules if path and path.startswith(scope)]
    found = [RegionPath.of_module(path) for path in inside if matches(pattern, path.removeprefix(scope))]
    if not found:
        some = ", ".join([path for path in outline.modules if path][:12])
        raise PlacementError(f"no module matches; the model's begin {some}")
    return found


def _read_share(text: str) -> Mapping[str, Any]:
    """Read `budget=0.5`."""
    word, _, share = text.partition("=")
    try:
        budget = float(share)
    except ValueError:
        budget = math.nan
    if word != "budget" or not 0 <= budget <= 1:
        raise PlacementError("write it as compile:budget=0.5, a share from 0 to 1")
    return {"budget": budget}


@strategy(
    "compile:budget=SHARE",
    "the model through torch.compile, which keeps up to that share, 0 to 1, of what it would save",
    read=_read_share,
    stands_alone="the whole model is compiled, without regions and their options",
)
def _compile(_outline: Outline, budget: float) -> Answer:
    return Placement(name="compile", compile_budget=budget)


_planned = partial(strategy, measures=True, stands_alone="a plan chooses its regions and their options by itself")


@_planned(
    "plan:BUDGET",
    "the fastest that fits as measured: 6GiB, 60% of the plain step, 2GiB/step, =NAME for another's peak",
    read=lambda text: {"goal": read_budget(text, "time")},
)
def _plan(planning: Planning, goal: Goal) -> Answer:
    return planning.plan(goal)


@_planned(
    "plan-flops:BUDGET",
    "the same with the fewest recomputed FLOPs, which no noise touches",
    read=lambda text: {"goal": read_budget(text, "flops")},
)
def _plan_flops(planning: Planning, goal: Goal) -> Answer:
    return planning.plan(goal)


@_planned(
    "ckptplan:BUDGET",
    "what the package ckptplan chooses, given our measures: 60% or 2GiB of what all blocks keep",
    read=lambda text: {"goal": read_budget(text, "time", may_name=False)},
)
def _ckptplan(planning: Planning, goal: Goal) -> Answer:
    return planning.plan_by_ckptplan(goal)


def _points(text: str) -> Sequence[str]:
    match = re.fullmatch("frontier:([0-9]{1,9})(@.*)?", text)
    if match is None or not 1 <= int(match[1]) <= MOST_POINTS:
        return [text]
    return [f"frontier:{k}/{match[1]}{match[2] or ''}" for k in range(1, int(match[1]) + 1)]


@_planned(
    "frontier:N",
    "N plans of least FLOPs, from the least peak to the plain step",
    read=lambda text: {"goal": read_point(text)},
    spread=_points,
)
def _frontier(planning: Planning, goal: Goal) -> Answer:
    return planning.plan(goal)
