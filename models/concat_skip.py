"""Networks that concatenate: skips joined on channels, beside one block or across the whole network.

Shapes: B batch, C input channels, W width (channels), O output channels, S image side.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvConcat(nn.Module):
    """conv-ReLU-conv beside the input, concatenated, then 1x1, (B, inputs, S, S) -> (B, width, S, S)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = (width + 1) // 2  # never zero
        self.body = nn.Sequential(
            nn.Conv2d(inputs, half, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, half, kernel_size=3, padding=1),
        )
        self.mix = nn.Conv2d(inputs + half, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat((x, self.body(x)), dim=1))  # (B, inputs + half, S, S)


class ConvNet(nn.Module):
    """A chain of concatenating blocks, (B, C, S, S) -> (B, W, S, S)."""

    def __init__(self, *, depth: int, channels: int, width: int) -> None:
        super().__init__()
        widths = pairwise([channels] + [width] * depth)
        self.blocks = nn.Sequential(*(ConvConcat(i, o) for i, o in widths))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def conv(
    *, depth: int = 6, width: int = 8, batch: int = 2, size: int = 16, channels: int = 4
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Convolutional: conv-ReLU-conv to half the channels, concatenated with the block's input, 1x1 back.

    (batch, channels, size, size) -> (batch, width, size, size), for any number of channels in and out.
    """
    module = ConvNet(depth=depth, channels=channels, width=width)
    return module, (torch.randn(batch, channels, size, size),)


class DoubleConv(nn.Sequential):
    """conv3x3-ReLU twice, (B, inputs, S, S) -> (B, width, S, S)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.ReLU(),
        )


class Down(nn.Module):
    """One level down: (x, *skips) -> (pooled y, *skips, y), where y = DoubleConv(x)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.convs = DoubleConv(inputs, width)
        self.pool = nn.MaxPool2d(2)

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *skips = state
        y = self.convs(x)
        return self.pool(y), *skips, y  # (B, inputs, S, S) -> (B, width, S//2, S//2), skip (B, width, S, S)


class Bottom(nn.Module):
    """The lowest level: (x, *skips) -> (DoubleConv(x), *skips)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.convs = DoubleConv(inputs, width)

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *skips = state
        return self.convs(x), *skips


class Up(nn.Module):
    """One level up: (x, *skips, skip) -> (DoubleConv(skip beside x upsampled), *skips)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, width, kernel_size=2, stride=2)
        self.convs = DoubleConv(2 * width, width)

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *skips, skip = state
        x = self.up(x, output_size=skip.shape[-2:])  # (B, inputs, S//2, S//2) -> (B, width, S, S)
        return self.convs(torch.cat((skip, x), dim=1)), *skips  # (B, 2*width, S, S) -> (B, width, S, S)


class UNet(nn.Module):
    """Levels down, a bottom, the same levels up, and a 1x1 head, (B, C, S, S) -> (B, O, S, S)."""

    def __init__(self, *, depth: int, channels: int, width: int, outputs: int) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        down = [Down(i, o) for i, o in pairwise([channels, *widths[:-1]])]
        bottom = Bottom(widths[-2], widths[-1])
        up = [Up(i, o) for i, o in pairwise(reversed(widths))]
        self.blocks = nn.Sequential(*down, bottom, *up)
        self.head = nn.Conv2d(width, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        (x,) = self.blocks((x,))
        return self.head(x)


def unet(
    *, depth: int = 3, width: int = 4, batch: int = 2, size: int = 16, channels: int = 3, outputs: int = 2
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """U-Net: an encoder and a decoder whose skips span the blocks between.

    (batch, channels, size, size) -> (batch, outputs, size, size). `depth` levels make 2 * depth + 1 blocks;
    the top level has `width` channels and each next one twice as many. A boundary carries every skip still to
    be used. Any size of at least 2**depth works. Architecture: arXiv 1505.04597, here with padded
    convolutions, so nothing is cropped.
    """
    module = UNet(depth=depth, channels=channels, width=width, outputs=outputs)
    return module, (torch.randn(batch, channels, size, size),)
