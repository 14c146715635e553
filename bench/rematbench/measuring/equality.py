"""Whether training stays the same: a step under a placement against the plain step, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

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


NOISE_BOUND = 0.1
"""Plain steps that differ by more of a parameter's greatest gradient than this do something else each time."""


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
        random=random_state(device, workload.module),
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor; a sparse gradient as the dense one that it stands for, summed up where it names a place twice."""
    kept = tensor.detach().to("cpu", copy=True)
    return kept if kept.layout == torch.strided else kept.to_dense()


def sharing(first: Outcome, other: Outcome) -> Outcome:
    """Return an outcome with the tensors of another where they are the same bits: several plain steps are kept."""

    def shared(own: dict[str, Any], same: Mapping[str, Any]) -> dict[str, Any]:
        return {name: same[name] if _identical(kept, same.get(name)) else kept for name, kept in own.items()}

    return replace(
        other, gradients=shared(other.gradients, first.gradients), buffers=shared(other.buffers, first.buffers)
    )


def unsteadiness(plain: Outcome, *again: Outcome) -> str:
    """Say in what two plain steps from the same state differ, and by how much; nothing where they do not.

    Of several, the first that differs from `plain` is told of, and all are gone by in what cannot be judged.
    """
    told = next((text for other in again if (text := _told(plain, other))), "")
    if not told:
        return ""
    unjudged = list(dict.fromkeys(name for other in again for name in _unjudged(plain, other)))
    beyond = f"; too far to judge {', '.join(unjudged)} by" if unjudged else ""
    return f"two plain steps from the same state differ in {told}{beyond}"


def _told(plain: Outcome, again: Outcome) -> str:
    differences = {name: value for name, value in _differences(plain, again).items() if value}
    found = []
    if differences:
        worst = max(differences, key=lambda name: differences[name])
        found.append(f"the gradient of {worst} by up to {differences[worst]:.3g}")
    if not _identical(plain.loss, again.loss):
        found.append(f"the loss by {_difference(plain.loss, again.loss):.3g}")
    found += [
        f"buffer {name} by up to {_difference(kept, again.buffers.get(name)):.3g}"
        for name, kept in plain.buffers.items()
        if not _identical(kept, again.buffers.get(name))
    ][:1]
    if _moved(plain, again):
        found.append("the random state")
    return ", ".join(found)


def _unjudged(plain: Outcome, again: Outcome) -> list[str]:
    """Return what two plain steps differ too far in to accuse a placement of it."""
    found = ["gradients"] if any(_is_beyond_noise(plain, again).values()) else []
    if not _identical(plain.loss, again.loss):
        found.append("the loss")
    if any(not _identical(kept, again.buffers.get(name)) for name, kept in plain.buffers.items()):
        found.append("buffers")
    if _moved(plain, again):
        found.append("the random state")
    return found


def _is_beyond_noise(plain: Outcome, again: Outcome) -> dict[str, bool]:
    """Tell of each gradient whether two plain steps are further apart in it than the noise of kernels could be."""
    return {
        name: value > NOISE_BOUND * _greatest(plain.gradients[name])
        for name, value in _differences(plain, again).items()
    }


def _greatest(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None or not gradient.numel() else float(gradient.abs().double().max().nan_to_num())


def _moved(left: Outcome, right: Outcome) -> bool:
    return not all(_identical(state, right.random.get(name)) for name, state in left.random.items())


def compare(plain: Outcome, again: Outcome, other: Outcome, *, further: Sequence[Outcome] = ()) -> Equality:
    """Judge a step against the plain step.

    Args:
        plain: the plain step.
        again: a second plain step from the same state, or what is `farthest` of several; how far it is from the first
            is the noise of the model.
        other: the step under a placement.
        further: more plain steps, where kernels are noisy; the noise then is twice the greatest distance of any two.

    What the two plain steps do not agree in themselves, a placement is not accused of: where it differs too, the
    answer is None. Gradients are judged by the noise as long as that is small beside them.
    """
    plains = (plain, again, *further)
    differences = _differences(plain, other)
    worst = max(differences, key=lambda name: differences[name], default="")
    greatest = differences.get(worst, 0.0)
    changed = [name for name, kept in plain.buffers.items() if not _identical(kept, other.buffers.get(name))]
    buffer = next(
        (name for name in changed if all(_identical(plain.buffers[name], each.buffers.get(name)) for each in plains)),
        "",
    )
    return Equality(
        gradients=_verdict(plains, other),
        gradients_max_abs_diff=greatest,
        gradients_worst=worst if greatest else "",
        loss=_same(_identical(plain.loss, other.loss), all(_identical(plain.loss, each.loss) for each in plains)),
        buffers=_same(not changed, bool(buffer)),
        buffer=buffer,
        rng_state=_same(not _moved(plain, other), not any(_moved(plain, each) for each in plains)),
    )


def _same(equal: bool, is_steady: bool) -> Same | None:
    return "equal" if equal else "different" if is_steady else None


def _verdict(plains: Sequence[Outcome], other: Outcome) -> Verdict | None:
    plain = plains[0]
    pairs = [(gradient, other.gradients.get(name)) for name, gradient in plain.gradients.items()]
    if all(_identical(left, right) for left, right in pairs):
        return "bitwise"
    differences, apart = _differences(plain, other), _furthest_apart(plains)
    # Two steps tell one distance, and nothing beyond it is known to be noise. Of five, the greatest distance seldom is
    # the greatest there could be: twice it took in every one of 200 simulated steps.
    noise = apart if len(plains) == 2 else {name: 2 * value for name, value in apart.items()}
    beyond = {name: value > NOISE_BOUND * _greatest(plain.gradients[name]) for name, value in apart.items()}
    accused = {name for name, difference in differences.items() if difference > noise[name] and not beyond[name]}
    if any(beyond.values()):
        # Such a model does something else each time, and that the plain steps are near to each other in some gradient
        # may be chance. Only what they agree in bit for bit is held against a placement.
        steady = [name for name in accused if not noise[name]]
        if any(not _close(plain.gradients[name], other.gradients.get(name)) for name in steady):
            return "different"
        return None
    if not accused:
        return "noise"
    return "close" if all(_close(left, right) for left, right in pairs) else "different"


def _furthest_apart(plains: Sequence[Outcome]) -> dict[str, float]:
    """Return of each gradient how far any two plain steps are apart."""
    found = dict.fromkeys(plains[0].gradients, 0.0)
    for left, right in combinations(plains, 2):
        found = {name: max(found[name], value) for name, value in _differences(left, right).items()}
    return found


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
