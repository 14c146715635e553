"""Units measured one by one predict whole steps: peaks within 1 % and almost never low, FLOPs exactly."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rematbench.loading import reference_models
from rematbench.measuring.session import Session
from rematbench.placement.strategies import parse_strategy
from rematbench.placing.outline import outline
from rematbench.placing.sites import Site, find_sites
from rematbench.planner.profile import Profile
from rematbench.planner.profiling import profile
from rematbench.planner.scheduled import placement_of
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import simulate
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
SIZES = {
    "plain.mlp": {"depth": 6, "width": 32, "batch": 8000},
    "plain.cnn": {"depth": 3, "width": 8, "batch": 32},
    "plain.sequence": {"width": 32, "batch": 32, "steps": 64},
    "plain.gru": {"width": 64, "batch": 512, "depth": 4},
    "residual.linear": {"width": 64, "batch": 4000},
    "residual.conv_bn": {"width": 16, "batch": 16, "size": 32},
    "residual.conv_projection": {"width": 16, "batch": 16, "size": 32},
    "concat_skip.conv": {"width": 16, "batch": 16, "size": 32},
    "concat_skip.unet": {"width": 16, "batch": 8, "size": 32},
    "attention_fusion.attentive": {"width": 16, "batch": 16, "steps": 128},
    "attention_fusion.weighted": {"width": 32, "batch": 8000},
    "lstm_skip.lstm": {"width": 16, "batch": 64, "steps": 64, "hidden": 32},
    "intermediate.auxiliary": {"width": 64, "batch": 8000},
    "intermediate.hooked": {"width": 64, "batch": 8000},
    "intermediate.activation_only": {"batch": 256},
}
"""Large enough that the random states a region stashes (5 KiB each) do not count."""

SHARED_GRADIENT = 0.05
"""The blocks of plain.gru share one cell, whose gradient each of them is charged for."""


def regions_of(sites: list[Site], units: dict[str, int]) -> Iterator[UnitRegion]:
    for site in sites:
        yield UnitRegion(start=units[site.names[0]], stop=units[site.names[-1]] + 1, save=site.region.save)
        yield from regions_of(site.inner, units)


def test_every_reference_model_has_a_size() -> None:
    assert set(SIZES) == set(reference_models())


@pytest.mark.parametrize("name", SIZES)
def test_the_prediction_is_the_measurement(name: str) -> None:
    ref = ModelRef.parse(name, Path.cwd(), **SIZES[name])
    workload = build(ref, CPU, dtype=torch.float32, seed=0)
    session = Session(workload, CPU)
    session.keep_plain()
    session.fresh()
    found = profile(workload, CPU)
    chain = found.chain("flops")
    units = {unit.path: at for at, unit in enumerate(found.units)}
    margin = SHARED_GRADIENT if name == "plain.gru" else 0.01
    for text in ("none", "each", "sqrt"):
        placement = parse_strategy(text).resolve(outline(workload.module))
        measured = session.measure(placement)
        assert measured.flops is not None
        regions = list(regions_of(find_sites(workload.module, placement), units))
        predicted = simulate(chain, regions)
        assert predicted.peak_bytes == pytest.approx(measured.memory.peak_bytes, rel=margin), text
        assert predicted.peak_bytes >= measured.memory.peak_bytes * 0.998
        assert predicted.cost == measured.flops.recompute, text
        assert placement_of(text, found, regions).regions == placement.regions


def chain_of(*blocks: nn.Module) -> Profile:
    torch.manual_seed(0)
    return profile(Workload(module=nn.Sequential(*blocks), batch=(torch.randn(64, 8),)), CPU)


def test_a_linear_chain_by_hand() -> None:
    """Linear keeps its input for the weight's gradient, the loss its output; an activation is 64 × 8 floats."""
    found = chain_of(nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8)))
    first, second, loss = found.units
    assert [unit.path for unit in found.units] == ["0", "1", "(loss)"]
    assert (first.inputs, first.saved) == (frozenset(), frozenset())  # the batch is there anyway
    assert (second.inputs, second.saved, loss.saved) == (frozenset({0}), frozenset({0}), frozenset({1}))
    assert found.tensor_bytes == (64 * 8 * 4, 64 * 8 * 4)
    assert first.ways[0].saved_bytes == second.ways[0].saved_bytes == 0
    assert first.parameter_gradient_bytes == (8 * 8 + 8) * 4
    assert first.forward_flops == 2 * 64 * 8 * 8
    assert (first.rerun_flops, second.rerun_flops) == (0, 0)  # nothing saved behind the product: stopped before it
    assert second.follows
    assert not loss.can_be_region


def test_what_is_saved_between_units_is_told_apart() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[1](self.blocks[0](x).sigmoid())

    found = profile(Workload(module=Net(), batch=(torch.randn(64, 8),)), CPU)
    assert [unit.between_bytes for unit in found.units] == [0, 64 * 8 * 4, 0]
    assert not found.units[1].follows


class LanguageModel(nn.Module):
    """Makes its loss itself, as those of transformers do: what the cross entropy holds is in no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(4))
        self.head = nn.Linear(16, 500)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("text", ["none", "each", "first:2+save=matmuls"])
def test_a_loss_inside_the_model_is_predicted_too(text: str) -> None:
    """Its gradients of the logits, twice, are the peak of the plain step; 16 KiB are left for random states."""
    torch.manual_seed(0)
    model, batch = LanguageModel(), {"x": torch.randn(1000, 16), "labels": torch.randint(0, 500, (1000,))}
    session = Session(Workload(module=model, batch=batch), CPU)
    found = profile(session.workload, CPU)
    assert all(weight.grad is None for weight in model.parameters())
    placement = parse_strategy(text).resolve(outline(model))
    units = {unit.path: at for at, unit in enumerate(found.units)}
    predicted = simulate(found.chain("flops"), regions_of(find_sites(model, placement), units))
    assert 0 <= predicted.peak_bytes - session.peak_bytes(placement) <= 2**14
    assert predicted.peak_bytes > 3 * 1000 * 500 * 4


def test_a_module_called_twice_is_no_region() -> None:
    block = nn.Sequential(nn.Linear(8, 8))

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([block, nn.Sequential(nn.Linear(8, 8))])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[1](self.blocks[0](self.blocks[0](x)))

    found = profile(Workload(module=Twice(), batch=(torch.randn(4, 8),)), CPU)
    assert [(unit.path, unit.can_be_region) for unit in found.units[:3]] == [
        ("blocks.0", False),
        ("blocks.0", False),
        ("blocks.1", True),
    ]


def test_a_value_used_in_between_parts_the_chain() -> None:
    class Collecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            seen = []
            for block in self.blocks:
                x = block(x)
                seen.append(x)
            return seen[1:]

    found = profile(Workload(module=Collecting(), batch=(torch.randn(4, 8),)), CPU)
    assert [unit.follows for unit in found.units[:3]] == [False, True, False]


def test_profiling_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), nn.Sequential(nn.Linear(8, 8)))
    before = torch.get_rng_state()
    workload = Workload(module=model, batch=(torch.randn(4, 8),))
    profile(workload, CPU)
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.randn(4, 8)
    model(*workload.batch)
    assert torch.equal(torch.get_rng_state(), after)  # one forward's worth of random numbers
