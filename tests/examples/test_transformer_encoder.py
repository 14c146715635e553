"""torch's own encoder: a `ModuleList` whose loop is torch's."""

import pytest
import torch
from tests.examples.training import assert_nothing_changes, equal, flops, peak_bytes, regions, seeded, step
from torch import nn

from rematbench import applied

BATCH = (torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0)),)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return seeded(lambda: nn.TransformerEncoder(layer, 4, enable_nested_tensor=False))


def blocks() -> list[nn.Module]:
    return list(encoder().layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", ["each", "segments:2", "nested:2", "all", "sqrt+save=matmuls"])
def test_training_is_the_same(placement: str) -> None:
    assert_nothing_changes(encoder(), BATCH, placement)


def test_a_region_of_two_costs_what_it_costs_in_a_sequential() -> None:
    """Known answer: the same layers in an `nn.Sequential`, cut by torch's own hand into a region."""
    model = encoder()
    first, *middle, last = blocks()
    chain, two = nn.Sequential(*blocks()), nn.Sequential(first, nn.Sequential(*middle), last)
    with applied(model, regions("layers[1:3]")), applied(chain, regions("[1:3]")), applied(two, regions("[1]")):
        steps = [list(step(net, BATCH).values()) for net in (model, chain, two)]
        assert all(map(torch.equal, steps[0], steps[1]))
        assert all(map(torch.equal, steps[0], steps[2]))
        assert len({peak_bytes(net, BATCH) for net in (model, chain, two)}) == 1
        assert len({flops(net, BATCH) for net in (model, chain, two)}) == 1
        assert flops(model, BATCH) > flops(encoder(), BATCH)


def test_evaluation_is_left_alone() -> None:
    model, plain = encoder().eval(), encoder().eval()
    with applied(model, "segments:2"), torch.no_grad():
        assert torch.equal(model(*BATCH), plain(*BATCH))
        assert equal(model.state_dict(), plain.state_dict())
