"""The counter of `counter.c` from Python: compiled, preloaded into a process of its own, and asked there."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("counter.c")
OTHERS_FROM = 4096
"""From so many bytes on, what is not torch's is counted too: scratch memory, and not Python's small objects."""


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiled(folder: Path) -> Path:
    library = folder / "counter.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run([str(compiler()), *flags], check=True)
    return library


def where_torch_asks() -> tuple[int, int]:
    """Return where the code of libc10 lies in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if os.path.basename(line.split()[-1]) == "libc10.so"]  # noqa: PTH119
    assert spans, "no libc10.so in this process"
    return min(int(start, 16) for start, _ in spans), max(int(end, 16) for _, end in spans)


class Counter:
    """Asks the counter that was preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        for name in ("counter_peak", "counter_live"):
            getattr(self._library, name).restype = ctypes.c_longlong
        start, end = where_torch_asks()
        self._library.counter_knows(ctypes.c_size_t(start), ctypes.c_size_t(end), ctypes.c_size_t(OTHERS_FROM))

    def peak_of(self, step: Callable[[], object]) -> tuple[int, int]:
        """Run a step and return the peak above its start, of torch's memory and of what others asked for."""
        gc.collect()
        gc.disable()
        try:
            self._library.counter_start()
            step()
            return self._library.counter_peak(0), self._library.counter_peak(1)
        finally:
            gc.enable()
