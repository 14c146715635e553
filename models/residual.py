"""Residual networks: a skip added to what the layers beside it made (He et al., arXiv 1512.03385).

Shapes: B batch, F input features, C input channels, W width (hidden features or channels), S image side.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class ResidualLinear(nn.Module):
    """Linear-ReLU on a state of (x, skip), both (B, W); a joining block adds the skip and starts anew."""

    def __init__(self, width: int, *, joins: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.relu = nn.ReLU()
        self.joins = joins

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, skip = state
        x = self.relu(self.linear(x))
        if not self.joins:
            return x, skip
        x = x + skip
        return x, x

    def extra_repr(self) -> str:
        return f"joins={self.joins}"


class LinearNet(nn.Module):
    """A Linear stem and a chain whose skips reach across `span` blocks, (B, F) -> (B, W)."""

    def __init__(self, *, depth: int, span: int, features: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        joins = ((i + 1) % span == 0 for i in range(depth))
        self.blocks = nn.Sequential(*(ResidualLinear(width, joins=join) for join in joins))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x, _ = self.blocks((x, x))
        return x


def linear(
    *, depth: int = 9, span: int = 3, width: int = 32, batch: int = 32, features: int = 10
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Fully connected, an earlier layer's output added to a later one's across the layers between.

    (batch, features) -> (batch, width). Every `span`-th of the `depth` Linear-ReLU blocks adds the output of
    the block `span` before it (the first one the stem's); until then that tensor travels beside the
    activation.
    """
    module = LinearNet(depth=depth, span=span, features=features, width=width)
    return module, (torch.randn(batch, features),)


class ConvChain(nn.Module):
    """A chain of convolutional blocks and nothing else, (B, C, S, S) -> (B, W, S, S)."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ConvBN(nn.Module):
    """conv-BN-ReLU-conv-BN, shortcut added in place, ReLU, (B, inputs, S, S) -> (B, width, S, S)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, kernel_size=1, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.shortcut(x)  # y is this block's own, and batch norm keeps its input rather than y
        return self.relu(y)


def conv_bn(
    *, depth: int = 6, width: int = 8, batch: int = 2, size: int = 16, channels: int = 3
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """ResNet's basic block: conv-BN-ReLU-conv-BN, 1x1 shortcut where channels change, in-place add.

    (batch, channels, size, size) -> (batch, width, size, size). The batch norms' running statistics are
    buffers that a forward changes. Block: arXiv 1512.03385, figure 5 left.
    """
    widths = pairwise([channels] + [width] * depth)
    return ConvChain([ConvBN(i, o) for i, o in widths]), (torch.randn(batch, channels, size, size),)


class ConvProjection(nn.Module):
    """conv-ReLU-conv plus a 1x1 projection of the input, ReLU, (B, inputs, S, S) -> (B, width, S, S)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )
        self.projection = nn.Conv2d(inputs, width, kernel_size=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.projection(x))


def conv_projection(
    *, depth: int = 6, width: int = 8, batch: int = 2, size: int = 16, channels: int = 4
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Residual without normalisation: conv-ReLU-conv, always a 1x1 projection on the skip.

    (batch, channels, size, size) -> (batch, width, size, size). Projections on every skip: arXiv 1512.03385,
    section 4.1, option C.
    """
    widths = pairwise([channels] + [width] * depth)
    return ConvChain([ConvProjection(i, o) for i, o in widths]), (torch.randn(batch, channels, size, size),)
