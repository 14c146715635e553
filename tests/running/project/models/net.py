"""A well-behaved model, the neighbour of the hostile ones."""

import torch
from torch import nn

WIDTH = 48


class Net(nn.Module):
    """Linear-ReLU blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


def build(depth: int = 4, batch: int = 8) -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Net(depth), (torch.randn(batch, WIDTH),)
