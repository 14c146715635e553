"""Intermediate activations: the loss that reads one, the hook that counts them, the chain of bare layers."""

# mypy: disable-error-code="arg-type,index,misc,no-untyped-call,operator,union-attr"
# (submodules are reached by name here, and torch types every such attribute as Tensor | Module)

import pytest
import torch
import torch.nn.functional as F
from models import intermediate
from torch import nn
from torch.utils.checkpoint import checkpoint


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_auxiliary_returns_the_middle_blocks_output(depth: int) -> None:
    module, (x,), _ = intermediate.auxiliary(depth=depth, width=6, batch=3)
    outputs = [module.stem(x)]
    for block in module.blocks:
        outputs.append(block.linear(outputs[-1]).relu())
    y, kept = module(x)
    torch.testing.assert_close(y, module.head(outputs[-1]))
    torch.testing.assert_close(kept, outputs[1 + depth // 2])


def test_auxiliary_loss_weighs_the_intermediate() -> None:
    _, _, loss_fn = intermediate.auxiliary(weight=0.25)
    output = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0, 0.0, 2.0])
    assert loss_fn(output).item() == 5.0 + 0.25 * 6.0


@pytest.mark.parametrize(("recomputed", "calls"), [(False, 1), (True, 2)])
def test_hooked_counts_every_call_of_a_recomputed_block(recomputed: bool, calls: int) -> None:
    module, (x,) = intermediate.hooked(depth=3)
    x = module.stem(x)
    means = []
    for block in module.blocks:
        means.append(F.linear(x, block.linear.weight, block.linear.bias).mean().item())
        x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
    module.head(x).square().mean().backward()
    for block, mean in zip(module.blocks, means, strict=True):
        assert block.calls.item() == calls
        assert block.mean.item() == pytest.approx(mean * (1 - 0.9**calls), rel=1e-4)


def test_activation_only_is_three_linears_with_relus_between() -> None:
    module, (x,) = intermediate.activation_only()
    assert [type(layer) for layer in module.body] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.out_features for layer in module.body[::2]] == [500, 1000, 5]
    assert x.shape == (4096, 10)
