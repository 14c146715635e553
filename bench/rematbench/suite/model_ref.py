"""A model to measure, as plain data: what to load, with which arguments, from where."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rematbench.errors import ModelError


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
    arguments: dict[str, Any] = {}
    root: Path

    @classmethod
    def parse(cls, text: str, root: Path, name: str | None = None, /, **arguments: Any) -> ModelRef:
        """Read `reference[?argument=value[&argument=value]…]`; values are TOML, anything else is text.

        Raises:
            ModelError: an argument has no value.
        """
        reference, _, query = text.partition("?")
        pairs = dict(_argument(text, pair) for pair in query.split("&") if pair)
        return cls(name=name or text, reference=reference, arguments={**arguments, **pairs}, root=root)


def _argument(text: str, pair: str) -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise ModelError(f"model {text!r}: write arguments as ?depth=24&width=512")
    return name, parse_value(value)


def parse_value(text: str) -> Any:
    """Read one TOML value; what is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text
