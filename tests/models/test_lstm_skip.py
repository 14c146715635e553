"""The LSTM skip against torch's LSTM run by hand."""

# mypy: disable-error-code="arg-type,index,misc,no-untyped-call,operator,union-attr"
# (submodules are reached by name here, and torch types every such attribute as Tensor | Module)

import torch
from models import lstm_skip


def test_a_block_appends_the_last_hidden_state_to_the_projected_sequence() -> None:
    block, x = lstm_skip.LSTMSkip(3, 4, 6), torch.randn(2, 5, 3)
    projected = block.projection(x)
    _, (hidden, _) = block.lstm(projected)
    output = block(x)
    assert output.shape == (2, 6, 4)
    torch.testing.assert_close(output[:, :5], projected)
    torch.testing.assert_close(output[:, 5], block.summary(hidden[-1]))


def test_every_block_makes_the_sequence_one_step_longer() -> None:
    module, (x,) = lstm_skip.lstm(depth=3, steps=7, width=4, features=5)
    steps = []
    for block in module.blocks:
        x = block(x)
        steps.append(x.shape[1])
    assert steps == [8, 9, 10]
