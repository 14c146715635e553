"""What holds for every test."""

import gc
import os
import sys

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
