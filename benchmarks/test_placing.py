"""What a placement costs besides its recomputation, under pytest-benchmark: `make speed`."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from rematbench import Placement, applied, apply, outline
from rematbench.placement.placement import Region
from rematbench.placement.registry import parse_strategy

BLOCKS = 1000


class Loop(nn.Module):
    """Blocks in a list, called by a loop that is not ours; they do next to nothing."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("strategy", ["each", "segments:100", "nested:2"])
def test_apply_and_remove(benchmark: BenchmarkFixture, strategy: str) -> None:
    """Known: under a second for a thousand blocks, the placement made by a strategy and its fingerprint compared."""
    model = Loop(BLOCKS)

    def once() -> None:
        made = parse_strategy(strategy).resolve(outline(model))
        apply(model, made.model_copy(update={"fingerprint": outline(model).fingerprint})).remove()

    benchmark(once)


@pytest.mark.parametrize("regions", ["none", "each", "pairs"])
def test_step_of_small_blocks(benchmark: BenchmarkFixture, regions: str) -> None:
    """The overhead of a region's call, as nothing else takes any time: `pairs` over `each` is that of the guard."""
    model, x = Loop(100), torch.ones(1, 2)
    pairs = tuple(Region(path=f"blocks[{start}:{start + 2}]") for start in range(0, 100, 2))
    placement: Placement | str = Placement(name="pairs", regions=pairs) if regions == "pairs" else regions
    with applied(model, placement):
        benchmark(lambda: model(x).sum().backward())
