"""Python's garbage collector, held still while bytes are read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_still() -> Iterator[None]:
    """Collect nothing for the length of a `with` block.

    A collection comes when enough objects have been made, whoever made them: what a reference cycle kept since before a
    step would be freed at any point of it, and be taken off its bytes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
