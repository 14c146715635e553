"""Fusion networks against torch's attention and against sums worked out by hand."""

# mypy: disable-error-code="arg-type,index,misc,no-untyped-call,operator,union-attr"
# (submodules are reached by name here, and torch types every such attribute as Tensor | Module)

import pytest
import torch
import torch.nn.functional as F
from models import attention_fusion


def test_attention_is_torchs() -> None:
    attention, x = attention_fusion.Attention(6), torch.randn(2, 5, 6)
    expected = F.scaled_dot_product_attention(attention.query(x), attention.key(x), attention.value(x))
    torch.testing.assert_close(attention(x), expected)


def test_attention_scales_by_the_root_of_the_features() -> None:
    attention = attention_fusion.Attention(4)
    for projection in (attention.query, attention.key, attention.value):
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    x = torch.tensor([[[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    # scores of the first step: 4 and 0, over sqrt(4): 2 and 0
    expected = 2 * torch.tensor(2.0).exp() / (torch.tensor(2.0).exp() + 1)
    torch.testing.assert_close(attention(x)[0, 0], torch.tensor([expected, 0.0, 0.0, 0.0]))


def test_attentive_attends_over_both_streams() -> None:
    module, (a, b) = attention_fusion.attentive(depth=2, width=3, batch=2, steps=4)
    x = torch.cat((a, b), dim=-1)
    for block in module.blocks:
        x = x + block.attention(x)
    torch.testing.assert_close(module(a, b), x)


@pytest.mark.parametrize(("training", "unchanged"), [(True, True), (False, False)])
def test_attentive_dropout_falls_on_the_attention_in_training(training: bool, unchanged: bool) -> None:
    module, batch = attention_fusion.attentive(depth=2, dropout=1.0)
    output = module.train(training)(*batch)
    assert torch.equal(output, torch.cat(batch, dim=-1)) is unchanged


def test_weighted_is_the_learned_sum_of_both_projections() -> None:
    module, (a, b) = attention_fusion.weighted(depth=2, width=3, first=2, second=4, batch=5)
    expected = a
    for i, block in enumerate(module.blocks):
        block.weights.data = torch.tensor([0.5, -2.0 - i])
        expected = (0.5 * block.first(expected) - (2.0 + i) * block.second(b)).relu()
    torch.testing.assert_close(module(a, b), expected)
