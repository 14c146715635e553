"""Every recipe of CONTRIBUTING.md, done as it says in a copy of the clone, has the outcome that it shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.docs.blocks import ROOT, Block, blocks_of, run_block, run_python, write_file

from rematbench.loading import load_attribute

PAGE = ROOT / "CONTRIBUTING.md"
HEADINGS = {
    number: line[3:] for number, line in enumerate(PAGE.read_text().splitlines(), start=1) if line.startswith("## ")
}


def recipes() -> dict[str, list[Block]]:
    """Return the blocks of each section, in order."""
    found: dict[str, list[Block]] = {heading: [] for heading in HEADINGS.values()}
    for block in blocks_of(PAGE):
        found[HEADINGS[max(line for line in HEADINGS if line < block.line)]].append(block)
    return found


RECIPES = recipes()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a recipe changes or runs of a clone, with the recipes' files in their places."""
    folder = tmp_path_factory.mktemp("clone")
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in ("bench", "models", "tests/models"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    for block in blocks_of(PAGE):
        if block.file:
            write_file(block, folder)
    return folder


def test_there_is_a_recipe_for_each_kind_of_thing() -> None:
    kinds = ("strategy", "save policy", "reference model", "suite", "column", "device")
    assert [heading.removeprefix("Add a ") for heading in RECIPES] == list(kinds)


@pytest.mark.parametrize("heading", [heading for heading, blocks in RECIPES.items() if blocks])
def test_a_recipe(heading: str, clone: Path) -> None:
    for block in RECIPES[heading]:
        assert block.not_run is None, "a recipe is run"
        if block.language == "console":
            run_block(block, clone, {"PYTHONPATH": str(clone / "bench")})
        elif not block.file:
            run_python([block], clone)


def test_what_a_device_has_to_have_is_what_there_is() -> None:
    section = " ".join(PAGE.read_text().partition("## Add a device")[2].partition("\n## ")[0].split())
    before, _, meters = section.partition("Its bytes come from a meter")
    devices = re.findall(r"`([a-z_]+)`", before)
    assert devices
    assert all(callable(load_attribute(f"rematbench.workload.devices:{name}", ROOT)) for name in devices)
    chooser, module = re.findall(r"`(\w+)` in `bench/([\w/]+)\.py`", meters)[0]
    assert callable(load_attribute(f"{module.replace('/', '.')}:{chooser}", ROOT))
    meter = load_attribute(f"{module.replace('/', '.')}:Meter", ROOT)
    assert "name" in meter.__annotations__
    assert all(hasattr(meter, name) for name in re.findall(r"`([a-z]+)\(", meters))
    fake, where = re.findall(r"`(Fake\w+)` in `([\w/.]+)`", meters)[0]
    assert isinstance(load_attribute(f"{where}:{fake}", ROOT), type)
