"""The house has floors: a file imports only from lower ones, and what a person waits for imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bench"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("bench.errors",),
    ("bench.units",),
    ("bench.planning",),
    ("bench.placing.paths", "bench.loading"),
    ("bench.placing.placement", "bench.model_ref"),
    ("bench.placing.strategies",),
    ("bench.placing.goal",),
    ("bench.case",),
    ("bench.suite",),
    ("bench.results", "bench.placing"),
    ("bench.measuring", "bench.reporting"),
    ("bench.running.protocol", "bench.running.malloc"),
    ("bench.running.process", "bench.running.progress"),
    ("bench.running.runner", "bench.running.worker"),
    ("bench.running.single",),
    ("bench.commands", "bench.pytest_plugin"),
    ("bench.cli",),
)
"""Lowest first. The most specific entry counts; on one floor only the files of one room may import each other."""

WITHOUT_TORCH = (
    "bench",
    "bench.cli",
    "bench.pytest_plugin",
    "bench.suite",
    "bench.results.store",
    "bench.reporting.page",
    "bench.reporting.picture",
    "bench.reporting.terminal",
    "bench.running.runner",
    "bench.placing.strategies",
    "bench.planning.solve",
)

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> tuple[int, str]:
    """Return a module's floor and the entry that says so."""
    entries = {entry: floor for floor, row in enumerate(FLOORS) for entry in row}
    room = module
    while room not in entries:
        room = room.rpartition(".")[0]
        if not room:
            return -1, ""
    return entries[room], room


def imports_of(file: Path) -> list[str]:
    """Return what a file imports from bench at run time; names under TYPE_CHECKING are not imported."""
    tree = ast.parse(file.read_text())
    hidden = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
    return [name for name in found if name == "bench" or name.startswith("bench.")]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_down(file: Path) -> None:
    own_floor, own_entry = floor_of(module_name(file))
    for imported in imports_of(file):
        floor, entry = floor_of(imported)
        below = floor < own_floor or (floor == own_floor and entry == own_entry)
        assert below, f"{module_name(file)} (floor {own_floor}) imports {imported} (floor {floor})"


def test_every_file_has_a_floor() -> None:
    without = {name for name in map(module_name, FILES) if not floor_of(name)[1]}
    assert without == {"bench", "bench.running"}, "these hold a docstring and the version, nothing more"


def test_nothing_imports_the_package_models() -> None:
    """A user's project usually has a package of that name, and must get its own."""
    for file in FILES:
        tree = ast.parse(file.read_text())
        names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not [name for name in names if name and name.split(".")[0] == "models"], file


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_no_torch_is_imported(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
