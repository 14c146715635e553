"""A model compiled under a budget: really compiled, once for each budget, and as it was when the placement is gone."""

import gc
import shutil
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.placing import compiling
from rematbench.placing.apply import applied, apply
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
HALF, NOTHING = Placement(name="half", compile_budget=0.5), Placement(name="nothing", compile_budget=0.0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(4)))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The budget of every graph that is compiled; a compiler that returns the graph stands for inductor."""
    seen: list[float] = []

    def backend(budget: float) -> Any:
        def compile_graph(graph: Any, _inputs: Any) -> Any:
            seen.append(budget)
            return graph

        return compile_graph

    monkeypatch.setattr(compiling, "inductor_backend", backend)
    return seen


def test_each_budget_is_compiled_once_however_often_it_is_applied(graphs: list[float]) -> None:
    model, x = net(), torch.ones(2, 8)
    plain = model(x)
    for placement in (HALF, NOTHING, HALF, NOTHING):
        with applied(model, placement):
            assert torch.equal(model(x), plain)
    assert graphs == [0.5, 0.0]


def test_many_budgets_are_compiled_each(graphs: list[float]) -> None:
    """Beyond the eight times that dynamo compiles one piece of code before it gives up and runs it as it is."""
    model, x = net(), torch.ones(2, 8)
    budgets = [step / 11 for step in range(12)]
    for budget in budgets:
        with applied(model, Placement(name="one", compile_budget=budget)):
            model(x)
    assert graphs == budgets


def test_the_model_is_as_it_was_afterwards(graphs: list[float]) -> None:
    model = net()
    handle = apply(model, HALF)
    assert model._compiled_call_impl is not None
    assert handle.blocks == ()
    for _ in range(2):
        handle.remove()
        assert model._compiled_call_impl is None
    model(torch.ones(2, 8))
    assert graphs == []


def test_what_the_user_compiled_comes_back(graphs: list[float]) -> None:
    model = net()
    own = model._compiled_call_impl = model._call_impl
    with applied(model, HALF):
        assert model._compiled_call_impl is not own
    assert model._compiled_call_impl == own
    assert graphs == []


def test_a_compiled_model_is_not_kept_alive(graphs: list[float]) -> None:
    model = net()
    with applied(model, HALF):
        model(torch.ones(2, 8))
    gone = weakref.ref(model)
    del model
    torch._dynamo.reset()
    gc.collect()
    assert gone() is None
    assert graphs == [0.5]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, when inductor is imported
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_under_a_budget_keeps_less_and_trains_the_same() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(6)))
    session = Session(Workload(module=model, batch=(torch.randn(2000, 64),)), CPU)
    session.keep_plain()
    whole = session.measure(Placement(name="one", compile_budget=1.0))
    half = session.measure(HALF)
    assert half.memory.peak_bytes < whole.memory.peak_bytes
    for found in (whole, half):
        assert found.equality is not None
        assert found.equality.gradients in ("bitwise", "noise", "close")
        assert found.compile_s is not None
        assert found.compile_s > 0
        assert found.flops is None
        assert found.memory.held_by_block is None
        assert found.memory.at_peak == ()
    assert session.measure(Placement(name="none")).compile_s is None
