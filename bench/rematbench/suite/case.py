"""A case: one placement to measure, as a suite or the command line writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from rematbench.errors import RematbenchError
from rematbench.placement.placement import FILE_ENDINGS, PLAIN, Options, Placement, Region
from rematbench.placement.registry import Planning, StrategyCall, parse_strategy, spread

if TYPE_CHECKING:
    from rematbench.placement.outline import Outline

_Read = TypeVar("_Read")
_ONE_SOURCE = "give one of strategy, file or regions"


def _read(value: object) -> StrategyCall:
    if isinstance(value, StrategyCall):
        return value
    if not isinstance(value, str):
        raise ValueError("a strategy is text, such as each or segments:4")
    return explained(parse_strategy, value)


class Case(Options):
    """A placement to measure: a strategy, resolved once the model is built, or the regions themselves.

    Written as a string it is a strategy or the path of a placement file. As a table it has `strategy`, `file` or
    `regions`; options beside them hold for every region that does not say otherwise.

    Attributes:
        strategy: read once, when the case is; written as its text.
    """

    name: Annotated[str, Field(min_length=1)]
    strategy: Annotated[StrategyCall, PlainValidator(_read), PlainSerializer(str)] | None = None
    regions: Annotated[tuple[Region, ...], Field(strict=False)] = ()
    fingerprint: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"file" if data.endswith(FILE_ENDINGS) else "strategy": data}
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("file"), str):
            if data.get("regions"):
                raise ValueError(_ONE_SOURCE)
            placement = explained(Placement.load, data["file"])
            said = {"name": placement.name, "regions": placement.regions, "fingerprint": placement.fingerprint}
            data = said | without(data, "file")
        if isinstance(data.get("strategy"), str):
            options = [f"+{name}={str(data[name]).lower()}" for name in Options.model_fields if name in data]
            data = {"name": data["strategy"] + "".join(options)} | data
        return data

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
        if self.strategy is not None and self.strategy.strategy.stands_alone and self.changed():
            raise ValueError(f"{self.strategy}: {self.strategy.strategy.stands_alone}")
        return self

    @property
    def acts_on_chains(self) -> bool:
        """Whether its strategy goes by the chains of a model, which a step shows better than the model's containers."""
        strategy = self.strategy
        return strategy is not None and strategy.text != PLAIN and not strategy.strategy.stands_alone

    def resolve(self, outline: Outline, planning: Planning | None = None) -> Placement:
        """Make the placement for a model.

        Args:
            outline: of the model.
            planning: for a strategy that measures.

        Raises:
            PlacementError: the model does not have what the strategy asks for, or no plan fits.
        """
        if self.strategy is None:
            return Placement(name=self.name, regions=self.regions, fingerprint=self.fingerprint)
        return self.strategy.resolve(outline, planning, name=self.name, options=self)


def spread_cases(data: Any) -> Any:
    """Write every `frontier:N` in a list of placements as its N points, before anything is validated."""
    if not isinstance(data, list | tuple):
        return data
    return [point for entry in data for point in (spread(entry) if isinstance(entry, str) else [entry])]


def explained(read: Callable[[str], _Read], text: str) -> _Read:
    """Call a reader inside a validator, so that pydantic puts the key before what it complains of."""
    try:
        return read(text)
    except RematbenchError as error:
        raise ValueError(str(error)) from error


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table without one of its keys."""
    return {name: value for name, value in data.items() if name != key}
