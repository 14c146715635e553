"""What placements hold, to the byte: a region inside a region keeps nothing until its turn, whatever the state is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.placement.registry import parse_strategy
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline
from rematbench.traces.replay import Reading
from rematbench.workload.step import Workload, training_step

BATCH, WIDTH, DEPTH = 512, 16, 16
UNIT = BATCH * WIDTH * 4
LOSS = 4


class Block(nn.Module):
    """x -> tanh(Linear(x)), and where there is a kept tensor it is added and x kept in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, state: Any) -> Any:
        match state:
            case Tensor() as x:
                return self.linear(x).tanh()
            case (x, kept):
                return (self.linear(x) + kept).tanh(), x
            case {"x": x, "skips": [kept]}:
                return {"x": (self.linear(x) + kept).tanh(), "skips": [x]}


def states() -> dict[str, Any]:
    x = torch.randn(BATCH, WIDTH)
    return {"tensor": x, "tuple": (x, x), "dictionary": {"x": x, "skips": [x]}}


def total(state: Any) -> Tensor:
    match state:
        case {"x": x} | (x, _) | x:
            return x.sum()


def reading(kind: str, text: str) -> Reading:
    """Read the second step, without the random state that a region stashes."""
    model = nn.Sequential(*(Block() for _ in range(DEPTH)))
    workload = Workload(module=model, batch=(states()[kind],), loss_fn=total)
    options = "" if text == "none" else "+preserve_rng=false"
    with applied(model, parse_strategy(text + options).resolve(outline(model))):
        training_step(workload)
        model.zero_grad()
        return CpuMeter().read(lambda phases: training_step(workload, phases))


ENDS = {
    "all": [16],
    "segments:4": [4, 8, 12, 16],
    "each": [*range(1, 17)],
    "nested:4": [4, 8, 12, 16],
    "nested:2": [8, 16],
}


@pytest.mark.parametrize("text", ENDS)
@pytest.mark.parametrize("kind", states())
def test_held_is_what_crosses_the_outermost_boundaries(kind: str, text: str) -> None:
    """The state behind block n is its output and, where one is kept, the output of the block before."""
    reach = 1 if kind == "tensor" else 2
    crossing = {block for end in ENDS[text] for block in range(end, end - reach, -1)} - {0}  # the batch was there
    assert reading(kind, text).held_bytes == len(crossing) * UNIT + LOSS


@pytest.mark.parametrize("kind", states())
def test_nested_regions_peak_lower_than_flat_ones(kind: str) -> None:
    peaks = [reading(kind, text).peak_bytes for text in ("none", "segments:4", "nested:2")]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[2] + UNIT <= peaks[1] <= peaks[0] - 5 * UNIT
