"""What the numbers depend on, read off the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

from rematbench.records.measurement import Environment
from rematbench.records.sources import content_of
from rematbench.workload.devices import capacity_bytes, device_name, software_of

_ALLOCATOR_SETTINGS = (
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
    *("PYTORCH_NO_HIP_MEMORY_CACHING", "PYTORCH_MPS_", "LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_"),
)
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
        software=software_of(device),
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


class Sources:
    """The files of the user's that this process has imported, each by the content it had when it was first seen.

    They are the factory's own, and what stands in the root folder or beside the factory's file. Neither installed
    packages nor rematbench itself are the user's, though a virtual environment often stands in the root folder.

    Args:
        root: the folder that the user's files are found in.
        reference: of the factory.
    """

    def __init__(self, root: Path, reference: str) -> None:
        self._root = root.resolve()
        self._factory = reference.partition(":")[0]
        self._file = (root / self._factory).resolve()
        self._folders = (self._root, self._file.parent) if self._factory.endswith(".py") else (self._root,)
        self._looked_at: set[str] = set()
        self._seen: dict[str, str] = {}

    def seen(self) -> dict[str, str]:
        """Return the content of every file so far by its path from the root; what is imported later comes later."""
        for name in sorted(sys.modules.keys() - self._looked_at - _MAIN):
            self._looked_at.add(name)
            file = getattr(sys.modules.get(name), "__dict__", {}).get("__file__")
            if isinstance(file, str):
                self._look_at(name, Path(file).resolve())
        return dict(self._seen)

    def _look_at(self, name: str, file: Path) -> None:
        is_users = _is_in(file, self._folders) and not _is_in(file, _INSTALLED) and not _SITES & {*file.parts}
        if not (is_users or name == self._factory or file == self._file):
            return
        path, content = os.path.relpath(file, self._root), content_of(file)
        if content is not None and path.isprintable():  # what is no text cannot be kept in records
            self._seen.setdefault(path, content)


_MAIN = {"__main__", "__mp_main__"}  # the second is what multiprocessing calls the first
_SITES = {"site-packages", "dist-packages"}
_INSTALLED = (
    Path(__file__).resolve().parent.parent,
    *(Path(path).resolve() for name, path in sysconfig.get_paths().items() if name.endswith("lib")),
)
"""The package itself, and the folders of the standard library and of installed packages."""


def _is_in(file: Path, folders: tuple[Path, ...]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)
