"""Every step starts from the same state, whatever the model does with it; and what it is then compared by."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
PLAIN = Placement(name="none")


class Net(nn.Module):
    """A layer; what a subclass does besides decides what the next step finds."""

    ema: torch.Tensor
    last: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("ema", torch.ones(4, 8))
        self.register_buffer("last", None)
        self.plain = torch.ones(4, 8)
        self.features: dict[str, Any] = {}
        self.seen: list[Any] = []
        self.calls = 0
        self.torch_s = torch.Generator()
        self.python_s = random.Random(0)
        self.numpy_s = np.random.default_rng(0)
        self.old_numpy_s = np.random.RandomState(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.factor(x)

    def factor(self, _x: torch.Tensor) -> Any:
        return 1.0


class BufferAnew(Net):
    def factor(self, x: torch.Tensor) -> Any:
        self.ema = 0.9 * self.ema + x
        return self.ema


class AttributeAnew(Net):
    def factor(self, x: torch.Tensor) -> Any:
        self.plain = 0.9 * self.plain + x
        return self.plain


class AttributeInPlace(Net):
    def factor(self, x: torch.Tensor) -> Any:
        self.plain.mul_(0.9).add_(x)
        return self.plain.clone()


class BufferFromNothing(Net):
    def factor(self, x: torch.Tensor) -> Any:
        self.last = x.detach() + (0 if self.last is None else self.last)
        return self.last


class Collecting(Net):
    def factor(self, x: torch.Tensor) -> Any:
        self.seen.append(x.detach() * (1 + len(self.seen)))
        self.features["x"] = self.features.get("x", 0) + self.seen[-1]
        self.calls += 1
        return self.features["x"] * self.calls


class WeightInForward(Net):
    def factor(self, _x: torch.Tensor) -> Any:
        with torch.no_grad():
            self.layer.weight.mul_(0.9)
        return 1.0


class WeightPastTheCount(Net):
    def factor(self, _x: torch.Tensor) -> Any:
        self.layer.weight.data = self.layer.weight.data * 0.9
        return 1.0


class WeightAnew(Net):
    def factor(self, _x: torch.Tensor) -> Any:
        self.layer.bias = nn.Parameter(self.layer.bias.detach() * 0.9 + 1)
        return self.layer.bias


class BatchInPlace(Net):
    def factor(self, x: torch.Tensor) -> Any:
        x.data.mul_(0.9)
        return x.clone()


class Drawing(Net):
    def factor(self, _x: torch.Tensor) -> Any:
        drawn = random.random() + np.random.rand() + float(torch.rand(()))
        own = torch.rand((), generator=self.torch_s).item() + self.python_s.random()
        return drawn + own + self.numpy_s.random() + self.old_numpy_s.rand()


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD], ids=["no optimizer", "sgd"])
@pytest.mark.parametrize("cls", Net.__subclasses__())
def test_two_plain_steps_are_the_same(cls: Callable[[], Net], optimizer: Any) -> None:
    torch.manual_seed(0)
    model = cls()
    made = optimizer(model.parameters(), lr=0.1) if optimizer else None
    session = Session(Workload(module=model, batch=(torch.randn(4, 8),), optimizer=made), CPU)
    session.keep_plain()
    found = session.measure(PLAIN)
    equality = found.equality
    assert equality is not None
    assert (equality.gradients, equality.loss, equality.buffers) == ("bitwise", "equal", "equal")
    assert equality.rng_state == "equal"
    assert found.unsteadiness == ""
    assert found.memory.repeatable
    assert session.measure(PLAIN).equality == equality


def test_a_buffer_in_two_places_is_one_buffer_again() -> None:
    first, second = BufferAnew(), BufferAnew()
    second.ema = first.ema
    session = Session(Workload(module=nn.Sequential(first, second), batch=(torch.randn(4, 8),)), CPU)
    before = first.ema.clone()
    session.keep_plain()
    session.fresh()
    assert first.ema is second.ema
    assert torch.equal(first.ema, before)


def test_what_cannot_be_put_back_is_said_and_nobody_is_accused() -> None:
    outside = [1.0]

    class Counting(Net):
        def factor(self, _x: torch.Tensor) -> Any:
            outside[0] += 1
            return outside[0]

    session = Session(Workload(module=Counting(), batch=(torch.randn(4, 8),)), CPU)
    session.keep_plain()
    found = session.measure(PLAIN)
    assert found.equality is not None
    assert (found.equality.gradients, found.equality.loss) == (None, None)
    assert "two plain steps from the same state differ in the gradient of layer." in found.unsteadiness


def test_tensors_of_the_model_s_own_are_left_where_they_are() -> None:
    model = BufferAnew()
    model.alias = model.layer.weight.detach()
    model.lstm = nn.LSTM(2, 2)
    session = Session(Workload(module=model, batch=(torch.randn(4, 8),)), CPU)
    session.keep_plain()
    session.fresh()
    assert model.alias.data_ptr() == model.layer.weight.data_ptr()
    assert model.lstm._flat_weights[0] is model.lstm.weight_ih_l0


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_module_starts_from_the_same_state_too() -> None:
    scripted: Any = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    session = Session(Workload(module=nn.Sequential(scripted), batch=(torch.randn(4, 8),)), CPU)
    before = {name: buffer.clone() for name, buffer in session.workload.module.named_buffers()}
    session.keep_plain()
    session.fresh()
    assert all(torch.equal(before[name], buffer) for name, buffer in session.workload.module.named_buffers())
