"""Networks that fuse two streams: by attention over both, or by a learned weighted sum.

Shapes: B batch, T time steps, F features of the first stream, G of the second, W width.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Single-head self-attention, softmax(q k^T / sqrt(D)) v, (B, T, D) -> (B, T, D); arXiv 1706.03762."""

    def __init__(self, features: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = query @ key.transpose(-2, -1) / math.sqrt(x.shape[-1])  # (B, T, D) @ (B, D, T) -> (B, T, T)
        return self.dropout(scores.softmax(dim=-1)) @ value  # (B, T, T) @ (B, T, D) -> (B, T, D)


class AttentiveFusion(nn.Module):
    """Attend over both streams at once and add to each its share, (a, b) -> (a, b), all (B, T, W)."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(2 * width, dropout=dropout)

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = state
        attended = self.attention(torch.cat((a, b), dim=-1))  # (B, T, 2W)
        for_a, for_b = attended.chunk(2, dim=-1)  # (B, T, 2W) -> two of (B, T, W)
        return a + for_a, b + for_b


class AttentiveNet(nn.Module):
    """Two streams fused block by block and concatenated at the end, two (B, T, W) -> (B, T, 2W)."""

    def __init__(self, *, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(AttentiveFusion(width, dropout=dropout) for _ in range(depth)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat(self.blocks((a, b)), dim=-1)  # two of (B, T, W) -> (B, T, 2W)


def attentive(
    *, depth: int = 6, width: int = 16, batch: int = 4, steps: int = 10, dropout: float = 0.0
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Two streams concatenated on features, single-head self-attention over the result, dropout optional.

    Two of (batch, steps, width) -> (batch, steps, 2 * width). Each block adds what it attends to back onto
    the streams: attention alone, stacked, loses the differences between time steps (arXiv 2103.03404).
    `dropout` falls on the attention weights. Attention: arXiv 1706.03762.
    """
    module = AttentiveNet(depth=depth, width=width, dropout=dropout)
    return module, (torch.randn(batch, steps, width), torch.randn(batch, steps, width))


class WeightedFusion(nn.Module):
    """ReLU of a learned weighted sum of both streams' projections, (a, b) -> (fused, b); fused is (B, W)."""

    def __init__(self, first: int, second: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(first, width)
        self.second = nn.Linear(second, width)
        self.weights = nn.Parameter(torch.ones(2))
        self.relu = nn.ReLU()

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = state
        fused = self.weights[0] * self.first(a) + self.weights[1] * self.second(b)
        return self.relu(fused), b


class WeightedNet(nn.Module):
    """A first stream into which every block fuses the second again, (B, F), (B, G) -> (B, W)."""

    def __init__(self, *, depth: int, first: int, second: int, width: int) -> None:
        super().__init__()
        widths = pairwise([first] + [width] * depth)
        self.blocks = nn.Sequential(*(WeightedFusion(i, second, o) for i, o in widths))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        fused, _ = self.blocks((a, b))
        return fused


def weighted(
    *, depth: int = 8, width: int = 30, batch: int = 16, first: int = 10, second: int = 20
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Two streams projected to a common width and summed with two learned weights.

    (batch, first), (batch, second) -> (batch, width). The second stream travels along unchanged and is fused
    anew by every block; a ReLU after each sum keeps the chain from being one linear map.
    """
    module = WeightedNet(depth=depth, first=first, second=second, width=width)
    return module, (torch.randn(batch, first), torch.randn(batch, second))
