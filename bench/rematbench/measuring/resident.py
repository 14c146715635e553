"""Peak resident set of one step: what the operating system sees, which is another quantity than what torch allocates.

It follows the allocator only in a process whose glibc was told at its start to give memory back at once; that slows
steps down, so it is never a process whose steps are timed (`rematbench.running.runner` starts one for this alone).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_growth(step: Callable[[], object]) -> int:
    """Run a step and return the bytes by which its peak resident set exceeds the resident set before it.

    On Linux by `VmHWM`, set back first (`ru_maxrss` would be inherited from the parent process); elsewhere by psutil,
    asked every millisecond.
    """
    try:
        _CLEAR.write_text("5")
        before = _status_bytes("VmRSS")
    except OSError:
        return _sampled_growth(step)
    step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _sampled_growth(step: Callable[[], object]) -> int:
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    samples = [before]

    def sample() -> None:
        while not over.wait(0.001):
            samples.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        step()
    finally:
        over.set()
        sampler.join()
    return max(samples) - before
