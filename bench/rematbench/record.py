"""The base of everything that crosses a process or is kept in a file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rematbench.reading import BEYOND

Whole = Annotated[int, Field(gt=-BEYOND, lt=BEYOND)]
"""Bytes, or what else is counted, where it may have become less than it was."""

Count = Annotated[int, Field(ge=0, lt=BEYOND)]
"""Bytes, operations, or what else is counted."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is one."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds, or what else there is some of or none."""


class Record(BaseModel):
    """Frozen, and strict about what it does not know. In JSON an infinite number is a string."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
