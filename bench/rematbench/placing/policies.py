"""Save policies, named by what they keep: functions for torch's `create_selective_checkpoint_contexts`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext

from rematbench.errors import PlacementError
from rematbench.loading import load_attribute

Policy = Callable[..., CheckpointPolicy]

_CONTRACTIONS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "convolution",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
"""Operators of `torch.ops.aten` whose cost grows faster than their elements; a torch without one never runs it."""


def matmuls(_context: SelectiveCheckpointContext, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    """Keep the outputs of matrix products, convolutions and attention kernels; recompute what is cheap."""
    kept = getattr(operator, "overloadpacket", None) in _packets()
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def load_policy(name: str) -> Policy:
    """Return `matmuls`, or the user's own policy function named as `module:attribute` or `file.py:attribute`.

    Raises:
        PlacementError: there is no such function.
    """
    if name == "matmuls":
        return matmuls
    policy = load_attribute(name, Path.cwd(), PlacementError)
    if not callable(policy):
        raise PlacementError(f"save policy {name} is a {type(policy).__name__}: expected a policy function")
    return policy


@cache
def _packets() -> frozenset[Any]:
    return frozenset(getattr(torch.ops.aten, name) for name in _CONTRACTIONS if hasattr(torch.ops.aten, name))
