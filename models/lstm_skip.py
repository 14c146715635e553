"""Recurrent layers around which the sequence itself is the skip, one time step longer after each.

Shapes: B batch, T time steps, F input features, W width (features of the sequence), N hidden units of the
LSTM.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class LSTMSkip(nn.Module):
    """Project the sequence and append to it what an LSTM made of it, (B, T, inputs) -> (B, T + 1, W)."""

    def __init__(self, inputs: int, width: int, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.summary = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        outputs, _ = self.lstm(x)  # (B, T, N)
        step = self.summary(outputs[:, -1:])  # the last output, (B, 1, N) -> (B, 1, W)
        return torch.cat((x, step), dim=1)


class LSTMNet(nn.Module):
    """A chain of appending blocks, (B, T, F) -> (B, T + depth, W)."""

    def __init__(self, *, depth: int, features: int, width: int, hidden: int) -> None:
        super().__init__()
        widths = pairwise([features] + [width] * depth)
        self.blocks = nn.Sequential(*(LSTMSkip(i, o, hidden) for i, o in widths))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def lstm(
    *, depth: int = 6, width: int = 10, batch: int = 2, steps: int = 20, hidden: int = 16, features: int = 10
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """LSTM whose last output is appended to its input sequence as one more time step.

    (batch, steps, features) -> (batch, steps + depth, width): each of the `depth` blocks projects the
    sequence to `width` features and appends one step, so boundaries grow along the chain.
    """
    module = LSTMNet(depth=depth, features=features, width=width, hidden=hidden)
    return module, (torch.randn(batch, steps, features),)
