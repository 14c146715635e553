"""Concatenating networks against formulas that know nothing of a state passed along."""

# mypy: disable-error-code="arg-type,index,misc,no-untyped-call,operator,union-attr"
# (submodules are reached by name here, and torch types every such attribute as Tensor | Module)

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from models import concat_skip
from torch import Tensor, nn


@pytest.mark.parametrize(("inputs", "width"), [(3, 4), (5, 3), (1, 1)])
def test_conv_block_is_its_formula_for_any_channels(inputs: int, width: int) -> None:
    block, x = concat_skip.ConvConcat(inputs, width), torch.randn(2, inputs, 6, 6)
    first, _, second = block.body
    y = F.conv2d(x, first.weight, first.bias, padding=1).relu()
    y = F.conv2d(y, second.weight, second.bias, padding=1)
    assert y.shape[1] == (width + 1) // 2
    expected = F.conv2d(torch.cat((x, y), dim=1), block.mix.weight, block.mix.bias)
    assert expected.shape == (2, width, 6, 6)
    torch.testing.assert_close(block(x), expected)


def nested(blocks: list[nn.Module], x: Tensor) -> Tensor:
    """The U as a recursion: the outermost pair of blocks around the rest, so a skip is a local variable."""
    if len(blocks) == 1:
        return blocks[0].convs(x)
    down, *inner, up = blocks
    skip = down.convs(x)
    low = nested(inner, F.max_pool2d(skip, 2))
    upsampled = up.up(low, output_size=skip.shape[-2:])
    return up.convs(torch.cat((skip, upsampled), dim=1))


@pytest.mark.parametrize("size", [8, 16, 19])
def test_unet_is_nested_levels_at_any_size(size: int) -> None:
    module, (x,) = concat_skip.unet(depth=3, width=8, size=size, batch=1)
    expected = module.head(nested(list(module.blocks), x))
    assert expected.shape == (1, 2, size, size)
    assert expected.std() > 1e-3  # or it says nothing but the head's bias
    torch.testing.assert_close(module(x), expected)


def test_unet_boundaries_carry_the_skips_still_to_be_used() -> None:
    module, (x,) = concat_skip.unet(depth=3, width=2, batch=1)
    states = [(x,)]
    for block in module.blocks:
        states.append(block(states[-1]))
    assert [len(state) for state in states] == [1, 2, 3, 4, 4, 3, 2, 1]
    for before, after in pairwise(states):
        shared = min(len(before), len(after))
        assert all(a is b for a, b in zip(before[1:shared], after[1:shared], strict=True))
