"""Save policies as functions for torch's `create_selective_checkpoint_contexts`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext

from rematbench.errors import PlacementError
from rematbench.loading import load_attribute
from rematbench.placement.policies import SAVE_POLICIES

Policy = Callable[..., CheckpointPolicy]


def load_policy(name: str) -> Policy:
    """Return the function of a declared policy, or the user's own, `module:attribute` or `file.py:attribute`.

    Raises:
        PlacementError: there is no such function.
    """
    if name in SAVE_POLICIES:
        return _keeping(SAVE_POLICIES[name].keeps)
    policy = load_attribute(name, Path.cwd(), PlacementError)
    if not callable(policy):
        raise PlacementError(f"save policy {name} is a {type(policy).__name__}: expected a policy function")
    return policy


@cache
def _keeping(names: tuple[str, ...]) -> Policy:
    operators = frozenset(getattr(torch.ops.aten, name) for name in names if hasattr(torch.ops.aten, name))

    def policy(_context: SelectiveCheckpointContext, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        # A higher-order operator has no overload packet: it is none of these.
        kept = getattr(operator, "overloadpacket", None) in operators
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return policy
