"""Buffers during a recomputation, which writes them a second time: running statistics (pytorch#96136), counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from rematbench.torch_internals import BatchNorm, buffers_of, write_count

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


class Place(NamedTuple):
    """Where a buffer stands: in a module's buffers, under its name."""

    home: dict[str, Any]
    name: str

    @property
    def tensor(self) -> torch.Tensor | None:
        """The buffer that stands there now."""
        return self.home.get(self.name)


class BuffersOnce:
    """Lets what a region's forward writes to buffers count once: a recomputation finds and leaves them as they are.

    Those of batch norms are not touched at all; of others, what the forward was seen to write is put back.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        modules = [module for member in members for module in member.modules()]
        self._norms = batch_norms(modules)
        others = [module for module in modules if not isinstance(module, BatchNorm | torch.jit.ScriptModule)]
        self._places = [Place(buffers_of(module), name) for module in others for name in buffers_of(module)]

    @contextmanager
    def noting(self, written: list[Place]) -> Iterator[None]:
        """Run the forward; `written` becomes where it writes, or puts another tensor."""
        before = [
            (place, tensor, write_count(tensor)) for place in self._places if (tensor := place.tensor) is not None
        ]
        yield
        written[:] = [
            place for place, tensor, count in before if place.tensor is not tensor or write_count(tensor) != count
        ]

    @contextmanager
    def unwritten(self, written: Iterable[Place]) -> Iterator[None]:
        """Run the recomputation, and put back what it writes."""
        kept = [(place, tensor, tensor.detach().clone()) for place in written if (tensor := place.tensor) is not None]
        try:
            with frozen_statistics(self._norms):
                yield
        finally:
            for place, tensor, value in kept:
                place.home[place.name] = tensor
                if not torch.equal(tensor, value):
                    with torch.no_grad():
                        tensor.copy_(value)
