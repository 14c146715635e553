"""The contract of outputs and batches."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rematbench.errors import ModelError
from rematbench.workload.step import Workload, batch_tensors, clear_gradients, loss_of, training_step

A, B = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([6.0])


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        (torch.tensor(7.0), 7.0),
        (SimpleNamespace(loss=torch.tensor(5.0), logits=A), 5.0),
        ({"loss": torch.tensor(5.0), "logits": A}, 5.0),
        (A, 30 / 4),
        ((A, [B, torch.tensor([9])]), (30 + 36) / 5),
        ({"hidden": A, "loss": None}, 30 / 4),
        (torch.tensor(3 + 4j), 25.0),
        ((torch.tensor([3 + 4j, 1j]).conj(), B), (25 + 1 + 36) / 3),
    ],
    ids=["scalar", "attribute", "key", "tensor", "every floating tensor", "a loss of None", "complex", "complex too"],
)
def test_the_loss_of_an_output(output: Any, loss: float) -> None:
    assert float(loss_of(output)) == pytest.approx(loss)


def test_an_output_without_a_floating_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match=r"list without a floating tensor: return a loss_fn"):
        loss_of([torch.tensor([1])])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor, *, shift: float = 0.0) -> torch.Tensor:
        return self.weight * x.sum() + shift


def test_a_dict_is_passed_as_keyword_arguments_and_the_optimizer_steps() -> None:
    module = Scaled()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    workload = Workload(module=module, batch={"x": B, "shift": 1.0}, optimizer=optimizer)
    assert float(training_step(workload)) == 3.0 * 6 + 1
    assert float(module.weight.detach()) == pytest.approx(3.0 - 0.1 * 6)


def test_phases_are_marked_in_order() -> None:
    seen: list[str] = []

    @contextmanager
    def phases(phase: str) -> Any:
        seen.append(f"+{phase}")
        yield
        seen.append(f"-{phase}")

    module = Scaled()
    training_step(Workload(module=module, batch=(B,), optimizer=torch.optim.SGD(module.parameters())), phases)
    assert seen == ["+forward", "-forward", "+backward", "-backward", "+optimizer", "-optimizer"]


def test_gradients_are_cleared_in_the_batch_too() -> None:
    x = B.clone().requires_grad_()
    batch = {"x": x, "more": [A.clone().requires_grad_()]}
    workload = Workload(module=Scaled(), batch=batch)
    assert set(batch_tensors(batch)) == {"batch['x']", "batch['more'][0]"}
    x.grad = torch.ones(1)
    clear_gradients(workload)
    assert x.grad is None
