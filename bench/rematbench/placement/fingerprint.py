"""The fingerprint of a model's outline, by which a placement file knows the model that it was made for.

`57 modules 3fa9c2e1, classes 77aa01b2, 148 parameters 09e1cc32`: how many there are, and the beginning of SHA-256 over
the module paths, over their class names, and over the parameters' paths and shapes. So it can say what has changed.
Values, dtypes, devices and buffers are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

_DIGITS = 8


def fingerprint(modules: Mapping[str, str], parameters: Mapping[str, tuple[int, ...]]) -> str:
    """Return the fingerprint of a model: its modules' class names and its parameters' shapes, by path."""
    return (
        f"{len(modules)} modules {_digest(modules)}, classes {_digest(modules.values())}, "
        f"{len(parameters)} parameters {_digest(f'{path} {shape}' for path, shape in parameters.items())}"
    )


def difference(before: str, now: str) -> str | None:
    """Say what distinguishes the model of one fingerprint from that of another; None where they are the same."""
    if before == now:
        return None
    for then, current in zip(before.split(", "), now.split(", "), strict=False):
        if then != current:
            return _told(then.rpartition(" ")[0], current.rpartition(" ")[0])
    return "it cannot be read"


def _told(then: str, current: str) -> str:
    """Tell two parts apart, without their digests: by their counts if those differ."""
    if then != current:
        return f"{then} then, {current} now"
    kind = {"classes": "modules of other classes"}.get(then, f"{then} of other names")
    return f"{kind} or shapes" if "parameters" in then else kind


def _digest(texts: Iterable[str]) -> str:
    return sha256("\n".join(texts).encode()).hexdigest()[:_DIGITS]
