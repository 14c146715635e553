"""Plain chains: one activation passes from block to block, or a hidden state beside the input it reads.

Shapes: B batch, F input features, W width (hidden features or channels), O outputs, C image channels, S image
side, T time steps, V vocabulary.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear-ReLU blocks and a Linear head, (B, F) -> (B, O)."""

    def __init__(self, *, depth: int, features: int, width: int, outputs: int) -> None:
        super().__init__()
        sizes = pairwise([features] + [width] * depth)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in sizes))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def mlp(
    *, depth: int = 8, width: int = 64, batch: int = 64, features: int = 10, outputs: int = 5
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Fully connected: Linear-ReLU blocks, Linear head.

    (batch, features) -> (batch, outputs), through `depth` blocks of `width` units.
    """
    module = MLP(depth=depth, features=features, width=width, outputs=outputs)
    return module, (torch.randn(batch, features),)


def _conv_relu(inputs: int, width: int, *, pooled: bool) -> nn.Sequential:
    """conv3x3-ReLU, max-pooled by two or not, (B, inputs, S, S) -> (B, width, S or S//2, S or S//2)."""
    layers = [nn.Conv2d(inputs, width, kernel_size=3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if pooled else nn.Sequential(*layers)


class CNN(nn.Module):
    """Stages of conv3x3-ReLU blocks, each stage ending in a max-pool; Linear head, (B, C, S, S) -> (B, O)."""

    def __init__(self, *, stages: int, depth: int, channels: int, width: int, size: int, outputs: int) -> None:
        super().__init__()
        widths = [width << stage for stage in range(stages) for _ in range(depth)]
        sizes = enumerate(pairwise([channels, *widths]), start=1)
        self.blocks = nn.Sequential(*(_conv_relu(i, o, pooled=n % depth == 0) for n, (i, o) in sizes))
        side = size >> stages  # a pool halves the side and drops an odd pixel
        self.head = nn.Linear(widths[-1] * side * side, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.head(x.flatten(1))  # (B, W, S', S') -> (B, W*S'*S')


def cnn(
    *,
    stages: int = 2,
    depth: int = 4,
    width: int = 8,
    batch: int = 4,
    size: int = 28,
    channels: int = 3,
    outputs: int = 10,
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Convolutional: conv3x3-ReLU-max-pool stages, Linear head.

    (batch, channels, size, size) -> (batch, outputs). A stage is `depth` conv3x3-ReLU blocks, the last of
    them pooling by two; the first stage has `width` channels and each next one twice as many, so there are
    stages * depth blocks. Any size of at least 2**stages works.
    """
    module = CNN(stages=stages, depth=depth, channels=channels, width=width, size=size, outputs=outputs)
    return module, (torch.randn(batch, channels, size, size),)


class LSTMLayer(nn.Module):
    """One LSTM layer over the whole sequence, (B, T, W) -> (B, T, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(x)
        return outputs


class Sequence(nn.Module):
    """Embedding, stacked LSTM layers, Linear head on the last hidden state, (B, T) -> (B, O)."""

    def __init__(self, *, depth: int, vocabulary: int, width: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(LSTMLayer(width) for _ in range(depth)))
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.blocks(self.embedding(tokens))  # (B, T, W)
        return self.head(x[:, -1])


def sequence(
    *,
    depth: int = 6,
    width: int = 16,
    batch: int = 4,
    steps: int = 20,
    vocabulary: int = 100,
    outputs: int = 20,
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Recurrent, stacked in depth: Embedding, LSTM layers, last hidden state, Linear.

    Integer tokens (batch, steps) below `vocabulary` -> (batch, outputs); a block is one LSTM layer of `width`
    units over all steps. LSTM: Hochreiter and Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735.
    """
    module = Sequence(depth=depth, vocabulary=vocabulary, width=width, outputs=outputs)
    return module, (torch.randint(vocabulary, (batch, steps)),)


class GRUCell(nn.Module):
    """One step of a gated recurrent unit, (B, F), (B, W) -> (B, W): h' = (1 - z) n + z h.

    The gates are chunked in the order reset, update, new, so `inputs` and `hidden` hold the weights of
    `torch.nn.GRUCell`, which applies the reset gate after the hidden product where arXiv 1406.1078 applies it
    before.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(features, 3 * width)
        self.hidden = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_reset, x_update, x_new = self.inputs(x).chunk(3, dim=-1)  # (B, 3W) -> three of (B, W)
        h_reset, h_update, h_new = self.hidden(h).chunk(3, dim=-1)
        reset = torch.sigmoid(x_reset + h_reset)
        update = torch.sigmoid(x_update + h_update)
        new = torch.tanh(x_new + reset * h_new)
        return (1 - update) * new + update * h


class Stretch(nn.Module):
    """Steps start to stop - 1 of a shared cell on a state of (x, h): the whole input (B, T, F) and (B, W)."""

    def __init__(self, cell: GRUCell, start: int, stop: int) -> None:
        super().__init__()
        self.cell = cell
        self.start, self.stop = start, stop

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, h = state
        for step in x[:, self.start : self.stop].unbind(1):  # (B, stretch, F) -> stretch of (B, F)
            h = self.cell(step, h)
        return x, h

    def extra_repr(self) -> str:
        return f"start={self.start}, stop={self.stop}"


class GRU(nn.Module):
    """A cell unrolled over time in stretches, from a zero state to the last one, (B, T, F) -> (B, W)."""

    def __init__(self, *, depth: int, stretch: int, features: int, width: int) -> None:
        super().__init__()
        cell = GRUCell(features, width)
        stretches = pairwise(range(0, (depth + 1) * stretch, stretch))
        self.blocks = nn.Sequential(*(Stretch(cell, start, stop) for start, stop in stretches))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        _, h = self.blocks((x, x.new_zeros(x.shape[0], self.width)))
        return h


def gru(
    *, depth: int = 8, stretch: int = 4, width: int = 20, batch: int = 4, features: int = 10
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Recurrent, unrolled in time: a hand-written GRU cell, each block a stretch of time steps.

    (batch, depth * stretch, features) -> the last hidden state (batch, width). All blocks share one cell.
    GRU: arXiv 1406.1078.
    """
    module = GRU(depth=depth, stretch=stretch, features=features, width=width)
    return module, (torch.randn(batch, depth * stretch, features),)
