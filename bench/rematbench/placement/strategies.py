"""Named strategies: each turns the outline of a model into a placement.

Written `strategy[:argument][@path][+option=value]…`: `each`, `segments:4+save=matmuls`, `each@encoder.layers`,
`modules:transformer.h.*+preserve_rng=false`. A strategy acts on the outermost chains unless a path is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rematbench.errors import PlacementError, unknown
from rematbench.placement.paths import matches
from rematbench.placement.placement import Options, Placement, Region, first_problem

if TYPE_CHECKING:
    from rematbench.placement.outline import Chain, Outline

Span = tuple[int, int]
"""A run of neighbours in a chain, start and stop as in a slice."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A named strategy with its argument, the chain it is held to, and the options of its regions.

    Attributes:
        text: as the user wrote it; the placement's name.
    """

    text: str
    name: str
    argument: str | None
    path: str | None
    options: Options

    def place(self, outline: Outline) -> Placement:
        """Make the placement for a model.

        Raises:
            PlacementError: the model has no such chain or module, or too few blocks.
        """
        if self.compiles:
            return Placement(name=self.text, compile_budget=_share(self.text, self.argument))
        paths = _REGISTRY[self.name].paths(self, outline)
        options = self.options.model_dump()
        return Placement(name=self.text, regions=tuple(Region(path=path, **options) for path in paths))

    @property
    def compiles(self) -> bool:
        """Whether it compiles the model, in place of regions."""
        return self.name == "compile"

    def chains(self, outline: Outline) -> tuple[Chain, ...]:
        """Return the chains to act on: the one asked for, or the outermost."""
        if self.path is not None:
            chosen = tuple(chain for chain in outline.chains if chain.path == self.path)
            problem = unknown("chain", self.path, (chain.path for chain in outline.chains))
        else:
            chosen, problem = outline.outermost, "the model has no Sequential, ModuleList or ModuleDict of blocks"
        if not chosen:
            raise PlacementError(f"{self.text}: {problem}; modules:PATTERN takes any module")
        return chosen


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A strategy's place in the registry; `argument` is how its argument is shown, empty where it takes none."""

    argument: str
    meaning: str
    paths: Callable[[Strategy, Outline], Iterable[str]]


def parse_strategy(text: str) -> Strategy:
    """Read `strategy[:argument][@path][+option=value]…`.

    Raises:
        PlacementError: unknown strategy or option, or an argument missing, unwanted or of the wrong kind.
    """
    head, *pairs = text.split("+")
    head, at, path = head.partition("@")
    name, colon, argument = head.partition(":")
    if name not in _REGISTRY:
        raise PlacementError(unknown("placement", name, _REGISTRY))
    entry = _REGISTRY[name]
    if bool(argument) != bool(entry.argument) or (colon and not argument):
        form = f"{name}:{entry.argument}" if entry.argument else name
        raise PlacementError(f"placement {text!r}: write it as {form}")
    if entry.argument == "N":
        _count(text, argument.rpartition("/")[2])
    options = _options(text, pairs)
    if name == "compile":
        _share(text, argument)
        if at or pairs:
            raise PlacementError(f"placement {text!r}: the whole model is compiled, without regions and their options")
    return Strategy(text=text, name=name, argument=argument or None, path=path if at else None, options=options)


def known_strategies(*, every: bool = True) -> list[tuple[str, str]]:
    """Return every strategy as (how it is written, what it does), in the order they are declared.

    Those that make no regions by themselves, but leave it to a planner or a compiler, are left out unless `every`.
    """
    others = (_planned, _compiled)
    entries = {name: entry for name, entry in _REGISTRY.items() if every or entry.paths not in others}
    return [(f"{name}:{entry.argument}".rstrip(":"), entry.meaning) for name, entry in entries.items()]


def _count(text: str, argument: str | None) -> int:
    if argument is None or not argument.isdecimal() or int(argument) < 1:
        raise PlacementError(f"placement {text!r}: {argument!r} should be a whole number from 1")
    return int(argument)


def _share(text: str, argument: str | None) -> float:
    """Read `budget=0.5`."""
    word, _, share = (argument or "").partition("=")
    try:
        budget = float(share)
    except ValueError:
        budget = math.nan
    if word != "budget" or not 0 <= budget <= 1:
        raise PlacementError(f"placement {text!r}: write it as compile:budget=0.5, a share from 0 to 1")
    return budget


def _options(text: str, pairs: list[str]) -> Options:
    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name not in Options.model_fields:
            raise PlacementError(f"placement {text!r}: {unknown('option', name, Options.model_fields)}")
        if not equals:
            raise PlacementError(f"placement {text!r}: write {name}=value")
        values[name] = {"true": True, "false": False}.get(value, value)
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise PlacementError(f"placement {text!r}: {first_problem(error)}") from error


def _on_chains(spans: Callable[[int, int], Iterable[Span]]) -> Callable[[Strategy, Outline], Iterable[str]]:
    """Lift a function (blocks in the chain, the argument) -> spans to every chain the strategy acts on."""

    def paths(strategy: Strategy, outline: Outline) -> list[str]:
        count = int(strategy.argument or 0)
        chains = strategy.chains(outline)
        short = [chain for chain in chains if len(chain) < count]
        if short:
            raise PlacementError(f"{strategy.text}: {short[0].path or 'the model'} has only {len(short[0])} blocks")
        return [_written(chain, span) for chain in chains for span in spans(len(chain), count)]

    return paths


