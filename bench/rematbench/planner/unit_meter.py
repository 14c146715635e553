"""Measures one unit's call again and again on its own inputs: memory, what it saves and changes, FLOPs, seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from rematbench.measuring.equality import Outcome
from rematbench.measuring.flops import FlopMeter
from rematbench.measuring.meter import Meter, grain_bytes, meter_for
from rematbench.placing.calls import versions, written_since
from rematbench.placing.checkpointing import Checkpointer
from rematbench.planner.unit_call import UnitCall, as_saved, as_unit_error, needs_gradient
from rematbench.torch_internals import outside_autocast, storage_key
from rematbench.traces.replay import Reading
from rematbench.workload.devices import clock_for, is_accelerator
from rematbench.workload.step import Phases, unmarked

_ROUNDS = 5
"""How often seconds are taken; the median counts."""


@dataclass(frozen=True, kw_only=True)
class SavedTensors:
    """What autograd saves of one call.

    Attributes:
        inputs, outputs: positions of the saved ones among the leaves of its inputs and of its outputs.
        made: positions of all outputs that are tensors.
        needing: positions of the outputs that require a gradient; `gradient_bytes` are of these gradients.
        new_bytes: of the storages that the call returns and made itself; `new_saved_bytes` of those that are saved.
        early_share: how much of the call is over when the last tensor is saved.
        count: how many tensors are saved, one as often as it is.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    made: tuple[int, ...]
    needing: tuple[int, ...]
    gradient_bytes: int
    new_bytes: int
    new_saved_bytes: int
    early_share: float
    count: int


class _AllSaved(Exception):
    """Ends a forward at the last tensor that it saves."""


