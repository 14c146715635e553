"""Every strategy, and every reference model: a placement changes no loss and no gradient, to the last bit."""

from pathlib import Path

import pytest
import torch
from tests.placing.networks import equal, gradients
from torch import Tensor, nn

from rematbench.loading import load_attribute, reference_models
from rematbench.placement.registry import STRATEGIES, parse_strategy
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline
from rematbench.workload.step import Workload, training_step

EXAMPLES = [
    known.form.replace(":N", ":3").replace("PATTERN", "**.linear")
    for known in STRATEGIES.values()
    if not known.stands_alone
]


def workload(name: str) -> Workload:
    torch.manual_seed(0)
    module, batch, *loss_fn = load_attribute(name, Path())(batch=4)
    return Workload(module=module, batch=batch, loss_fn=loss_fn[0] if loss_fn else None)


def step(workload: Workload, text: str) -> tuple[int, list[Tensor]]:
    """How many modules are recomputed, and the step's loss and gradients."""
    module = workload.module
    torch.manual_seed(1)
    module.zero_grad()
    with applied(module, parse_strategy(text).resolve(outline(module))) as handle:
        loss = training_step(workload)
    assert gradients(module)
    return len(handle.blocks), [loss, *gradients(module)]


def buffers(module: nn.Module) -> list[Tensor]:
    return list(module.buffers())


@pytest.mark.parametrize("text", EXAMPLES)
@pytest.mark.parametrize("name", ["residual.linear", "intermediate.auxiliary"])
def test_every_strategy_keeps_the_step(name: str, text: str) -> None:
    blocks, found = step(workload(name), text)
    assert equal(found, step(workload(name), "none")[1])
    assert bool(blocks) == (text != "none")


@pytest.mark.parametrize("name", reference_models())
def test_every_reference_model_keeps_its_step_under_nested_regions(name: str) -> None:
    model, plain = workload(name), workload(name)
    blocks, found = step(model, "nested:2+batch_norm=once")
    assert blocks == len(outline(model.module).outermost[0])
    assert equal(found, step(plain, "none")[1])
    assert equal(buffers(model.module), buffers(plain.module))
