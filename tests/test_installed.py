"""The package as it is installed, from its wheel and from the checkout, in folders whose files have names like ours."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rematbench.loading import reference_models

CHECKOUT = Path(__file__).parent.parent
SOURCE = CHECKOUT / "bench" / "rematbench"

Ended = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def files_of(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file.relative_to(folder).as_posix()


def test_the_wheel_holds_the_package_the_reference_models_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {f"rematbench/{name}" for name in files_of(SOURCE)}
    assert names == package | {f"rematbench/models/{name}" for name in files_of(CHECKOUT / "models")}
    assert "rematbench/py.typed" in names


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel in it; what the package depends on is this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only put on the path: the .pth files in there, this checkout's among them, are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(params=["wheel", "checkout"])
def python(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("from_wheel") if request.param == "wheel" else Path(sys.executable)


def ran(python: Path, folder: Path, *arguments: str) -> Ended:
    """Run Python, or the command beside it, in a user's folder; only this very Python finds what PYTHONPATH names."""
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH" or python == Path(sys.executable)
    }
    program = python.with_name("rematbench") if arguments[0] == "rematbench" else python
    command = [str(program), *arguments[arguments[0] == "rematbench" :]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


NET = """
from torch import nn, randn

def build():
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))), (randn(4, 8),)
"""
THEIRS = "WHOSE = 'theirs'\n"
NEIGHBOURS = (
    ("bench.py", "models.py", "rm.py", "units.py", "solver.py"),
    ("bench/speed.py", "models/plain.py", "placement/__init__.py"),
    ("bench/__main__.py", "bench/__init__.py", "models/__init__.py", "loading.py"),
)
"""Python files of a user; a file, a folder without `__init__.py` and a package of one name are three cases."""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("names", NEIGHBOURS, ids=lambda names: names[0])
def test_a_user_s_files_are_theirs_and_ours_are_ours(python: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path, dict.fromkeys(names, THEIRS) | {"rematbench.toml": "nonsense", "pyproject.toml": "nonsense"})
    modules = [name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in names]
    code = f"import {', '.join(modules)}; from rematbench import Placement; print(Placement.__module__)\n"
    code += "".join(f"assert {name}.WHOSE == 'theirs'\n" for name in modules)
    write(tmp_path, {"train.py": code})
    ended = ran(python, tmp_path, "train.py")
    assert (ended.returncode, ended.stdout) == (0, "rematbench.placement.placement\n"), ended.stderr
    speed = ran(python, tmp_path, "-m", modules[0].removesuffix(".__main__"))
    assert speed.returncode == 0, speed.stderr
    for command in (["rematbench"], ["-m", "rematbench"]):
        listed = ran(python, tmp_path, *command, "models")
        assert [line.split()[0] for line in listed.stdout.splitlines()] == list(reference_models()), listed.stderr


def test_the_wheel_measures_a_user_s_model_and_ours(from_wheel: Path, tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys([*NEIGHBOURS[0][2:], *NEIGHBOURS[1]], THEIRS) | {"models/net.py": NET})
    models = ("--model", "models.net:build", "--model", "plain.mlp?depth=2")
    ended = ran(from_wheel, tmp_path, "rematbench", "run", *models, "--placement", "each", "--rounds", "0")
    assert ended.returncode == 0, ended.stderr
    assert "4 rows in results/" in ended.stdout
