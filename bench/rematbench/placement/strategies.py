"""Strategies: functions from the outline of a model to regions, in one open registry.

Written `strategy[:argument][@path][+option=value]…`: `each`, `segments:4+save=matmuls`, `each@encoder.layers`,
`modules:transformer.h.*+preserve_rng=false`. A strategy acts on the outermost chains unless a path is given. A user's
own is such a function, named by where it is, `mine.py:every_other?n=3`, or registered by `strategy`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from rematbench.errors import PlacementError, unknown
from rematbench.loading import check_reference, load_attribute, parse_reference
from rematbench.placement.goal import Goal, read_budget, read_point
from rematbench.placement.paths import RegionPath, matches
from rematbench.placement.placement import PLAIN, Options, Placement, Region, first_problem

if TYPE_CHECKING:
    from rematbench.placement.outline import Chain, Outline

Answer = Placement | Iterable[str | Region]
"""What a strategy's function returns: regions, paths that the asked-for options are for, or a whole placement."""


class Planning(Protocol):
    """What strategies that measure ask of whoever has the model at hand."""

    def plan(self, goal: Goal) -> Placement:
        """Return the best placement for a goal, accepted as measured."""

    def plan_by_ckptplan(self, goal: Goal) -> Placement:
        """Return what the package ckptplan chooses, given our measures."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One entry of the registry.

    Attributes:
        argument: how its argument is shown, `N` or `PATTERN`; empty where it takes none.
        meaning: what it does, in a line.
        make: takes the outline, or where it `measures` a `Planning`, and the argument as read.
        read: turns the argument's text into keyword arguments of `make`; raises PlacementError.
        measures: whether it needs more than an outline.
        stands_alone: why neither `@path` nor `+option=value` may stand behind it; empty where they may.
        spread: writes one text as several, as `frontier:8` is its points.
    """

    name: str
    argument: str
    meaning: str
    make: Callable[..., Answer]
    read: Callable[[str], Mapping[str, Any]]
    measures: bool = False
    stands_alone: str = ""
    spread: Callable[[str], Sequence[str]]

    @property
    def form(self) -> str:
        """How it is written: `segments:N`."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


STRATEGIES: dict[str, Strategy] = {}
"""Every registered strategy by name, in the order they were declared."""


def strategy(
    form: str,
    meaning: str,
    *,
    read: Callable[[str], Mapping[str, Any]] | None = None,
    measures: bool = False,
    stands_alone: str = "",
    spread: Callable[[str], Sequence[str]] | None = None,
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function as a strategy; the arguments are those of `Strategy`.

    Args:
        form: `each`, or with an argument `every:N`, whose function takes a whole number `n`, or `modules:PATTERN`,
            whose function takes the text as `pattern`, unless `read` says otherwise.

    Raises:
        ValueError: the name is taken.
    """
    name, _, argument = form.partition(":")
    if name in STRATEGIES:
        raise ValueError(f"there is a strategy {name!r} already")

    def register(make: Callable[..., Answer]) -> Callable[..., Answer]:
        STRATEGIES[name] = Strategy(
            name=name,
            argument=argument,
            meaning=meaning,
            make=make,
            read=read or partial(_read_argument, argument),
            measures=measures,
            stands_alone=stands_alone,
            spread=spread or _as_it_is,
        )
        return make

    return register


def _as_it_is(text: str) -> Sequence[str]:
    return [text]


def _read_argument(kind: str, text: str) -> Mapping[str, Any]:
    if kind != "N":
        return {kind.lower(): text} if kind else {}
    if not text.isdecimal() or int(text) < 1:
        raise PlacementError(f"{text!r} should be a whole number from 1")
    return {"n": int(text)}


