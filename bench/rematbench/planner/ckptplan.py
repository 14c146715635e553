"""The package ckptplan (PyPI, a pre-release) as a peer: its planner on our measures, its answer as a placement.

Its own profiler refuses a processor. It chooses single blocks whose activations, added up, leave no more than a budget,
at the least time of full recomputation; boundaries, transients and the block at work are not in its model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from rematbench.errors import PlacementError
from rematbench.placement.goal import Goal
from rematbench.planner.profile import Profile, UnitProfile
from rematbench.solver.schedule import UnitRegion

_BUCKETS = 4096
"""How finely its dynamic program divides the budget; its default of 1 MiB is as large as a block of a small model."""


def regions_by_ckptplan(goal: Goal, profile: Profile) -> tuple[UnitRegion, ...]:
    """Return the regions it chooses, each a single unit.

    Raises:
        PlacementError: the package is not installed, or finds no choice within the budget.
    """
    try:
        import ckptplan
    except ImportError as error:
        raise PlacementError(f"{goal.name}: ckptplan is not installed: pip install 'rematbench[peers]'") from error
    blocks = [(at, unit) for at, unit in enumerate(profile.units) if unit.can_be_region]
    kept = [_kept_bytes(profile, unit) for _, unit in blocks]
    total = sum(kept)
    budget = goal.budget_bytes if goal.budget_bytes is not None else int((goal.budget_share or 0) * total)
    try:
        plan = ckptplan.plan_checkpoints(
            list(_profiles(blocks, kept, ckptplan)),
            # It only wants to know whether the modules are those of the profiles.
            [ckptplan.CheckpointableBlock(unit.path, order, nn.Identity()) for order, (_, unit) in enumerate(blocks)],
            target_kind="activation_budget_bytes",
            target_value=float(budget),
            activation_bucket_bytes=max(1, total // _BUCKETS),
        )
    except (ckptplan.InfeasibleTargetError, ValueError) as error:
        raise PlacementError(f"{goal.name}: ckptplan says: {error}") from error
    chosen = [decision.checkpointed for decision in plan.decisions]
    return tuple(UnitRegion(start=at, stop=at + 1) for (at, _), taken in zip(blocks, chosen, strict=True) if taken)


def _kept_bytes(profile: Profile, unit: UnitProfile) -> int:
    """What its profiler would measure: the growth over one forward, of which a region would keep the input."""
    own = unit.saved - unit.inputs
    return unit.ways[0].saved_bytes + sum(profile.tensor_bytes[tensor] for tensor in own)


def _profiles(blocks: Sequence[tuple[int, UnitProfile]], kept: Sequence[int], ckptplan: Any) -> Iterator[Any]:
    for order, ((_, unit), size) in enumerate(zip(blocks, kept, strict=True)):
        yield ckptplan.BlockProfile(
            block_id=unit.path,
            order=order,
            device="cpu",
            dtype="",
            input_shape_signature="",
            output_shape_signature="",
            param_count=0,
            trainable_param_count=0,
            timing_only=False,
            activation_bytes_estimate=size,
            activation_bytes_method="isolated_forward_delta",
            forward_time_ms_mean=1e3 * unit.forward_s,
            forward_time_ms_std=0.0,
            recompute_time_upper_bound_ms_mean=1e3 * unit.forward_s,
            recompute_time_upper_bound_ms_std=0.0,
            recompute_time_source="measured_full_recompute_early_stop_disabled",
            num_warmup=0,
            num_trials=1,
            is_stochastic=False,
            is_stateful=False,
            stochastic_submodules=(),
            stateful_submodules=(),
            eligible_for_checkpoint=True,
            exclusion_reason=None,
            warnings=(),
            pytorch_version="",
            profiler_version="",
        )
