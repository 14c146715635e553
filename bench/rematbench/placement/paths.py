"""The grammar of region paths and of module patterns, on plain text.

A path names modules from the root: `encoder.layers[2].mlp`. Brackets index or slice the children of a container
(`Sequential`, `ModuleList`, `ModuleDict`) by position; `blocks.2` is the child named `2`, as in a state dict. A plain
slice at the end is one region over neighbours (`blocks[0:4]`); a slice with a step, or one with more path behind it, is
one region a member (`transformer.h[::2]`, `h[0:4].mlp`). The empty path is the model itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from rematbench.errors import PlacementError, shown

_NUMBER = "-?[0-9]{1,9}"
_PART = re.compile(rf"(?:\A|(?!\A)\.)([^.\[\]]+)|\[(?:({_NUMBER})|({_NUMBER})?:({_NUMBER})?(?::([0-9]{{1,9}}))?)\]")


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

    def __str__(self) -> str:
        """Return `[3]`, `[0:4]` or `[::2]`."""
        ends = ["" if end is None else str(end) for end in (self.start, self.stop)]
        return f"[{ends[0]}]" if self.single else f"[{':'.join(ends)}{'' if self.step is None else f':{self.step}'}]"


Part = str | Index


class RegionPath(str):
    """A region's path: its text, and `parts`, what the text says, worked out once.

    Made from text, which is parsed; or from parts by `of_module`, `at` and `over`, which parse nothing: so what a
    strategy or a planner finds reaches the model as it is.
    """

    __slots__ = ("parts",)

    parts: tuple[Part, ...]

    def __new__(cls, text: str) -> Self:
        """Read a path.

        Raises:
            PlacementError: the text is none; the sentence quotes it and shows the form.
        """
        return text if isinstance(text, cls) else cls._made(text, parse_path(text))

    @classmethod
    def of_module(cls, path: str) -> Self:
        """Return the path of one module by its name, as `named_modules` has it."""
        return cls._made(path, tuple(path.split(".")) if path else ())

    def at(self, position: int) -> Self:
        """Return the path of one child by its position."""
        return self._child(Index(start=position, single=True))

    def over(self, start: int, stop: int) -> Self:
        """Return the path of neighbouring children as one region; of a single one, by its position."""
        return self.at(start) if stop == start + 1 else self._child(Index(start=start, stop=stop))

    def below(self, path: RegionPath) -> Self:
        """Return the path of what another path means from this module on."""
        dot = "." if self and path.parts and isinstance(path.parts[0], str) else ""
        return self._made(f"{self}{dot}{path}", (*self.parts, *path.parts))

    def _child(self, index: Index) -> Self:
        return self._made(f"{self}{index}", (*self.parts, index))

    @classmethod
    def _made(cls, text: str, parts: Iterable[Part]) -> Self:
        made = super().__new__(cls, text)
        made.parts = tuple(parts)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it by its text."""
        return type(self), (str(self),)


def parse_path(path: str) -> tuple[Part, ...]:
    """Split a region path into names and indices.

    Raises:
        PlacementError: the text is no path; the sentence quotes it and shows the form.
    """
    parts: list[Part] = []
    position = 0
    while position < len(path):
        part = _PART.match(path, position)
        if part is None or (part[5] is not None and int(part[5]) == 0):
            raise PlacementError(
                f"region path {shown(path)} cannot be read: "
                "write blocks[3], blocks[0:4], h[::2] or encoder.layers[2].mlp"
            )
        parts.append(part[1] or _index(part))
        position = part.end()
    return tuple(parts)


def _index(match: re.Match[str]) -> Index:
    single, start, stop, step = (int(text) if text else None for text in match.groups()[1:])
    return Index(start=start, stop=stop, step=step) if single is None else Index(start=single, single=True)


def matches(pattern: str, path: str) -> bool:
    """Tell whether a module path matches a shell-style pattern, part by part: `*` never crosses a dot, `**` does."""
    parts = path.split(".")
    reached = {0}  # after so many parts of the path the pattern may stand; a set, as trying each way out takes for ever
    for wanted in pattern.split("."):
        if wanted == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], wanted)}
    return len(parts) in reached
