"""Running statistics: batch norms run as ever while frozen, and nothing is left behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench.placing.batch_norm import batch_norms, frozen_statistics

INPUTS = {
    nn.BatchNorm1d: torch.randn(4, 3),
    nn.BatchNorm2d: torch.randn(4, 3, 2, 2),
    nn.BatchNorm3d: torch.randn(4, 3, 2, 2, 2),
    nn.SyncBatchNorm: torch.randn(4, 3),
}
every_kind = pytest.mark.parametrize("kind", INPUTS)


def run(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and the gradients of input and weights."""
    x = x.clone().requires_grad_()
    norm.zero_grad()
    output = norm(x)
    output.square().sum().backward()
    return [output, x.grad, *(weight.grad for weight in norm.parameters())]


def buffers(norm: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in norm.named_buffers()}


@every_kind
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_a_frozen_norm_computes_the_same_and_counts_nothing(kind: Any, momentum: float | None) -> None:
    norm = kind(3, momentum=momentum)
    plain = run(norm, INPUTS[kind])
    before, attributes = buffers(norm), list(vars(norm).items())
    with frozen_statistics([norm]):
        again = run(norm, INPUTS[kind])
    assert all(map(torch.equal, plain, again))
    assert list(before) == list(buffers(norm))
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    assert list(vars(norm).items()) == attributes
    run(norm, INPUTS[kind])
    assert norm.num_batches_tracked == before["num_batches_tracked"] + 1
    assert not torch.equal(norm.running_mean, before["running_mean"]) or momentum in (1.0, None)


@every_kind
def test_a_norm_in_eval_mode_still_uses_its_statistics(kind: Any) -> None:
    norm = kind(3).eval()
    norm.running_mean += 1
    plain = run(norm, INPUTS[kind])
    with frozen_statistics([norm]):
        assert all(map(torch.equal, plain, run(norm, INPUTS[kind])))


def test_a_norm_without_statistics_stays_without() -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    with frozen_statistics([norm]):
        run(norm, INPUTS[nn.BatchNorm1d])
        assert norm.num_batches_tracked is None
    assert (norm.num_batches_tracked, norm.momentum) == (None, 0.1)


def test_all_is_back_after_an_error_however_often_a_norm_is_named() -> None:
    norm = nn.BatchNorm1d(3, momentum=0.3)
    counter = norm.num_batches_tracked
    with pytest.raises(KeyError), frozen_statistics([norm, norm]), frozen_statistics([norm]):
        raise KeyError
    assert norm.momentum == 0.3
    assert norm.num_batches_tracked is counter


def test_batch_norms_are_found_at_any_depth() -> None:
    deep, top = nn.BatchNorm2d(1), nn.SyncBatchNorm(1)
    others = nn.LayerNorm(1), nn.GroupNorm(1, 1), nn.InstanceNorm1d(1)
    assert batch_norms([nn.Sequential(nn.Sequential(deep, *others)), nn.ReLU(), top]) == [deep, top]