def _written(chain: Chain, span: Span) -> str:
    start, stop = span
    return f"{chain.path}[{start}]" if stop == start + 1 else f"{chain.path}[{start}:{stop}]"


def _singles(positions: Iterable[int]) -> list[Span]:
    return [(position, position + 1) for position in positions]


def _segments(length: int, count: int, start: int = 0) -> list[Span]:
    """Cut `length` blocks into `count` runs whose lengths differ by one at most, the longer ones first."""
    size, longer = divmod(length, count)
    cuts = [start + index * size + min(index, longer) for index in range(count + 1)]
    return list(pairwise(cuts))


def _torch_segments(length: int, count: int) -> list[Span]:
    """Cut as `torch.utils.checkpoint.checkpoint_sequential` does: equal runs, and what is left, at least one, plain."""
    size = length // count
    return [(start, start + size) for start in range(0, size * (count - 1), size)]


def _nested(length: int, count: int, start: int = 0) -> list[Span]:
    """Cut into `count` segments, and each of them again, down to single blocks."""
    if count < 2:
        raise PlacementError("nested:N cuts every region into N parts: N is 2 or more")
    spans: list[Span] = []
    for left, right in _segments(length, min(count, length), start):
        spans.append((left, right))
        if right - left > 1:
            spans += _nested(right - left, count, left)
    return spans


def _modules(strategy: Strategy, outline: Outline) -> list[str]:
    pattern = strategy.argument or ""
    scope = f"{strategy.path}." if strategy.path else ""
    inside = [path for path in outline.modules if path and path.startswith(scope)]
    found = [path for path in inside if matches(pattern, path.removeprefix(scope))]
    if not found:
        some = ", ".join([path for path in outline.modules if path][:12])
        raise PlacementError(f"{strategy.text}: no module matches; the model's begin {some}")
    return found


def _planned(strategy: Strategy, _outline: Outline) -> list[str]:
    raise PlacementError(f"{strategy.text} is made by measuring: use it in a run or a suite, or `rematbench plan`")


def _compiled(_strategy: Strategy, _outline: Outline) -> tuple[str, ...]:
    return ()


_REGISTRY = {
    "none": _Entry(argument="", meaning="the plain step, the reference of every row", paths=lambda *_: ()),
    "all": _Entry(argument="", meaning="each chain as one region", paths=_on_chains(lambda length, _: [(0, length)])),
    "each": _Entry(
        argument="",
        meaning="every block a region of its own",
        paths=_on_chains(lambda length, _: _singles(range(length))),
    ),
    "each-but-last": _Entry(
        argument="",
        meaning="every block but a chain's last, whose recomputation saves nothing",
        paths=_on_chains(lambda length, _: _singles(range(length - 1))),
    ),
    "every": _Entry(
        argument="N",
        meaning="every Nth block, beginning with the first",
        paths=_on_chains(lambda length, count: _singles(range(0, length, count))),
    ),
    "segments": _Entry(argument="N", meaning="each chain in N regions of even length", paths=_on_chains(_segments)),
    "checkpoint_sequential": _Entry(
        argument="N",
        meaning="as torch's function of that name: N - 1 equal regions, the rest of the chain plain",
        paths=_on_chains(_torch_segments),
    ),
    "sqrt": _Entry(
        argument="",
        meaning="each chain of n blocks in √n regions (arXiv 1604.06174)",
        paths=_on_chains(lambda length, _: _segments(length, round(math.sqrt(length)))),
    ),
    "nested": _Entry(
        argument="N", meaning="N regions, each cut into N again, down to single blocks", paths=_on_chains(_nested)
    ),
    "first": _Entry(
        argument="N",
        meaning="the first N blocks, each a region",
        paths=_on_chains(lambda _, count: _singles(range(count))),
    ),
    "last": _Entry(
        argument="N",
        meaning="the last N blocks, each a region",
        paths=_on_chains(lambda length, count: _singles(range(length - count, length))),
    ),
    "modules": _Entry(
        argument="PATTERN",
        meaning="every module whose path matches, part by part: transformer.h.*, **.mlp",
        paths=_modules,
    ),
    "compile": _Entry(
        argument="budget=SHARE",
        meaning="the model through torch.compile, which keeps up to that share, 0 to 1, of what it would save",
        paths=_compiled,
    ),
    "plan": _Entry(
        argument="BUDGET",
        meaning="the fastest that fits as measured: 6GiB, 60% of the plain step, 2GiB/step, =NAME for another's peak",
        paths=_planned,
    ),
    "plan-flops": _Entry(
        argument="BUDGET", meaning="the same with the fewest recomputed FLOPs, which no noise touches", paths=_planned
    ),
    "ckptplan": _Entry(
        argument="BUDGET",
        meaning="what the package ckptplan chooses, given our measures: 60% or 2GiB of what all blocks keep",
        paths=_planned,
    ),
    "frontier": _Entry(
        argument="N", meaning="N plans of least FLOPs, from the least peak to the plain step", paths=_planned
    ),
}
