"""What every example is held to: a step and twenty AdamW steps under a placement are those without, to the bit."""

import copy
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench import Placement, applied
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.measuring.flops import FlopMeter
from rematbench.placement.placement import Region
from rematbench.workload.step import Workload, loss_of, training_step

STEPS = 20
Batch = tuple[Any, ...] | Mapping[str, Any]


class library:  # noqa: N801  # stands for a module
    """A library of the extra `examples`, imported when it is first asked for something; skips a file of tests without.

    Every process that runs tests collects all files, and one of them runs those here.
    """

    def __init__(self, name: str) -> None:
        if importlib.util.find_spec(name) is None:
            pytest.skip("the extra `examples` is not installed", allow_module_level=True)
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def regions(*paths: str, **options: Any) -> Placement:
    return Placement(name=" ".join(paths), regions=tuple(Region(path=path, **options) for path in paths))


def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss and every gradient of a seeded step."""
    torch.manual_seed(1)
    model.zero_grad()
    loss = training_step(Workload(module=model, batch=batch))
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert gradients
    return {"": loss} | gradients


def trained(model: nn.Module, batch: Batch, steps: int = STEPS) -> dict[str, Tensor]:
    """Every parameter and buffer after steps of AdamW, written as anyone would."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(**batch) if isinstance(batch, Mapping) else model(*batch)
        loss_of(output).backward()
        optimizer.step()
    return model.state_dict()


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def assert_nothing_changes(model: nn.Module, batch: Batch, placement: Placement | str) -> None:
    """Hold a placement to the plain model: one step, twenty steps of training, and the model as it was afterwards."""
    plain, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    with applied(model, placement) as handle:
        assert handle.blocks
        assert equal(step(model, batch), step(plain, batch))
        model.zero_grad()
        assert equal(trained(model, batch), trained(plain, batch))
    assert not equal(model.state_dict(), start)
    assert not any("forward" in vars(module) for module in model.modules())


def peak_bytes(model: nn.Module, batch: Batch) -> int:
    """The peak of a step from clean gradients, after one that is not measured."""
    step(model, batch)
    model.zero_grad()
    workload = Workload(module=model, batch=batch)
    return CpuMeter().read(lambda phases: training_step(workload, phases)).peak_bytes


def flops(model: nn.Module, batch: Batch) -> int:
    model.zero_grad()
    with FlopMeter() as meter:
        training_step(Workload(module=model, batch=batch))
    return meter.read().flops


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A model in training mode, with the same random weights each time."""
    torch.manual_seed(0)
    return build().train()
