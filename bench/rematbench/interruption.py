"""What Ctrl-C and a polite kill do: end the process without a word, or inside a verb raise `KeyboardInterrupt`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""What a command exits with after Ctrl-C or a polite kill, as shells have it: 128 and the signal's number."""


def end_quietly() -> None:
    """Let an interruption end the process at once: while it imports and parses there is nothing to undo.

    As an exception it would come up through the imports of others, which make a traceback of it, or a failed import.
    What was to be ignored, as in a shell's background, still is.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let an interruption raise `KeyboardInterrupt` for the length of a `with` block: a verb may have work to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is _end:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
