"""The base of everything that crosses a process or is kept in a file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and strict about what it does not know. In JSON an infinite number is a string."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
