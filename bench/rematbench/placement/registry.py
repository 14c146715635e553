"""The registry of strategies: functions from the outline of a model to regions, read from text and called.

Written `strategy[:argument][@path][+option=value]…`: `each`, `segments:4+save=matmuls`, `each@encoder.layers`,
`modules:transformer.h.*+preserve_rng=false`. A strategy acts on the outermost chains unless a path is given. A user's
own is such a function, named by where it is, `mine.py:every_other?n=3`, or registered by `strategy`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from rematbench.errors import PlacementError, shown, unknown
from rematbench.loading import check_reference, load_attribute, parse_reference
from rematbench.placement.goal import Goal
from rematbench.placement.placement import Options, Placement, Region, first_problem

if TYPE_CHECKING:
    from rematbench.placement.outline import Outline

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
        stands_alone: why neither `@path` nor `+option=value` may stand behind it; empty where they may. Behind one that
            `measures`, `@path` may all the same: it says where to plan.
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
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise PlacementError(f"{shown(text)} should be a whole number from 1")
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
        return replace(goal, at=self.path)


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
    except (Exception, SystemExit) as error:
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
        if found.stands_alone and (pairs or (at and not found.measures)):
            raise PlacementError(found.stands_alone)
        options = _options(pairs)
    except PlacementError as error:
        if str(error).startswith("unknown placement"):
            raise
        raise PlacementError(f"placement {shown(text)}: {error}") from error
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
        raise PlacementError(f"{shown(text)} is no goal of a plan: write plan:6GiB, plan-flops:60% or frontier:3/8")
    return replace(call.goal, name=text)


def spread(text: str) -> Sequence[str]:
    """Write `frontier:8` as its eight points; any other strategy as it is."""
    known = STRATEGIES.get(text.partition(":")[0])
    return known.spread(text) if known else [text]