@dataclass(frozen=True, kw_only=True)
class StrategyCall:
    """A strategy as it was asked for: read once, resolved on as many models as one likes.

    Attributes:
        text: as the user wrote it; the placement's name.
        arguments: of the strategy's function.
        path: the chain or module it is held to; None for the outermost chains.
        options: of its regions.
    """

    text: str
    strategy: Strategy = field(compare=False)  # the text says it all
    arguments: Mapping[str, Any] = field(default_factory=dict, compare=False)
    path: str | None = field(default=None, compare=False)
    options: Options = field(default_factory=Options, compare=False)

    def __str__(self) -> str:
        return self.text

    def resolve(
        self,
        outline: Outline,
        planning: Planning | None = None,
        *,
        name: str | None = None,
        options: Options | None = None,
    ) -> Placement:
        """Make the placement for a model.

        Args:
            outline: of the model.
            planning: for strategies that measure.
            name: of the placement; the text by default.
            options: further ones, which hold where a region does not say otherwise.

        Raises:
            PlacementError: the model has no such chain or module, or too few blocks; a plan that nobody can measure, or
                that fits nothing; a function of the user's that failed or returned something else.
        """
        name = name or self.text
        if self.strategy.measures:
            if planning is None:
                raise PlacementError(
                    f"{self.text} is made by measuring: use it in a run or a suite, or `rematbench plan`"
                )
            return _named(
                self.strategy.make(planning, **{**self.arguments, "goal": replace(self.goal, name=name)}), name, {}
            )
        changed = (options.changed() if options else {}) | self.options.changed()
        try:
            scoped = outline if self.path is None else outline.at(self.path)
            return _named(self.strategy.make(scoped, **self.arguments), name, changed)
        except PlacementError as error:
            raise PlacementError(f"{self.text}: {error}") from error

    @property
    def goal(self) -> Goal:
        """What a strategy that measures is asked for."""
        goal: Goal = self.arguments["goal"]
        return goal


def placed_by(function: Callable[..., Answer], outline: Outline) -> Placement:
    """Make the placement that a function of the user's makes of a model; it is named after the function.

    Raises:
        PlacementError: it failed, or returned something else than paths, regions or a placement.
    """
    name = getattr(function, "__name__", type(function).__name__)
    return StrategyCall(text=name, strategy=_own(name, partial(_called, function))).resolve(outline)


def _called(function: Callable[..., Answer], outline: Outline, **arguments: Any) -> Answer:
    """Call a user's function, and tell what went wrong in it as a mistake of theirs."""
    try:
        answer = function(outline, **arguments)
        return answer if isinstance(answer, Placement) else list(answer)
    except PlacementError:
        raise
    except Exception as error:
        raise PlacementError(f"{type(error).__name__}: {error}") from error


def _named(answer: Answer, name: str, options: Mapping[str, object]) -> Placement:
    """Make a placement of what a strategy returned; what a region says itself goes before the options asked for."""
    made: list[Region] = []
    for region in answer.regions if isinstance(answer, Placement) else answer:
        if not isinstance(region, str | Region):
            raise PlacementError(f"a {type(region).__name__} is no region: return region paths, regions or a placement")
        said = {"path": region} if isinstance(region, str) else {"path": region.path, **region.changed()}
        try:
            made.append(Region.model_validate({**options, **said}))
        except ValidationError as error:
            raise PlacementError(first_problem(error)) from error
    placement = answer if isinstance(answer, Placement) else Placement(name=name)
    return placement.model_copy(update={"name": name, "regions": tuple(made)})


def parse_strategy(text: str) -> StrategyCall:
    """Read `strategy[:argument][@path][+option=value]…`, or in place of the first part `file.py:function[?name=value]`.

    Raises:
        PlacementError: unknown strategy or option, or an argument missing, unwanted or of the wrong kind.
    """
    head, *pairs = text.split("+")
    head, at, path = head.partition("@")
    try:
        found, arguments = _looked_up(head)
        if found.stands_alone and (at or pairs):
            raise PlacementError(found.stands_alone)
        options = _options(pairs)
    except PlacementError as error:
        if str(error).startswith("unknown placement"):
            raise
        raise PlacementError(f"placement {text!r}: {error}") from error
    return StrategyCall(text=text, strategy=found, arguments=arguments, path=path if at else None, options=options)


