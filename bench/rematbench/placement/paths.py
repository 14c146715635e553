"""The grammar of region paths and of module patterns, on plain text.

A path names modules from the root: `encoder.layers[2].mlp`. Brackets index or slice the children of a container
(`Sequential`, `ModuleList`, `ModuleDict`) by position; `blocks.2` is the child named `2`, as in a state dict. A plain
slice at the end is one region over neighbours (`blocks[0:4]`); a slice with a step, or one with more path behind it, is
one region a member (`transformer.h[::2]`, `h[0:4].mlp`). The empty path is the model itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rematbench.errors import PlacementError

_PART = re.compile(r"(?:\A|(?!\A)\.)([^.\[\]]+)|\[(?:(-?\d+)|(-?\d+)?:(-?\d+)?(?::(\d+))?)\]")


@dataclass(frozen=True, kw_only=True)
class Index:
    """`[start:stop:step]` over a container's children; a single index has `stop` empty and `single` true."""

    start: int | None
    stop: int | None = None
    step: int | None = None
    single: bool = False

    @property
    def is_run(self) -> bool:
        """Whether this is a plain slice, which at the end of a path means neighbours as one region."""
        return not self.single and self.step is None

    def positions(self, length: int) -> range:
        """Return the positions meant among `length` children; empty when nothing is there."""
        if not self.single:
            return range(length)[self.start : self.stop : self.step]
        assert self.start is not None
        position = self.start + length if self.start < 0 else self.start
        return range(position, position + 1) if 0 <= position < length else range(0)


Part = str | Index


def parse_path(path: str) -> tuple[Part, ...]:
    """Split a region path into names and indices.

    Raises:
        PlacementError: the text is no path; the sentence quotes it and shows the form.
    """
    parts: list[Part] = []
    position = 0
    while position < len(path):
        part = _PART.match(path, position)
        if part is None:
            raise _unreadable(path)
        parts.append(part[1] or _index(part, path))
        position = part.end()
    return tuple(parts)


def _index(match: re.Match[str], path: str) -> Index:
    single, start, stop, step = (int(text) if text else None for text in match.groups()[1:])
    if single is not None:
        return Index(start=single, single=True)
    if step == 0:
        raise _unreadable(path)
    return Index(start=start, stop=stop, step=step)


def _unreadable(path: str) -> PlacementError:
    return PlacementError(
        f"region path {path!r} cannot be read: write blocks[3], blocks[0:4], h[::2] or encoder.layers[2].mlp"
    )


def matches(pattern: str, path: str) -> bool:
    """Tell whether a module path matches a shell-style pattern, part by part: `*` never crosses a dot, `**` does."""
    return _match(tuple(pattern.split(".")), tuple(path.split(".")))


def _match(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    if not pattern or not path:
        return not path and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _match(pattern[1:], path) or _match(pattern, path[1:])
    return fnmatchcase(path[0], pattern[0]) and _match(pattern[1:], path[1:])
