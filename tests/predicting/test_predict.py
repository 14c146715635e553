"""Predicted steps against the same steps, run."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from rematbench import fit, plan, predict
from rematbench.errors import RematbenchError
from rematbench.measuring.session import Session
from rematbench.placement.goal import Goal
from rematbench.placement.placement import Placement
from rematbench.placement.registry import parse_strategy
from rematbench.predicting.planning import PredictedPlanner
from rematbench.predicting.prediction import Predictor
from rematbench.predicting.search import PredictionError
from rematbench.workload.step import Workload

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(torch.nn.functional.gelu(self.up(self.after(x))))


class Decoder(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.head = nn.Linear(width, words)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def decoder(batch: int = 2, length: int = 16, width: int = 24, depth: int = 3, heads: int = 3) -> tuple[Any, ...]:
    if width % heads:
        raise ValueError(f"a width of {width} is not divided by {heads} heads")
    return Decoder(width, depth, heads, words=50), (torch.randint(0, 50, (batch, length)),)


def measured(sizes: Mapping[str, int], placement: str | Placement) -> tuple[int, int]:
    """Return the peak and the static bytes of the step itself."""
    module, batch = decoder(**sizes)
    session = Session(Workload(module=module, batch=batch), CPU)
    if isinstance(placement, str):
        placement = parse_strategy(placement).resolve(session.outline)
    return session.peak_bytes(placement), session.static_bytes


AT = {"batch": 12, "length": 48, "width": 48, "depth": 7}


@pytest.mark.parametrize("placement", ["none", "each"])
def test_four_sizes_at_once_come_out_to_the_byte(placement: str) -> None:
    told = predict(decoder, at=AT, placement=placement)
    assert told.is_exact
    assert (told.peak_bytes, told.memory.static_bytes) == measured(AT, placement)
    assert all(told.facts.largest[name] <= AT[name] for name in AT)


def test_regions_in_regions_and_what_policies_keep_come_out_to_the_byte() -> None:
    for placement, at in (
        ("nested:2", {"batch": 40}),
        ("each+save=matmuls", {"batch": 40}),
        ("sqrt", {"batch": 40, "depth": 5}),
    ):
        told = predict(decoder, at=at, placement=placement)
        assert told.is_exact
        assert (told.peak_bytes, told.memory.static_bytes) == measured(at, placement)


def test_flops_are_those_of_the_step() -> None:
    at = {"batch": 40, "depth": 6}
    told = predict(decoder, at=at, placement="each")
    module, batch = decoder(**at)
    session = Session(Workload(module=module, batch=batch), CPU)
    session.keep_plain()
    flops = session.measure(parse_strategy("each").resolve(session.outline)).flops
    assert (told.flops, flops) == (flops, told.flops)


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    memory = 3_000_000
    found = fit(decoder, vary="batch", memory=memory, placement="each")
    assert found.value
    assert found.bytes
    assert found.next_bytes
    here, beyond = ({"batch": found.value + more} for more in (0, 1))
    assert (found.bytes, found.next_bytes) == (sum(measured(here, "each")), sum(measured(beyond, "each")))
    assert found.bytes <= memory < found.next_bytes
    assert (found.measured_bytes, found.next_measured_bytes) == (found.bytes, found.next_bytes)
    assert found.runs <= 8


def test_where_not_even_the_smallest_fits_there_is_no_value() -> None:
    found = fit(decoder, vary="batch", memory=1000)
    assert (found.value, found.next_value) == (None, 1)


def test_a_plan_for_a_size_that_is_not_run_is_accepted_on_the_step_it_has_there() -> None:
    def built(sizes: Mapping[str, int]) -> Workload:
        module, batch = decoder(**sizes)
        return Workload(module=module, batch=batch)

    at = {"batch": 40, "depth": 4}
    planned = PredictedPlanner(Predictor(built, CPU), at, CPU).plan(
        Goal(name="p", minimise="flops", budget_share=0.5, of_step=True)
    )
    peak, _ = measured(at, planned.placement)
    assert planned.facts.measured_peak_bytes == peak <= planned.facts.budget_bytes
    module, batch = decoder(**at)
    here = plan(module, batch, budget_bytes=planned.facts.budget_bytes, of_step=True, minimise="flops")
    assert planned.facts.predicted_cost is not None
    assert here.cost is not None
    assert planned.facts.predicted_cost <= here.cost * 1.05


def routed(batch: int = 4, width: int = 8) -> tuple[Any, ...]:
    """A network whose step depends on its data: each row goes to one of two experts."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x[:, 0] > 0
            return torch.cat([self.experts[0](x[first]), self.experts[1](x[~first])])

    return Routed(), (torch.randn(batch, width),)


def test_a_step_that_depends_on_its_data_is_never_told_to_be_sure_and_wrong() -> None:
    at = {"batch": 300}
    told = predict(routed, at=at)
    torch.manual_seed(0)
    module, batch = routed(**at)
    really = Session(Workload(module=module, batch=batch), CPU).peak_bytes(Placement(name="none"))
    assert told.facts.low_bytes <= really <= told.facts.high_bytes


def test_what_the_model_says_of_every_size_is_what_is_said() -> None:
    with pytest.raises(PredictionError, match="not divided by 3 heads"):
        predict(decoder, at={"width": 80})


def test_a_size_that_both_varies_and_is_held_is_refused() -> None:
    with pytest.raises(RematbenchError, match="both vary"):
        fit(decoder, vary="batch", memory="1GiB", at={"batch": 3})