class UnitMeter:
    """Measures single units: with a memory meter, a clock and a FLOP counter, each time from the same state.

    Attributes:
        end_bytes: what the end of a unit takes in its forward, which is nothing of the unit's own.
        region_bytes: what a region keeps besides its input: the generator's state, where that lies in measured memory.
        can_offload: whether there is another memory to offload to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meter: Meter = meter_for(device)
        self._clock = clock_for(device)
        self.can_offload = is_accelerator(device)
        self.end_bytes = max(4, grain_bytes(self._meter))  # one float
        self.region_bytes = 0 if self.can_offload else torch.get_rng_state().nbytes

    @contextmanager
    def undisturbed(self, call: UnitCall) -> Iterator[None]:
        """Put back what a run of the unit changes, on leaving; nothing is cast yet by autocast, and nothing after."""
        start = call.start_on(self._device)
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            torch.clear_autocast_cache()
            start.restore()

    @property
    def in_autocast(self) -> bool:
        """Whether autocast is in force, which keeps what it has cast until it ends."""
        kinds = {"cpu", self._device.type}
        return torch.is_autocast_cache_enabled() and any(map(torch.is_autocast_enabled, kinds))

    def read(
        self,
        call: UnitCall,
        checkpointed: Checkpointer | None = None,
        *,
        holding: bool = False,
        casts: bool = False,
    ) -> Reading:
        """Return what a step allocates; `holding` and `casts` as in `UnitCall.step`."""
        with self.undisturbed(call):
            return self._meter.read(lambda phases: call.step(phases, checkpointed, holding=holding, casts=casts))

    def read_unsaved(self, call: UnitCall) -> Reading:
        """Return what a forward allocates that saves nothing, as inside a region; held is what autocast keeps.

        Under `no_grad` a unit might go another way; with hooks that let go of what they are given it goes its own.
        """

        def step(phases: Phases) -> None:
            with phases("forward"), saved_tensors_hooks(lambda _tensor: None, as_saved):
                call.run(call.fresh_leaves())

        with self.undisturbed(call):
            return self._meter.read(step)

    def read_rerun(self, call: UnitCall, saved: SavedTensors) -> int:
        """Return the peak of a forward up to the last tensor it saves, where torch ends a recomputation.

        What comes after that, as the last product of a block and its sum with the skip, may be the peak of a forward.
        """
        left = saved.count

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal left
            left -= 1
            if left == 0:
                raise _AllSaved
            return tensor.detach()

        def step(phases: Phases) -> None:
            with phases("forward"), suppress(_AllSaved), saved_tensors_hooks(pack, as_saved):
                call.forward(*call.fresh_leaves())

        with self.undisturbed(call):
            return self._meter.read(step).peak_bytes

    def read_backward(self, loss: torch.Tensor) -> int:
        """Return the peak of a backward from a loss to where its graph ends; 0 where there is none."""

        def step(phases: Phases) -> None:
            with phases("forward"):
                pass
            with phases("backward"):
                if loss.requires_grad:
                    with as_unit_error():
                        loss.backward()

        return self._meter.read(step).peak_bytes

    def saved(self, call: UnitCall) -> SavedTensors:
        """Return what autograd saves, as it hands it to the hooks for saved tensors."""
        storages: set[int] = set()
        last, saves = 0.0, 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal last, saves
            saves += 1
            storages.add(storage_key(tensor))
            last = self._clock()
            # Packing a unit's output as itself would tie a knot: the tensor holds its graph, and that the tensor.
            return tensor.detach()

        with self.undisturbed(call), saved_tensors_hooks(pack, as_saved):
            start = self._clock()
            leaves = call.fresh_leaves()
            outputs = call.run(leaves)
            stop = self._clock()
        before = {storage_key(leaf) for leaf in (*leaves, *call.parameters) if isinstance(leaf, torch.Tensor)}
        new = {
            storage_key(leaf): leaf.untyped_storage().nbytes()
            for leaf in outputs
            if isinstance(leaf, torch.Tensor) and storage_key(leaf) not in before
        }
        return SavedTensors(
            inputs=tuple(at for at, leaf in enumerate(leaves) if _is_in(leaf, storages)),
            outputs=tuple(at for at, leaf in enumerate(outputs) if _is_in(leaf, storages)),
            made=tuple(at for at, leaf in enumerate(outputs) if isinstance(leaf, torch.Tensor)),
            needing=tuple(at for at, leaf in enumerate(outputs) if needs_gradient(leaf)),
            gradient_bytes=sum(leaf.nbytes for leaf in outputs if needs_gradient(leaf)),
            new_bytes=sum(new.values()),
            new_saved_bytes=sum(size for storage, size in new.items() if storage in storages),
            early_share=min(1.0, max(0.0, last - start) / max(stop - start, 1e-12)),
            count=saves,
        )

    def forward_s(self, call: UnitCall) -> float:
        """Return the seconds of a forward, the median over rounds."""
        return median(self._forward_s(call) for _ in range(_ROUNDS))

    def _forward_s(self, call: UnitCall) -> float:
        with self.undisturbed(call):
            leaves = call.fresh_leaves()
            start = self._clock()
            call.run(leaves)
            return self._clock() - start

    def extra_s(self, call: UnitCall, checkpointed: Checkpointer) -> float:
        """Return by how many seconds a step under a checkpoint is longer, the median over pairs."""
        return max(0.0, median(self._step_s(call, checkpointed) - self._step_s(call) for _ in range(_ROUNDS)))

    def _step_s(self, call: UnitCall, checkpointed: Checkpointer | None = None) -> float:
        with self.undisturbed(call):
            start = self._clock()
            call.step(unmarked, checkpointed)
            return self._clock() - start

    def writes_inputs(self, call: UnitCall) -> bool:
        """Tell whether the unit changes what it is given in place."""
        with self.undisturbed(call):
            leaves = call.fresh_leaves()
            before = versions(leaves)
            call.run(leaves)
            return written_since(before) is not None

    def outcome(self, call: UnitCall, checkpointed: Checkpointer | None = None) -> Outcome:
        """Return what a step leaves behind: the gradients of its inputs and parameters, and its buffers."""
        found: dict[str, torch.Tensor | None] = {}
        with self.undisturbed(call):
            try:
                leaves = call.fresh_leaves()
                for at in call.needing:
                    leaves[at].register_hook(lambda gradient, at=at: found.update({f"input {at}": _copy(gradient)}))
                outputs = call.run(leaves, checkpointed)
                ends = [output for output in outputs if needs_gradient(output)]
                with outside_autocast(self._device), as_unit_error():
                    torch.autograd.backward(ends, [_uneven(output) for output in ends])
                named = {name: own for member in call.members for name, own in member.named_parameters()}
                buffers = {name: own for member in call.members for name, own in member.named_buffers()}
                return Outcome(
                    loss=torch.zeros(()),
                    gradients=found | {name: _copy(own.grad) for name, own in named.items()},
                    buffers={name: buffer.detach().clone() for name, buffer in buffers.items()},
                    random={},
                )
            finally:
                for parameter in call.parameters:
                    parameter.grad = None

    def flops(self, call: UnitCall, checkpointed: Checkpointer | None = None) -> tuple[int, int]:
        """Return what a forward counts, and what a whole step does."""
        counted: list[int] = []
        with self.undisturbed(call), FlopMeter() as meter:

            @contextmanager
            def phases(_phase: str) -> Iterator[None]:
                yield
                counted.append(meter.read().flops)

            call.step(phases, checkpointed)
        return counted[0], counted[-1]


def _uneven(output: torch.Tensor) -> torch.Tensor:
    """Return a gradient for an output; one that is the same everywhere vanishes in a normalisation's backward."""
    whole = torch.linspace(-1, 1, output.numel(), device=output.device)
    return whole.reshape(output.shape).to(output.dtype)


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    if tensor is None:  # the gradient of an input that nothing comes back to
        return None
    kept = tensor.detach().to("cpu", copy=True)
    return kept if kept.layout == torch.strided else kept.to_dense()


def _is_in(leaf: Any, storages: set[int]) -> bool:
    return isinstance(leaf, torch.Tensor) and storage_key(leaf) in storages
