"""Whether training stays the same: a step under a placement against the plain step, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rematbench.records.measurement import Equality, Same, Verdict
from rematbench.workload.devices import RandomState, random_state
from rematbench.workload.step import Workload, batch_tensors

TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1.3e-6, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float16: (1e-3, 1e-5),
    torch.complex128: (1e-7, 1e-7),
    torch.complex64: (1.3e-6, 1e-5),
}
"""Relative and absolute tolerance of `close` by dtype, the defaults of `torch.testing.assert_close`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one step leaves behind, copied to host memory so that it is not part of anything measured.

    Attributes:
        gradients: by parameter name, and by `batch[0]`… for batch tensors that require one; None where none came.
        random: state of the generators after the step.
    """

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    buffers: dict[str, torch.Tensor]
    random: RandomState


def outcome_of(workload: Workload, loss: torch.Tensor, device: torch.device) -> Outcome:
    """Copy what the step just run has left behind."""
    wanted: dict[str, torch.Tensor] = dict(workload.module.named_parameters())
    wanted |= {name: tensor for name, tensor in batch_tensors(workload.batch).items() if tensor.requires_grad}
    return Outcome(
        loss=_copy(loss),
        gradients={name: None if tensor.grad is None else _copy(tensor.grad) for name, tensor in wanted.items()},
        buffers={name: _copy(buffer) for name, buffer in workload.module.named_buffers()},
        random=random_state(device),
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def compare(plain: Outcome, again: Outcome, other: Outcome) -> Equality:
    """Judge a step against the plain step.

    Args:
        plain: the plain step.
        again: a second plain step from the same state; how far it is from the first is the noise of the model.
        other: the step under a placement.
    """
    differences = _differences(plain, other)
    worst = max(differences, key=lambda name: differences[name], default="")
    greatest = differences.get(worst, 0.0)
    buffer = next((name for name in plain.buffers if not _identical(plain.buffers[name], other.buffers.get(name))), "")
    return Equality(
        gradients=_verdict(plain, again, other),
        gradients_max_abs_diff=greatest,
        gradients_worst=worst if greatest else "",
        loss=_same(_identical(plain.loss, other.loss)),
        buffers=_same(not buffer),
        buffer=buffer,
        rng_state=_same(all(_identical(state, other.random.get(name)) for name, state in plain.random.items())),
    )


def _same(equal: bool) -> Same:
    return "equal" if equal else "different"


def _verdict(plain: Outcome, again: Outcome, other: Outcome) -> Verdict:
    pairs = [(gradient, other.gradients.get(name)) for name, gradient in plain.gradients.items()]
    if all(_identical(left, right) for left, right in pairs):
        return "bitwise"
    differences, noise = _differences(plain, other), _differences(plain, again)
    if all(difference <= noise[name] for name, difference in differences.items()):
        return "noise"
    return "close" if all(_close(left, right) for left, right in pairs) else "different"


def _differences(left: Outcome, right: Outcome) -> dict[str, float]:
    """Return the greatest absolute difference of each gradient; one that is missing differs by all of the other."""
    return {name: _difference(gradient, right.gradients.get(name)) for name, gradient in left.gradients.items()}


def _difference(left: torch.Tensor | None, right: torch.Tensor | None) -> float:
    if left is None or right is None:
        alone = right if left is None else left
        return 0.0 if alone is None else float(alone.abs().max())
    if _identical(left, right) or not left.numel():
        return 0.0
    if left.shape != right.shape:
        return torch.inf
    exact = torch.complex128 if left.is_complex() or right.is_complex() else torch.float64
    difference = (left.to(exact) - right.to(exact)).abs()
    return float(difference.nan_to_num(nan=torch.inf).max())


def _identical(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Compare bit for bit, so that a NaN equals the same NaN and 0.0 is not -0.0."""
    if left is None or right is None:
        return left is right
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(_bits(left), _bits(right))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _close(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.dtype == torch.complex32:  # which torch hardly computes with
        left, right = left.to(torch.complex64), right.to(torch.complex64)
    relative, absolute = TOLERANCES.get(left.dtype, TOLERANCES[torch.float32])
    return torch.allclose(left, right, rtol=relative, atol=absolute)
