"""Where the verbs write: what was asked for to standard output, and what happens meanwhile to standard error.

Two things hold for all of it. Names and messages come from models and from files of others, so what would steer the
terminal is written out. And a stream that takes no more ends the command with a status that says so: 1 is a verdict.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from rematbench.errors import StorageError
from rematbench.reporting.texts import visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BROKEN_PIPE = 141
"""What a command exits with whose reader went away, as shells have it: 128 and the number of SIGPIPE."""


class _Console(Console):
    """A console on which nothing but its own styles steers the terminal, whatever is printed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with the control characters of texts written out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


# Soft-wrapped: a sentence stays one line, for whoever reads it through a pipe. Without emoji: `:x:` is a name.
out = _Console(soft_wrap=True, highlight=False, emoji=False)
err = _Console(stderr=True, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """Print a line, or several, to standard output."""
    print(visible(text))


class _Stream(io.FileIO):
    """A standard stream's file; once it takes no more, the rest is dropped and nothing fails again.

    Raises:
        SystemExit: with `BROKEN_PIPE`, without a word: the reader went away.
        StorageError: it cannot be written otherwise, as on a full disk. Of standard error that is not worth the run.
    """

    def __init__(self, descriptor: int, name: str, *, needed: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._title, self._needed, self._ended = name, needed, False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of the bytes and return how many."""
        if not self._ended:
            try:
                return super().write(data)
            except BrokenPipeError:
                self._ended = True
                raise SystemExit(BROKEN_PIPE) from None
            except OSError as error:
                self._ended = True
                if self._needed:
                    raise StorageError(f"{self._title}: {error.strerror or error}; is the disk full?") from error
        return memoryview(data).nbytes


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let the standard streams say how they end, for the length of a `with` block, and take any character.

    Not by the default action of SIGPIPE, which would end a run whose worker went away, too.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _guarded(sys.stdout, "standard output", needed=True)
    sys.stderr = _guarded(sys.stderr, "standard error", needed=False)
    try:
        yield
    finally:
        ours = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = before
        for stream in ours:
            if stream is not None:
                stream.flush()


def _guarded(stream: TextIO, name: str, *, needed: bool) -> TextIO:
    """Return a stream onto the same file; one that has no file, as in a test or where it was closed, stays."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(OSError):
        stream.reconfigure(errors="replace")  # a terminal without × shows ? for it
        file = io.BufferedWriter(_Stream(stream.fileno(), name, needed=needed))
        return io.TextIOWrapper(file, stream.encoding, "replace", line_buffering=stream.line_buffering)
    return stream
