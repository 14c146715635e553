"""Read files and texts of anyone's as data; whatever is wrong with one is an `OSError` or a `ValueError`, never more.

Python's own readers also raise `RecursionError`, wait for ever at a pipe that nobody writes to, and give trees that are
too deep for whoever walks them next.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LEVELS = 64
"""How deep lists and tables may nest: far beyond what anything here needs, far below where recursion ends."""

BEYOND = 2**63
"""Bytes or operations that no machine has or computes in a step, and arithmetic with fractions could not hold."""

WRITER_S = 2.0
"""How long a pipe may be without anybody who writes to it."""

_LOOK_S = 0.02
_SHOWN = 60
_TOO_DEEP = f"it nests deeper than {LEVELS} levels"
_HALF = re.compile("[\ud800-\udfff]")


def read_bytes(path: Path) -> bytes:
    """Return a file's content, or what comes out of a pipe until its writers are gone.

    Raises:
        OSError: it cannot be read, is a folder or a device, or is a pipe that nobody writes to.
    """
    try:
        # Not blocking, as opening a pipe waits for its other end; a file is read the same either way.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # no path has a NUL
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "neither a file nor a pipe")
        begun = _begun(file.read, descriptor) if stat.S_ISFIFO(mode) else b""
        return begun + file.readall()


def _begun(read: Callable[[int], bytes | None], descriptor: int) -> bytes:
    """Wait until somebody writes to a pipe, and let reading it wait from then on; return what has come by then."""
    until = time.monotonic() + WRITER_S
    while (chunk := read(1 << 16)) == b"":  # nobody has it open for writing; None would be: nothing written yet
        if time.monotonic() > until:
            raise OSError(errno.EPIPE, "a pipe that nobody writes to")
        time.sleep(_LOOK_S)
    os.set_blocking(descriptor, True)
    return chunk or b""


def read_text(path: Path) -> str:
    """Return a text file's content, without the mark that some editors put before it.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig")


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: it is none, or nests deeper than `LEVELS`.
    """
    # Told before it is parsed: tomllib takes time by the square of a dotted key's parts.
    keys = [re.split(r"[\n{},\[]", before)[-1] for before in text.split("=")[:-1]]
    headers = [line.partition(",")[0] for line in text.splitlines() if line.lstrip().startswith("[")]
    if any(key.count(".") >= LEVELS for key in (*keys, *headers)):
        raise ValueError(_TOO_DEEP)
    return _flat_enough(lambda: tomllib.loads(text))


def parse_json(text: str) -> Any:
    """Read JSON: as the standard has it, so no key stands twice in an object, and there is neither NaN nor infinity.

    Raises:
        ValueError: it is none, or nests deeper than `LEVELS`.
    """
    return _flat_enough(lambda: json.loads(text, object_pairs_hook=_unique, parse_constant=_refused))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a key stands twice: {twice[:_SHOWN]}")
    return found


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _flat_enough(parse: Callable[[], Any]) -> Any:
    try:
        return checked(parse())
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def checked(tree: Any) -> Any:
    """Return a tree of lists and tables that whatever reads it can walk, and whatever keeps it can write.

    Raises:
        ValueError: it nests deeper than `LEVELS`, or a text in it has half of a surrogate pair.
    """
    level = [tree]
    for _ in range(LEVELS):
        members = [member for value in level for member in _members(value)]
        for member in (*level, *members):
            if isinstance(member, str) and _HALF.search(member):
                raise ValueError(f"text that is not Unicode: {member[:_SHOWN]!r} has half of a surrogate pair")
        level = [member for member in members if isinstance(member, dict | list | tuple)]
        if not level:
            return tree
    raise ValueError(_TOO_DEEP)


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return value if isinstance(value, list | tuple) else ()
