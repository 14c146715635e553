"""A plain step taken apart: by hand on small models, and that models of every kind are shown and left alone."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rematbench.errors import ModelError
from rematbench.inspecting.inspect import inspect
from rematbench.measuring.flops import FORMULAS
from rematbench.measuring.meter import Meter
from rematbench.measuring.session import Session
from rematbench.records.inspection import Inspection, ModuleCost
from rematbench.reporting.tree import tree
from rematbench.suite.model_ref import ModelRef
from rematbench.suite.suite import Device, custom_suite
from rematbench.traces.replay import Reading
from rematbench.workload.building import build
from rematbench.workload.step import Phases, Workload, call, training_step

CPU = torch.device("cpu")
(JOB,) = custom_suite(["plain.mlp"]).jobs(Path.cwd(), [Device(name="cpu", capacity_bytes=None)])


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """Spare the collector what was there before, as the worker does: it runs before every pass."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def inspected(module: nn.Module, *batch: Tensor, meter: Meter | None = None) -> Inspection:
    workload = Workload(module=module, batch=batch or (torch.randn(7, 4),))
    return inspect(Session(workload, CPU, meter), JOB, CPU)


def costs(inspection: Inspection) -> dict[str, ModuleCost]:
    return {cost.path: cost for cost in inspection.modules}


class Net(nn.Module):
    """Two layers and whatever a test does with them."""

    def __init__(self, run: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def test_a_chain_by_hand() -> None:
    found = inspected(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(7, 3))
    whole, first, relu, last = found.modules
    assert [cost.path for cost in found.modules] == ["", "0", "1", "2"]
    assert [cost.class_name for cost in found.modules] == ["Sequential", "Linear", "ReLU", "Linear"]
    assert [cost.parameters for cost in found.modules] == [20 + 12, 3 * 5 + 5, 0, 5 * 2 + 2]
    assert [cost.outputs for cost in found.modules] == [((7, 2),), ((7, 5),), ((7, 5),), ((7, 2),)]
    # The ReLU keeps its result for itself and the next layer; the first layer's goes; the last one's is squared.
    assert [cost.own_bytes for cost in (first, relu, last)] == [0, 7 * 5 * 4, 7 * 2 * 4]
    assert [cost.forward_flops for cost in (first, relu, last)] == [2 * 7 * 3 * 5, 0, 2 * 7 * 5 * 2]
    assert whole.own_bytes == 0
    assert all(cost.forward_s > 0 and cost.backward_s for cost in found.modules)
    assert found.saved_bytes == 7 * 5 * 4 + 7 * 2 * 4
    assert found.static_bytes == (20 + 12 + 7 * 3) * 4
    assert found.chains == ("the model 3 × Linear, ReLU",)


@pytest.mark.parametrize("name", ["concat_skip.unet", "lstm_skip.lstm", "intermediate.hooked"])
def test_a_reference_model_adds_up_and_is_left_as_it_was(name: str) -> None:
    """Bytes as measured, FLOPs as torch's own counter has them, and no forward, hook or gradient left behind."""
    workload = build(ModelRef.parse(name, Path.cwd()), CPU, dtype=torch.float32, seed=0)
    before = {path: traces(module) for path, module in workload.module.named_modules()}
    found = inspect(Session(workload, CPU), JOB, CPU)
    assert {path: traces(module) for path, module in workload.module.named_modules()} == before
    assert all(parameter.grad is None for parameter in workload.module.parameters())
    assert tree(found.modules).held_bytes + (found.loss_bytes or 0) == found.held_bytes
    assert found.saved_bytes + found.output_bytes + found.unexplained_bytes == found.held_bytes
    assert abs(found.unexplained_bytes) <= 0.01 * found.held_bytes
    with FlopCounterMode(display=False) as counter:
        call(workload)
    flops = found.modules[0].forward_flops
    assert flops is not None
    if "lstm" in name:  # torch's counter has no recurrent layers
        assert flops > counter.get_total_flops()
    else:
        assert flops == counter.get_total_flops()


def traces(module: nn.Module) -> list[Any]:
    """Return what watching a module could leave on it: attributes, and how many hooks."""
    return [sorted(vars(module)), *(len(hooks) for name, hooks in sorted(vars(module).items()) if "hooks" in name)]


def test_the_next_step_is_the_same_as_without_an_inspection() -> None:
    """Buffers and random state are put back."""
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    session = Session(workload := Workload(module=module, batch=(torch.randn(7, 4),)), CPU)
    before = training_step(workload)
    session.fresh()
    inspect(session, JOB, CPU)
    assert torch.equal(training_step(workload), before)


def test_a_module_called_twice_counts_both_calls_and_shows_the_first() -> None:
    found = costs(inspected(Net(lambda net, x: net.first(net.first(x).relu()[:3]))))
    assert (found["first"].calls, found["first"].outputs) == (2, ((7, 4),))
    assert found["first"].forward_flops == 2 * (7 + 3) * 4 * 4
    assert "second" not in found  # never called


class Counters:
    """A meter of totals alone, as on a GPU."""

    name = "totals"

    def block(self, _path: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def read(self, step: Callable[[Phases], object]) -> Reading:
        step(lambda _phase: nullcontext())
        return Reading(held_bytes=1000, phase_peak_bytes={"forward": 1000, "backward": 2000})


def test_what_the_meter_cannot_tell_is_absent() -> None:
    found = inspected(nn.Sequential(nn.Linear(4, 4)), meter=Counters())
    assert [cost.own_bytes for cost in found.modules] == [None, None]
    assert (found.loss_bytes, found.held_bytes, found.peak_bytes) == (None, 1000, 2000)


def test_where_nothing_requires_a_gradient_there_is_a_sentence() -> None:
    with pytest.raises(ModelError, match="depends on nothing that requires a gradient"):
        inspected(nn.Linear(4, 4).requires_grad_(False))


def test_the_backward_of_a_module_without_a_node_is_absent() -> None:
    found = costs(inspected(Net(lambda net, x: net.second(net.first(x).detach()))))
    assert found["first"].backward_s is None
    assert found["second"].backward_s is not None


def test_a_module_that_raises_and_is_caught_is_not_taken_for_the_one_at_work() -> None:
    class Flaky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 7:
                raise ValueError("too long")
            return x.detach()

    def run(net: Net, x: Tensor) -> Any:
        flaky = net.get_submodule("flaky")
        with pytest.raises(ValueError, match="too long"):
            flaky(x)
        return net.second(net.first(x).sigmoid()) + flaky(x[:1])

    net = Net(run)
    net.add_module("flaky", Flaky())
    assert costs(inspected(net))["flaky"].backward_s is None


class Refusing(torch.autograd.Function):
    """Runs as torch's own do that refuse a dispatch mode, as flex attention does on a GPU."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("There was no rule registered for HOP flex_attention and mode FlopMeter")
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def test_where_torch_refuses_the_counter_flops_are_absent_and_all_else_is_there() -> None:
    found = costs(inspected(Net(lambda net, x: Refusing.apply(net.first(x)))))  # type: ignore[no-untyped-call]
    assert found["first"].forward_flops is None
    assert (found["first"].calls, found["first"].outputs) == (1, ((7, 4),))


def test_a_fault_of_our_own_in_the_counter_is_not_taken_for_torch_refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_arguments: object, **_more: object) -> int:
        raise KeyError("a fault of ours")

    monkeypatch.setitem(FORMULAS, torch.ops.aten.addmm, faulty)
    with pytest.raises(KeyError, match="a fault of ours"):
        inspected(nn.Linear(4, 4))


def compiled(model: nn.Module) -> nn.Module:
    model._compiled_call_impl = model._call_impl  # what `Module.compile` leaves behind, but for the second it takes
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("change", "name"), [(compiled, "torch.compile"), (torch.jit.script, "torch.jit")])
def test_a_model_that_cannot_be_watched_inside_is_shown_as_a_whole_and_says_so(change: Any, name: str) -> None:
    found = inspected(change(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))))
    (whole,) = found.modules
    assert (whole.path, whole.own_bytes, whole.calls, whole.parameters) == ("", None, 1, 40)
    assert whole.forward_flops == 2 * 2 * 7 * 4 * 4
    assert whole.forward_s > 0
    assert whole.backward_s
    (remark,) = found.remarks
    assert f"runs through {name}" in remark
    assert {saved.module for saved in found.saved} == {"", "(loss)"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_inside_is_shown_as_a_whole() -> None:
    found = inspected(nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))))
    assert list(costs(found)) == ["", "0", "1"]
    assert tree(found.modules).held_bytes + (found.loss_bytes or 0) == found.held_bytes


def energy(net: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (force,) = torch.autograd.grad(net.first(x).tanh().sum(), x, create_graph=True)
    return force


def in_place(net: Net, x: Tensor) -> Tensor:
    return net.second(net.first(x).relu_()).mul_(2)


def itself(net: Net, x: Tensor) -> Tensor:
    return net(net.first(x)[:3]) if len(x) == 7 else net.second(x)


def beside_others(net: Net, x: Tensor) -> dict[str, Any]:
    return {"y": net.first(x), "index": x.argmax(-1), "none": None, "more": [(net.second(x), 3)]}


@pytest.mark.parametrize("run", [energy, in_place, itself, beside_others])
def test_models_of_any_kind_are_inspected_and_add_up(run: Callable[[Net, Tensor], Any]) -> None:
    """One that differentiates in its forward, in-place operators, one that calls itself, outputs besides tensors."""
    found = inspected(Net(run))
    assert tree(found.modules).held_bytes + (found.loss_bytes or 0) == found.held_bytes
    assert 0 <= found.unexplained_bytes <= 24  # scalars of the loss
    assert found.modules[0].calls == 1


def test_a_name_of_odd_characters_is_shown_as_it_is() -> None:
    model = nn.Sequential()
    model.add_module("a b|é[0]", nn.Linear(4, 4))
    assert list(costs(inspected(model))) == ["", "a b|é[0]"]
