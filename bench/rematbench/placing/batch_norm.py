"""Batch norm's running statistics during a recomputation (pytorch#96136: torch updates them a second time)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rematbench.torch_internals import BatchNorm

_UNCOUNTED = torch.empty((), dtype=torch.long, device="meta")


def batch_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return every batch norm in these modules."""
    return [norm for module in modules for norm in module.modules() if isinstance(norm, BatchNorm)]


@contextmanager
def frozen_statistics(norms: Iterable[Any]) -> Iterator[None]:
    """Run batch norms in training mode without touching their running statistics.

    A momentum of zero keeps mean and variance bit for bit while the kernel saves the same tensors as in the forward,
    which torch's checkpoint insists on. A counter without memory counts in place of the real one: `SyncBatchNorm` will
    not run without any.
    """
    # `eval()` would normalise by other numbers; `track_running_stats = False` hands the kernel no running statistics,
    # and what it is handed is among what it saves.
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm, _, counter in before:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counter is None else _UNCOUNTED
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter
