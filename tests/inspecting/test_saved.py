"""What autograd keeps, tensor by tensor: by hand, and against what the allocator holds on every reference model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from rematbench.inspecting.saved import saved_by_forward
from rematbench.loading import reference_models
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.records.inspection import SavedTensor
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import Workload

CPU = torch.device("cpu")


def kept(module: nn.Module, *batch: Tensor, loss_fn: Any = lambda y: y.sum()) -> list[SavedTensor]:
    return list(saved_by_forward(Workload(module=module, batch=batch, loss_fn=loss_fn)).saved)


def activations(found: list[SavedTensor]) -> list[SavedTensor]:
    return [saved for saved in found if saved.kind == "activation"]


def test_a_linear_relu_linear_chain_by_hand() -> None:
    """The first Linear keeps the batch, ReLU its result, which the second Linear keeps too."""
    chain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    found = kept(chain, torch.randn(7, 3))
    (relu,) = activations(found)
    assert (relu.bytes, relu.shape, relu.dtype) == (7 * 5 * 4, (7, 5), "float32")
    assert (relu.operator, relu.module, relu.shared_with) == ("relu (result)", "1", ("2",))
    assert relu.line.startswith("test_saved.py:")  # a model of layers alone: the line is its caller's
    others = {(saved.kind, saved.operator, saved.module, saved.bytes) for saved in found if saved is not relu}
    assert others == {("batch", "addmm (mat1)", "0", 7 * 3 * 4), ("parameter", "addmm (mat2)", "2", 2 * 5 * 4)}


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.sigmoid(y) * y  # sigmoid keeps its result; the product keeps both its factors


def test_one_storage_that_two_operators_keep_counts_once() -> None:
    found = activations(kept(Blocks(), torch.randn(6, 4)))
    assert [saved.bytes for saved in found] == [6 * 4 * 4] * 2
    assert all(saved.module == "" for saved in found)
    assert {saved.operator for saved in found} == {"sigmoid (result)", "mul (other)"}  # the first that keeps each
    lines = Path(__file__).read_text().splitlines()
    number = int(found[0].line.rpartition(":")[2])
    assert "torch.sigmoid(y) * y" in lines[number - 1]


def test_a_view_is_its_whole_storage() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[:, :4].square()

    (saved,) = activations(kept(Half(), torch.randn(2, 8)))
    assert (saved.bytes, saved.shape) == (2 * 8 * 4, (2, 4))


def test_a_function_of_the_user_s_own_is_named() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = x + 0
            ctx.save_for_backward(y)
            return x**3

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 3 * x * x * gradient

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return Cube.apply(self.layer(x))  # type: ignore[no-untyped-call]

    (saved,) = activations(kept(Net(), torch.randn(3, 2)))
    assert saved.operator == "cube"


class Net(nn.Module):
    """Two layers and whatever a test does with them."""

    def __init__(self, run: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def test_what_a_detached_branch_saved_is_gone_with_it() -> None:
    """The sigmoid's result is saved, and dropped with its graph; what stays is the detached value, an input then."""
    found = activations(kept(Net(lambda net, x: net.second(net.first(x).sigmoid().exp().detach())), torch.randn(5, 4)))
    assert [(saved.operator, saved.bytes) for saved in found] == [("addmm (mat1)", 5 * 4 * 4)]


def test_a_region_that_the_model_checkpoints_itself_is_not_run_again() -> None:
    """Nor is what stands inside told: only its input is kept, and what follows."""
    runs: list[int] = []

    def region(net: Net, y: Tensor) -> Tensor:
        runs.append(1)
        return net.second(y).sigmoid().exp()

    def run(net: Net, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(region, net, net.first(x), use_reentrant=False)
        return result.square()

    found = activations(kept(Net(run), torch.randn(5, 4)))
    assert len(runs) == 1
    assert [(saved.operator, saved.bytes) for saved in found] == [("", 5 * 4 * 4), ("pow (self)", 5 * 4 * 4)]


def test_what_goes_through_hooks_of_the_model_s_own_is_left_to_them() -> None:
    """The sigmoid's result is kept as they packed it, which is not seen; the layer's input is the batch."""
    unpacked: list[int] = []

    def unpack(packed: Tensor) -> Tensor:
        unpacked.append(1)
        return packed.float()

    def run(net: Net, x: Tensor) -> Tensor:
        with saved_tensors_hooks(lambda tensor: tensor.bfloat16(), unpack):
            return net.first(x).sigmoid()

    assert activations(kept(Net(run), torch.randn(5, 4))) == []
    assert unpacked == []


def test_a_module_called_twice_keeps_for_both_calls() -> None:
    found = activations(kept(Net(lambda net, x: net.first(net.first(net.first(x)))), torch.randn(5, 4)))
    assert [(saved.operator, saved.module, saved.shared_with) for saved in found] == [("addmm (mat1)", "first", ())] * 2


def test_an_output_beside_the_loss_keeps_its_graph_and_its_operators_are_named() -> None:
    def run(net: Net, x: Tensor) -> dict[str, Any]:
        return {"y": net.first(x), "also": [None, (net.second(x).exp(), 3)]}

    found = activations(kept(Net(run), torch.randn(5, 4), loss_fn=lambda output: output["y"].sum()))
    assert [(saved.operator, saved.module) for saved in found] == [("exp (result)", "")]


def test_what_the_loss_keeps_is_outside_all_modules() -> None:
    found = activations(kept(nn.Linear(2, 2), torch.randn(3, 2), loss_fn=lambda y: y.square().sum()))
    assert [(saved.module, saved.operator) for saved in found] == [("(loss)", "pow (self)")]


def test_output_and_loss_that_nobody_saves_are_told_apart() -> None:
    workload = Workload(module=nn.Linear(2, 2), batch=(torch.randn(3, 2),), loss_fn=lambda y: y.sum())
    assert saved_by_forward(workload).output_bytes == 3 * 2 * 4 + 4


@pytest.mark.parametrize("name", reference_models())
def test_what_is_saved_is_what_is_held(name: str) -> None:
    """Within 1 %, the LSTM's workspace included: oneDNN's layer hands it to autograd."""
    workload = build(ModelRef.parse(name, Path.cwd()), CPU, dtype=torch.float32, seed=0)
    session = Session(workload, CPU, CpuMeter())
    session.keep_plain()
    held = session.readings(Placement(name="none"))[0].held_bytes
    session.fresh()
    found = saved_by_forward(workload)
    explained = sum(saved.bytes for saved in activations(list(found.saved))) + found.output_bytes
    assert explained == pytest.approx(held, rel=0.01)
    assert explained <= held
    assert all(saved.operator for saved in found.saved)


def test_looking_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    kept(model, torch.randn(3, 2))
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
