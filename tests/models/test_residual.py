"""Residual networks against the sums they stand for, and what a recomputation does to batch norm."""

# mypy: disable-error-code="arg-type,index,misc,no-untyped-call,operator,union-attr"
# (submodules are reached by name here, and torch types every such attribute as Tensor | Module)

import pytest
import torch
import torch.nn.functional as F
from models import residual
from torch import nn
from torch.utils.checkpoint import checkpoint


@pytest.mark.parametrize(("depth", "span"), [(4, 1), (6, 3), (7, 3), (2, 4)])
def test_linear_adds_the_output_span_blocks_back(depth: int, span: int) -> None:
    module, (x,) = residual.linear(depth=depth, span=span, width=5, batch=3)
    outputs = [module.stem(x)]
    for i, block in enumerate(module.blocks, start=1):
        y = block.linear(outputs[-1]).relu()
        outputs.append(y + outputs[i - span] if i % span == 0 else y)
    torch.testing.assert_close(module(x), outputs[-1])


def batch_normed(x: torch.Tensor) -> torch.Tensor:
    """Batch norm with fresh weights, from its definition."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = x.var(dim=(0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize("inputs", [3, 4])
def test_conv_bn_block_is_its_formula(inputs: int) -> None:
    block, x = residual.ConvBN(inputs, 4), torch.randn(2, inputs, 6, 6)
    first, _, _, second, _ = block.body
    y = batch_normed(F.conv2d(x, first.weight, padding=1)).relu()
    y = batch_normed(F.conv2d(y, second.weight, padding=1))
    shortcut = x if inputs == 4 else batch_normed(F.conv2d(x, block.shortcut[0].weight))
    torch.testing.assert_close(block(x), (y + shortcut).relu(), atol=1e-5, rtol=1e-4)


def test_conv_bn_projects_only_where_channels_change() -> None:
    module, _ = residual.conv_bn(depth=3, width=4)
    assert [isinstance(block.shortcut, nn.Identity) for block in module.blocks] == [False, True, True]


def test_conv_bn_updates_its_running_statistics_again_when_recomputed() -> None:
    module, (x,) = residual.conv_bn(depth=2, width=4)
    first, second = module.blocks
    second(checkpoint(first, x, use_reentrant=False)).square().mean().backward()
    assert [block.body[1].num_batches_tracked.item() for block in (first, second)] == [2, 1]


@pytest.mark.parametrize("inputs", [3, 4])
def test_conv_projection_block_is_its_formula(inputs: int) -> None:
    block, x = residual.ConvProjection(inputs, 4), torch.randn(2, inputs, 6, 6)
    first, _, second = block.body
    y = F.conv2d(x, first.weight, first.bias, padding=1).relu()
    y = F.conv2d(y, second.weight, second.bias, padding=1)
    skip = F.conv2d(x, block.projection.weight, block.projection.bias)
    torch.testing.assert_close(block(x), (y + skip).relu())
