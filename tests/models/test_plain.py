"""Plain chains against torch's own layers."""

# mypy: disable-error-code="arg-type,index,misc,no-untyped-call,operator,union-attr"
# (submodules are reached by name here, and torch types every such attribute as Tensor | Module)

import pytest
import torch
import torch.nn.functional as F
from models import plain
from torch import nn


def test_mlp_is_its_layers_in_order() -> None:
    module, (x,) = plain.mlp(depth=2, width=7, batch=3)
    (first, _), (second, _) = module.blocks
    hidden = F.linear(x, first.weight, first.bias).clamp(min=0)
    hidden = F.linear(hidden, second.weight, second.bias).clamp(min=0)
    torch.testing.assert_close(module(x), F.linear(hidden, module.head.weight, module.head.bias))


@pytest.mark.parametrize(("stages", "features"), [(1, 16 * 14**2), (2, 32 * 7**2)])
def test_cnn_head_takes_what_the_pools_leave(stages: int, features: int) -> None:
    module, _ = plain.cnn(stages=stages, depth=1, width=16, size=28, batch=1)
    assert module.head.in_features == features


@pytest.mark.parametrize("size", [8, 13, 28, 31])
def test_cnn_takes_any_size(size: int) -> None:
    module, (x,) = plain.cnn(stages=3, depth=1, width=2, size=size, batch=2)
    assert module(x).shape == (2, 10)


def test_cnn_pools_at_the_end_of_each_stage() -> None:
    module, (x,) = plain.cnn(stages=2, depth=2, width=4, size=10, batch=1)
    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    expected, shapes = x, []
    for stage in (convs[:2], convs[2:]):
        for conv in stage:
            expected = F.conv2d(expected, conv.weight, conv.bias, padding=1).relu()
        expected = F.max_pool2d(expected, 2)
        shapes.append(tuple(expected.shape))
    assert shapes == [(1, 4, 5, 5), (1, 8, 2, 2)]
    torch.testing.assert_close(module(x), module.head(expected.flatten(1)))


def test_sequence_is_a_stacked_lstm_read_at_its_last_step() -> None:
    module, (tokens,) = plain.sequence(depth=3, width=6, batch=2, steps=5)
    stacked = nn.LSTM(6, 6, num_layers=3, batch_first=True)
    weights = [weight for block in module.blocks for weight in block.lstm.parameters()]
    with torch.no_grad():
        for mine, theirs in zip(stacked.parameters(), weights, strict=True):
            mine.copy_(theirs)
    _, (hidden, _) = stacked(module.embedding(tokens))
    torch.testing.assert_close(module(tokens), module.head(hidden[-1]))


def test_sequence_tokens_stay_below_the_vocabulary() -> None:
    _, (tokens,) = plain.sequence(vocabulary=3, batch=50)
    assert tokens.unique().tolist() == [0, 1, 2]


def test_gru_cell_at_textbook_size() -> None:
    assert plain.GRUCell(10, 20)(torch.randn(1, 10), torch.randn(1, 20)).shape == (1, 20)


def test_gru_cell_is_torchs() -> None:
    cell, torchs = plain.GRUCell(3, 4), nn.GRUCell(3, 4)
    torchs.load_state_dict(
        {
            "weight_ih": cell.inputs.weight,
            "weight_hh": cell.hidden.weight,
            "bias_ih": cell.inputs.bias,
            "bias_hh": cell.hidden.bias,
        }
    )
    x, h = torch.randn(5, 3), torch.randn(5, 4)
    torch.testing.assert_close(cell(x, h), torchs(x, h))


@pytest.mark.parametrize(("update_bias", "expected"), [(0.0, [1.0, -2.0]), (99.0, [2.0, -4.0]), (-99.0, [0.0, 0.0])])
def test_gru_update_gate_chooses_between_old_and_new(update_bias: float, expected: list[float]) -> None:
    cell = plain.GRUCell(1, 2)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)  # so the new state is tanh(0) = 0 and an open gate is a half
    with torch.no_grad():
        cell.inputs.bias[2:4] = update_bias
    assert cell(torch.ones(1, 1), torch.tensor([[2.0, -4.0]])).tolist() == [expected]


def test_gru_unrolls_every_time_step_through_one_cell() -> None:
    module, (x,) = plain.gru(depth=3, stretch=2, width=5, batch=4, features=3)
    cell = module.blocks[0].cell
    assert all(block.cell is cell for block in module.blocks)
    h = torch.zeros(4, 5)
    for t in range(6):
        h = cell(x[:, t], h)
    assert x.shape == (4, 6, 3)
    torch.testing.assert_close(module(x), h)
