"""A user's folder, and the real command run in it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parent / "project"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a user's folder, with a package `models` and a file `rematbench.py` of its own."""
    folder = tmp_path_factory.mktemp("user") / "project"
    shutil.copytree(PROJECT, folder)
    return folder


@pytest.fixture(scope="module")
def rematbench(project: Path) -> Run:
    """Run the installed command in the user's folder, to its end."""
    command = Path(sys.executable).parent / "rematbench"

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments], cwd=project, text=True, capture_output=True, timeout=150, check=False, **options
        )

    return run