def _looked_up(head: str) -> tuple[Strategy, Mapping[str, Any]]:
    """Return the strategy of a text, registered or a user's own, and the arguments of its function."""
    name, colon, argument = head.partition(":")
    if name not in STRATEGIES:
        return _own_strategy(head)
    found = STRATEGIES[name]
    if bool(argument) != bool(found.argument) or (colon and not argument):
        raise PlacementError(f"write it as {found.form}")
    return found, found.read(argument)


def _own_strategy(head: str) -> tuple[Strategy, Mapping[str, Any]]:
    """Return a strategy that is a function in the user's file or package; it is loaded when it is resolved.

    Here nothing of the user's is imported; a file or a package that is plainly not there is a misspelt strategy.
    """
    reference, arguments = parse_reference(head, PlacementError)
    source, _, attribute = reference.rpartition(":")
    if not re.fullmatch(r"\w[\w.]*(/[\w.-]+)*|[\w./-]+\.py", source) or not attribute.isidentifier():
        raise PlacementError(_unknown(head))
    if source.endswith(".py"):
        check_reference(reference, Path.cwd(), PlacementError)
    elif PathFinder.find_spec(source.partition(".")[0], [str(Path.cwd()), *sys.path]) is None:
        raise PlacementError(_unknown(head))

    def make(outline: Outline, **given: Any) -> Answer:
        function = load_attribute(reference, Path.cwd(), PlacementError)
        if not callable(function):
            raise PlacementError(f"{reference} is a {type(function).__name__}: expected a function of the outline")
        return _called(function, outline, **given)

    return _own(reference, make), arguments


def _own(name: str, make: Callable[..., Answer]) -> Strategy:
    return Strategy(name=name, argument="", meaning="", make=make, read=lambda _: {}, spread=_as_it_is)


def _unknown(head: str) -> str:
    return f"{unknown('placement', head.partition(':')[0], STRATEGIES)}; your own is file.py:function"


def _options(pairs: Iterable[str]) -> Options:
    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name not in Options.model_fields:
            raise PlacementError(unknown("option", name, Options.model_fields))
        if not equals:
            raise PlacementError(f"write {name}=value")
        values[name] = {"true": True, "false": False}.get(value, value)
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise PlacementError(first_problem(error)) from error


def parse_goal(text: str) -> Goal:
    """Read a goal from a strategy's text.

    Raises:
        PlacementError: it is none.
    """
    call = parse_strategy(text)
    if not call.strategy.measures:
        raise PlacementError(f"{text!r} is no goal of a plan: write plan:6GiB, plan-flops:60% or frontier:3/8")
    return replace(call.goal, name=text)


def spread(text: str) -> Sequence[str]:
    """Write `frontier:8` as its eight points; any other strategy as it is."""
    known = STRATEGIES.get(text.partition(":")[0])
    return known.spread(text) if known else [text]


def _cut(
    outline: Outline, spans: Callable[[int], Iterable[tuple[int, int]]], *, least: int = 0
) -> Iterator[RegionPath]:
    """Yield the regions of every chain that is acted on; each has `least` blocks or more."""
    for chain in _chains(outline, least):
        path = RegionPath.of_module(chain.path)
        yield from (path.over(start, stop) for start, stop in spans(len(chain)))


def _chains(outline: Outline, least: int) -> Sequence[Chain]:
    hint = "modules:PATTERN takes any module"
    if not outline.outermost and outline.scope is not None:
        raise PlacementError(f"{unknown('chain', outline.scope, (chain.path for chain in outline.chains))}; {hint}")
    if not outline.outermost:
        raise PlacementError(f"the model has no Sequential, ModuleList or ModuleDict of blocks; {hint}")
    for chain in outline.outermost:
        if len(chain) < least:
            raise PlacementError(f"{chain.path or 'the model'} has only {len(chain)} blocks")
    return outline.outermost


def _singles(positions: Iterable[int]) -> list[tuple[int, int]]:
    return [(position, position + 1) for position in positions]


def _segments(length: int, count: int, start: int = 0) -> list[tuple[int, int]]:
    """Cut `length` blocks into `count` runs whose lengths differ by one at most, the longer ones first."""
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
    return _cut(outline, lambda length: _singles(range(length)))


