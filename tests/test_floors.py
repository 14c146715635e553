"""The house has floors: a file imports only from lower rooms, and what a person waits for imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bench" / "rematbench"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "interruption", "reading"),
    ("units", "loading", "record", "torch_internals"),
    ("placement",),
    ("suite",),
    ("solver", "traces"),
    ("records",),
    ("workload",),
    ("placing",),
    ("measuring",),
    ("inspecting",),
    ("planner",),
    ("predicting",),
    ("running",),
    ("reporting",),
    ("commands", "pytest_plugin"),
    ("cli",),
)
"""Lowest first, every room on one floor; rooms that share a floor do not know each other."""

WITHOUT_TORCH = (
    *(
        "errors",
        "interruption",
        "reading",
        "units",
        "loading",
        "record",
        "placement",
        "suite",
        "solver",
        "traces",
        "records",
    ),
    *("reporting", "commands", "cli", "pytest_plugin", "running.runner", "running.single"),
)
"""Rooms, and single files of a room, that are imported before a worker is."""

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    """Return a file's name inside the package, empty for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def imports_of(file: Path) -> list[str]:
    """Return what a file imports of the package at run time; names under TYPE_CHECKING are not imported."""
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
    return [name.removeprefix("rematbench.") for name in found if name.startswith("rematbench.")]


def test_every_room_has_one_floor() -> None:
    rooms = {module_name(file).partition(".")[0] for file in FILES} - {"", "__main__"}
    placed = [room for floor in FLOORS for room in floor]
    assert len(placed) == len(set(placed))
    assert rooms == set(placed)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_down(file: Path) -> None:
    room = module_name(file).partition(".")[0]
    if room in ("", "__main__"):  # the package's public names, looked up when asked for, and the command's start
        return
    for imported in imports_of(file):
        lower = imported.partition(".")[0]
        below = lower == room or floor_of(lower) < floor_of(room)
        assert below, f"{module_name(file)} (floor {floor_of(room)}) imports {imported} (floor {floor_of(lower)})"


def test_nothing_imports_the_package_models() -> None:
    """A user's project usually has a package of that name, and must get its own."""
    for file in FILES:
        tree = ast.parse(file.read_text())
        names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not [name for name in names if name and name.split(".")[0] == "models"], file


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_no_torch_is_imported(room: str) -> None:
    modules = [f"rematbench.{name}" for name in map(module_name, FILES) if f"{name}.".startswith(f"{room}.")]
    assert modules
    code = f"import sys, {', '.join(modules)}; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
