"""A model to measure, as plain data: what to load, with which arguments, from where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from rematbench.errors import ModelError, shown
from rematbench.loading import parse_reference
from rematbench.placement.placement import first_problem
from rematbench.reading import checked


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse what a worker would get as something else, as JSON does not have it: dates, infinity and NaN."""
    for name, value in checked(arguments).items():
        rest = [value]
        while rest:
            member = rest.pop()
            if isinstance(member, dict | list | tuple):
                rest += member.values() if isinstance(member, dict) else member
            elif not isinstance(member, _PLAIN) or (isinstance(member, float) and not math.isfinite(member)):
                kinds = "text, a finite number, true, false, or lists and tables of them"
                raise ValueError(f"{shown(name)} is {shown(member)}: an argument is {kinds}")
    return arguments


_PLAIN = (str, int, float, type(None))

Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
"""What a factory is called with, by name."""


class ModelRef(BaseModel):
    """Attributes:
    name: how rows call it; unique in a suite.
    reference: `family.network`, `package.module:attribute` or `path/to/file.py:attribute`.
    arguments: what the factory is called with.
    root: the folder that a user's files and packages are found in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reference: str
    arguments: Arguments = {}
    root: Path

    @classmethod
    def parse(cls, text: str, root: Path, name: str | None = None, /, **arguments: Any) -> ModelRef:
        """Read `reference[?argument=value[&argument=value]…]`; values are TOML, anything else is text.

        Raises:
            ModelError: an argument has no value, or one that is none.
        """
        try:
            reference, read = parse_reference(text)
        except ModelError as error:
            raise ModelError(f"model {error}") from error
        try:
            return cls(name=name or text, reference=reference, arguments={**arguments, **read}, root=root)
        except ValidationError as error:
            raise ModelError(f"model {shown(text)}: {first_problem(error)}") from error