@strategy("each-but-last", "every block but a chain's last, whose recomputation saves nothing")
def _each_but_last(outline: Outline) -> Answer:
    return _cut(outline, lambda length: _singles(range(length - 1)))


@strategy("every:N", "every Nth block, beginning with the first")
def _every(outline: Outline, n: int) -> Answer:
    return _cut(outline, lambda length: _singles(range(0, length, n)), least=n)


@strategy("segments:N", "each chain in N regions of even length")
def _even_segments(outline: Outline, n: int) -> Answer:
    return _cut(outline, lambda length: _segments(length, n), least=n)


@strategy(
    "checkpoint_sequential:N", "as torch's function of that name: N - 1 equal regions, the rest of the chain plain"
)
def _checkpoint_sequential(outline: Outline, n: int) -> Answer:
    def spans(length: int) -> Iterator[tuple[int, int]]:
        # torch.utils.checkpoint.checkpoint_sequential: what does not divide is left over for the last, plain run.
        size = length // n
        yield from ((start, start + size) for start in range(0, size * (n - 1), size))

    return _cut(outline, spans, least=n)


@strategy("sqrt", "each chain of n blocks in √n regions (arXiv 1604.06174)")
def _sqrt(outline: Outline) -> Answer:
    return _cut(outline, lambda length: _segments(length, round(math.sqrt(length))))


@strategy("nested:N", "N regions, each cut into N again, down to single blocks")
def _nested(outline: Outline, n: int) -> Answer:
    if n < 2:
        raise PlacementError("nested:N cuts every region into N parts: N is 2 or more")

    def spans(length: int, start: int = 0) -> Iterator[tuple[int, int]]:
        for left, right in _segments(length, min(n, length), start):
            yield left, right
            if right - left > 1:
                yield from spans(right - left, left)

    return _cut(outline, spans, least=n)


@strategy("first:N", "the first N blocks, each a region")
def _first(outline: Outline, n: int) -> Answer:
    return _cut(outline, lambda _: _singles(range(n)), least=n)


@strategy("last:N", "the last N blocks, each a region")
def _last(outline: Outline, n: int) -> Answer:
    return _cut(outline, lambda length: _singles(range(length - n, length)), least=n)


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


_BY_ITSELF = "a plan chooses its regions and their options by itself"


@strategy(
    "plan:BUDGET",
    "the fastest that fits as measured: 6GiB, 60% of the plain step, 2GiB/step, =NAME for another's peak",
    read=lambda text: {"goal": read_budget(text, "time")},
    measures=True,
    stands_alone=_BY_ITSELF,
)
def _plan(planning: Planning, goal: Goal) -> Answer:
    return planning.plan(goal)


@strategy(
    "plan-flops:BUDGET",
    "the same with the fewest recomputed FLOPs, which no noise touches",
    read=lambda text: {"goal": read_budget(text, "flops")},
    measures=True,
    stands_alone=_BY_ITSELF,
)
def _plan_flops(planning: Planning, goal: Goal) -> Answer:
    return planning.plan(goal)


@strategy(
    "ckptplan:BUDGET",
    "what the package ckptplan chooses, given our measures: 60% or 2GiB of what all blocks keep",
    read=lambda text: {"goal": read_budget(text, "time", may_name=False)},
    measures=True,
    stands_alone=_BY_ITSELF,
)
def _ckptplan(planning: Planning, goal: Goal) -> Answer:
    return planning.plan_by_ckptplan(goal)


def _points(text: str) -> Sequence[str]:
    match = re.fullmatch(r"frontier:(\d+)", text)
    if match is None or int(match[1]) < 1:
        return [text]
    return [f"frontier:{k}/{match[1]}" for k in range(1, int(match[1]) + 1)]


@strategy(
    "frontier:N",
    "N plans of least FLOPs, from the least peak to the plain step",
    read=lambda text: {"goal": read_point(text)},
    spread=_points,
    measures=True,
    stands_alone=_BY_ITSELF,
)
def _frontier(planning: Planning, goal: Goal) -> Answer:
    return planning.plan(goal)
