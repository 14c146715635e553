"""Predictions where kernels choose by size what they allocate, against the same steps, run."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rematbench.measuring.calls import argument_bytes, arguments_of, described, operator_of
from rematbench.measuring.meter import meter_for
from rematbench.measuring.session import Session
from rematbench.predicting.kernels import Kernels
from rematbench.predicting.prediction import Predictor
from rematbench.predicting.search import Predicted, peak_bytes
from rematbench.suite.case import Case
from rematbench.traces.calls import Asked, Effect
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
aten = torch.ops.aten


@torch.library.custom_op("rematbench_tests::tiled", mutates_args=())
def tiled(x: Tensor) -> Tensor:
    """Twice its argument, by tiles of a size that is chosen by the number of rows."""
    rows = x.shape[0]
    scratch = torch.empty(64 if rows < 20 else 3000 if rows < 200 else rows // 7 * 1000)
    more = torch.empty(50_000) if rows >= 200 else None
    del scratch, more
    return x + x


tiled.register_autograd(lambda _, grad: tiled(grad))


class Tiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = tiled(block(x)).relu()
        return x


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 20, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lstm(x)[0]
        return found


def workload(name: str, sizes: Mapping[str, int]) -> Workload:
    torch.manual_seed(0)
    if name == "tiled":
        return Workload(module=Tiled(), batch=(torch.randn(sizes["batch"], 16),))
    if name == "attention":
        x = torch.randn(2, 2, sizes["length"], 8, requires_grad=True)
        return Workload(module=nn.Sequential(Attending(), Attending()), batch=(x,))
    if name == "lstm":
        return Workload(module=Recurrent(), batch=(torch.randn(sizes["batch"], 7, 12),))
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.GroupNorm(4, 24)]
    return Workload(module=nn.Sequential(*layers), batch=(torch.randn(sizes["batch"], 3, 8, 8),))


def predictor(name: str) -> Predictor:
    return Predictor(lambda sizes: workload(name, sizes), CPU)


def predicted(found: Predictor, sizes: Mapping[str, int], placement: str = "none") -> Predicted:
    case = Case.model_validate(placement)
    return found.predicted(placement, lambda session: case.resolve(session.outline), sizes)


def measured(name: str, sizes: Mapping[str, int], placement: str = "none") -> int:
    session = Session(workload(name, sizes), CPU)
    return session.peak_bytes(Case.model_validate(placement).resolve(session.outline))


@pytest.mark.parametrize("placement", ["none", "each"])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("tiled", {"batch": 1024}),
        ("conv", {"batch": 96}),
        ("lstm", {"batch": 90}),
        ("attention", {"length": 900}),
    ],
)
def test_a_threshold_between_the_runs_and_the_target_is_crossed(
    name: str, sizes: Mapping[str, int], placement: str
) -> None:
    found = predicted(predictor(name), sizes, placement)
    assert found.is_exact
    assert len(found.runs) <= 5
    assert all(4 * run[size] <= value for run in found.runs for size, value in sizes.items())
    assert peak_bytes(found.tape) == measured(name, sizes, placement)


def test_another_value_on_the_same_runs_asks_the_kernels_there() -> None:
    found = predicted(predictor("tiled"), {"batch": 1024})
    other = found.at({"batch": 190})
    assert other is not None
    assert peak_bytes(other) == measured("tiled", {"batch": 190})


def test_kernels_too_large_to_be_asked_are_told_from_smaller_ones_with_a_range() -> None:
    few = predictor("attention")
    few._kernels = Kernels(meter_for(CPU), limit_bytes=2**30, limit_flops=10**9)
    few.limits = replace(few.limits, flops=10**9)
    found = predicted(few, {"length": 4096})
    assert not found.is_exact
    assert found.reach > 0
    assert any("too large to be run alone" in note for note in found.notes)
    off = abs(peak_bytes(found.tape) - measured("attention", {"length": 4096}))
    assert off <= found.reach * peak_bytes(found.tape)


def test_a_call_is_made_again_from_its_description() -> None:
    x = torch.randn(2, 5, 6).transpose(1, 2)
    kind, numbers = described(aten.mean.dim, (x, [1], True), {"dtype": torch.float64})
    asked = Asked(kind, numbers)
    (again, dims, keep), kwargs = arguments_of(asked)
    assert (again.shape, again.stride(), again.dtype) == (x.shape, x.stride(), x.dtype)
    assert (dims, keep, kwargs) == ([1], True, {"dtype": torch.float64})
    assert operator_of(asked) is aten.mean.dim
    assert argument_bytes(asked) == 4 * 60
    assert described(aten.bernoulli.default, (x,), {"generator": torch.Generator()}) == ("", ())


def test_what_a_call_does_alone_and_what_it_says_where_it_cannot() -> None:
    def asked(operator: object, *args: object) -> Asked:
        return Asked(*described(operator, args, {}))

    kernels = Kernels(meter_for(CPU), limit_bytes=10_000, limit_flops=10**9)
    tiles = asked(torch.ops.rematbench_tests.tiled.default, torch.empty(30, 2))
    wrong = asked(aten.mm.default, torch.empty(2, 3), torch.empty(4, 5))
    answers = kernels.ask([tiles, wrong])
    assert answers[tiles] == Effect((12_000, ~0, 240))
    assert answers[wrong] == "alone it raised RuntimeError"
    large = asked(torch.ops.rematbench_tests.tiled.default, torch.empty(3000, 2))
    assert list(kernels.ask([large, asked(aten.relu.default, torch.empty(3))])) == [large]
