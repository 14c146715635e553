"""What the numbers depend on, read off the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from rematbench.records.measurement import Environment
from rematbench.workload.devices import capacity_bytes, device_name

_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_")
"""How the names begin of the variables that an allocator goes by."""


def environment_of(device: torch.device, root: Path) -> Environment:
    """Describe this process, the device, and the repository that the models come from."""
    return Environment(
        torch=torch.__version__,
        python=platform.python_version(),
        device_name=device_name(device),
        threads=torch.get_num_threads(),
        allocator=" ".join(
            sorted(f"{name}={value}" for name, value in os.environ.items() if _is_allocators(name, value))
        ),
        commit=_commit(root),
        capacity_bytes=capacity_bytes(device),
    )


def _is_allocators(name: str, value: str) -> bool:
    return bool(value) and name.startswith(_ALLOCATOR_SETTINGS)


def _commit(root: Path) -> str:
    """Return the short commit, `+` behind it when tracked files have changes; empty outside a repository."""
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if commit and changes else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
