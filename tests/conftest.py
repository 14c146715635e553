"""What holds for every test."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

# Two threads that wait for each other by spinning make a shared machine crawl; no result depends on their number.
torch.set_num_threads(1)

# Container images like to switch bytecode off: two hundred processes that tests start would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Until four thousand tests are collected: they stay, and the collector would look at them all again and again.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, from processes that tests start too: `--device auto` would take one, and give other bytes.

    `pytest -m gpu` runs the tests that want one.
    """
    if config.option.markexpr != "gpu":
        os.environ |= dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), "")


LONGEST = (
    "docs/test_code_blocks.py",
    "planner/test_planner.py",
    "reporting/test_page.py",
    "running/test_failures.py",
    "running/test_whole_runs.py",
    "running/test_random_kills.py",
    "inspecting/test_why.py",
    "test_pytest_plugin.py",
    "planner/test_profiling.py",
    "running/test_interruptions.py",
    "docs/test_recipes.py",
    "measuring/test_session.py",
    "planner/test_cost.py",
    "planner/test_ways.py",
    "test_installed.py",
    "test_cli.py",
    "measuring/test_counted_by_hand.py",
    "solver/test_solve.py",
    "running/test_kills.py",
    "planner/test_bytes_in_step.py",
    "placing/test_compiling.py",
    "predicting/test_predict.py",
)
"""Files that take longest: they are begun first, so that no process ends long after the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: places.get(os.path.relpath(item.path, here), len(places)))


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start from the same random state, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays() -> None:
    """Keep the collector off what is imported: every reading of a meter collects, a tenth of a second each time."""
    gc.collect()
    gc.freeze()
