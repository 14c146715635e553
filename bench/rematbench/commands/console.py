"""Where the verbs write: what was asked for to standard output, and what happens meanwhile to standard error."""

from __future__ import annotations

from rich.console import Console

# Soft-wrapped: a sentence stays one line, for whoever reads it through a pipe.
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """Print a line, or several, to standard output."""
    print(text)
