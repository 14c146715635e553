"""A model to measure, as plain data: what to load, with which arguments, from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rematbench.errors import ModelError
from rematbench.loading import parse_reference


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
        try:
            reference, read = parse_reference(text)
        except ModelError as error:
            raise ModelError(f"model {error}") from error
        return cls(name=name or text, reference=reference, arguments={**arguments, **read}, root=root)
