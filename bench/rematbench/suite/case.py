"""A case: one placement to measure, as a suite or the command line writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from rematbench.errors import RematbenchError
from rematbench.placement.goal import Goal, goal_of, spread
from rematbench.placement.placement import Options, Placement, Region
from rematbench.placement.strategies import parse_strategy

if TYPE_CHECKING:
    from rematbench.placement.outline import Outline

_ONE_SOURCE = "give one of strategy, file or regions"


class Case(Options):
    """A placement to measure: a strategy, resolved once the model is built, or the regions themselves.

    Written as a string it is a strategy or the path of a placement file. As a table it has `strategy`, `file` or
    `regions`; options beside them hold for every region that does not say otherwise.
    """

    name: str
    strategy: str | None = None
    regions: Annotated[tuple[Region, ...], Field(strict=False)] = ()
    fingerprint: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"file" if data.endswith((".toml", ".json")) else "strategy": data}
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("file"), str):
            if data.get("regions"):
                raise ValueError(_ONE_SOURCE)
            placement = explained(Placement.load, data["file"])
            told = {"name": placement.name, "regions": placement.regions, "fingerprint": placement.fingerprint}
            data = told | without(data, "file")
        if isinstance(data.get("strategy"), str):
            options = {name: data[name] for name in Options.model_fields if name in data}
            data = {"name": data["strategy"] + _written(options)} | data
        return data

    @field_validator("strategy")
    @classmethod
    def _known(cls, strategy: str | None) -> str | None:
        if strategy is not None:
            explained(lambda text: goal_of(parse_strategy(text)), strategy)
        return strategy

    @field_validator("regions")
    @classmethod
    def _filled(cls, regions: tuple[Region, ...], info: ValidationInfo) -> tuple[Region, ...]:
        """Give every region the table's options that it does not say itself, the default or not."""
        shared = {name: value for name, value in info.data.items() if name in Options.model_fields}
        return tuple(region.model_copy(update=shared | region.model_dump(exclude_unset=True)) for region in regions)

    @field_serializer("regions")
    def _said(self, regions: tuple[Region, ...]) -> list[dict[str, object]]:
        """Write of every region its path and what the table does not say already."""
        return [
            {name: value for name, value in region if name == "path" or value != getattr(self, name)}
            for region in regions
        ]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.strategy is None) == (not self.regions):
            raise ValueError(_ONE_SOURCE)
        if self.goal() is not None and self.changed():
            raise ValueError(f"{self.strategy}: a plan chooses its regions and their options by itself")
        if self.strategy is not None and parse_strategy(self.strategy).compiles and self.changed():
            raise ValueError(f"{self.strategy}: a compiled model has no regions to give an option")
        return self

    def goal(self) -> Goal | None:
        """Return what a planner is asked for; None where the placement needs no measuring."""
        if self.strategy is None:
            return None
        goal = goal_of(parse_strategy(self.strategy))
        return replace(goal, name=self.name) if goal else None

    def place(self, outline: Outline) -> Placement:
        """Make the placement for a model.

        Raises:
            PlacementError: the model does not have what the strategy asks for.
        """
        if self.strategy is None:
            return Placement(name=self.name, regions=self.regions, fingerprint=self.fingerprint)
        placement, shared = parse_strategy(self.strategy).place(outline), self.changed()
        regions = tuple(region.model_copy(update=shared | region.changed()) for region in placement.regions)
        return placement.model_copy(update={"name": self.name, "regions": regions})


def spread_cases(data: Any) -> Any:
    """Write every `frontier:N` in a list of placements as its N points, before anything is validated."""
    if not isinstance(data, list | tuple):
        return data
    return [point for entry in data for point in (spread(entry) if isinstance(entry, str) else [entry])]


def explained(read: Callable[[str], Any], text: str) -> Any:
    """Call a reader inside a validator, so that pydantic puts the key before what it complains of."""
    try:
        return read(text)
    except RematbenchError as error:
        raise ValueError(str(error)) from error


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table without one of its keys."""
    return {name: value for name, value in data.items() if name != key}


def _written(options: dict[str, Any]) -> str:
    return "".join(f"+{name}={str(value).lower()}" for name, value in options.items())
