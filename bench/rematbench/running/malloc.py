"""What glibc's allocator is told where a worker starts; it reads its variables only then."""

from __future__ import annotations

import os

GIVING_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_TOP_PAD_": "0",
}
"""Memory goes back at once, so that the resident set follows what is allocated."""

_KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""Blocks from 32 MiB on, the most that glibc takes here, still go back: on a heap, the gaps that they leave add up."""

_CHOSEN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keeping() -> dict[str, str]:
    """Return what makes memory stay with the process, as torch's caching allocator has it on a GPU.

    By default glibc gives large blocks back and gets them again in every step, or stops to, as its thresholds move:
    page faults, not operators, then decide how two placements compare. Nothing where the user has chosen already.
    """
    return {} if any(name.startswith(_CHOSEN) for name in os.environ) else _KEEPING
