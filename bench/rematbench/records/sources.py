"""The files that a model is made of, by content: rows of one model are only ever of the same files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def content_of(file: Path) -> str | None:
    """Return what tells a file's content from any other's; None where there is no such file to read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def changed_files(sources: Mapping[str, str], root: Path) -> list[str]:
    """Return the files that are not what they were, or not there any more, by their paths from a root folder."""
    return [name for name, content in sources.items() if content_of(root / name) != content]
