"""What holds for every test."""

import pytest
import torch

# Two threads that wait for each other by spinning make a shared machine crawl; no result depends on their number.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start from the same random state, whatever ran before."""
    torch.manual_seed(0)
