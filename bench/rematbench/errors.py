"""The errors a user can cause: each is one sentence that says what, where and what to try."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 40
_LENGTH = 80


class RematbenchError(Exception):
    """Base of every error that a user can cause; the command prints it as one sentence.

    Attributes:
        exit_code: what the command exits with when this error ends it; 2 is a usage error.
    """

    exit_code = 2


class SuiteError(RematbenchError):
    """A suite that cannot be read or means nothing; the sentence names the key."""


class ModelError(RematbenchError):
    """A model that cannot be found, imported or built from the arguments given."""


class PlacementError(RematbenchError):
    """A placement that cannot be read, matches nothing, overlaps, or does not fit the model."""


class DeviceError(RematbenchError):
    """A device this machine does not have."""


class StorageError(RematbenchError):
    """A results folder that cannot be written, read or continued."""


class FigureError(StorageError):
    """A figure in a run's file that nothing measured can be: there is nothing to judge by."""

    exit_code = 3


def shown(value: object) -> str:
    """Quote a value in a sentence: a long one by its beginning."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that is not among the known ones, with the closest match first."""
    names = sorted(known)
    close = get_close_matches(name[:_LENGTH], names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"unknown {kind} {shown(name)}: {hint}known are {', '.join(names[:_SHOWN]) or 'none'}{more}"
