"""A worker keeps the memory it frees, unless the user has chosen an allocator's ways already."""

import ctypes
import os
import subprocess
import sys

import pytest

from rematbench.running.malloc import GIVING_BACK, keeping

_RESIDENT_AFTER_FREEING = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = int(sys.argv[1]) << 20
block = libc.malloc(size)
ctypes.memset(block, 1, size)
libc.free(block)
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")):
            monkeypatch.delenv(name)


def resident_mib(variables: dict[str, str], size_mib: int) -> int:
    command = [sys.executable, "-c", _RESIDENT_AFTER_FREEING, str(size_mib)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=True)
    return int(done.stdout) // 1024


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="these are variables of glibc")
def test_freed_memory_stays_or_goes() -> None:
    assert resident_mib(keeping(), 30) - resident_mib(GIVING_BACK, 30) >= 28
    assert abs(resident_mib(keeping(), 300) - resident_mib(GIVING_BACK, 300)) < 20


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_what_the_user_has_chosen_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert keeping() == {}
