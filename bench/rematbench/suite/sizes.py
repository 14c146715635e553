"""Sizes of a model as people type them: `batch=64`."""

from __future__ import annotations

from collections.abc import Iterable

from rematbench.errors import SuiteError, shown
from rematbench.loading import parse_value


def parse_sizes(pairs: Iterable[str]) -> dict[str, int]:
    """Read `name=value` each, a whole number of 1 or more.

    Raises:
        SuiteError: one is something else, or a name stands twice.
    """
    sizes: dict[str, int] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        value = parse_value(text) if equals else None
        if not name or not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SuiteError(f"--at {shown(pair)}: a size is an argument of the model's factory, as in --at batch=64")
        if name in sizes:
            raise SuiteError(f"--at {shown(pair)}: {name} stands twice")
        sizes[name] = value
    return sizes
