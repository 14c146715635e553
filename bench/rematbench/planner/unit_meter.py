"""Measures one unit's call again and again on its own inputs: memory, what it saves and changes, FLOPs, seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
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
from rematbench.planner.signature import Recorder
from rematbench.planner.unit_call import UnitCall, as_saved, as_unit_error, end_of, needs_gradient
from rematbench.torch_internals import StorageReference, outside_autocast, storage_key
from rematbench.traces.replay import Reading
from rematbench.workload.devices import clock_for, is_accelerator, keeps_casts
from rematbench.workload.step import Phases, unmarked

_ROUNDS = 3
"""How often seconds are taken; the median counts."""


@dataclass(frozen=True, kw_only=True)
class SavedTensors:
    """What autograd saves of one call.

    Attributes:
        inputs, outputs: positions of the saved ones among the leaves of its inputs and of its outputs.
        made: positions of all outputs that are tensors.
        needing: positions of the outputs that require a gradient; `gradient_bytes` are of these gradients.
        new_bytes: of the storages that the call returns and made itself; `new_saved_bytes` of those that are saved.
        count: how many tensors are saved, one as often as it is.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    made: tuple[int, ...]
    needing: tuple[int, ...]
    gradient_bytes: int
    new_bytes: int
    new_saved_bytes: int
    count: int


class _AllSaved(BaseException):
    """Ends a forward at the last tensor that it saves; no `except Exception` of the unit's own stops it."""


@dataclass(frozen=True, kw_only=True)
class UnitTrace:
    """What one step of a unit under a dispatch mode tells, all but the bytes it allocates.

    Attributes:
        digest: of all that it did; None where that was not asked for, or cannot be told.
        saved: under a checkpoint only what is saved outside of it.
        forward_flops, step_flops: counted in its forward, and in all of it.
        writes_inputs: whether it changes what it is given in place.
        keeps_outputs: whether all storages that it returns and made itself are there after forward, for its backward.
        outcome: what it leaves behind, the gradients of its inputs and parameters and its buffers.
    """

    digest: str | None
    saved: SavedTensors
    forward_flops: int
    step_flops: int
    writes_inputs: bool
    keeps_outputs: bool
    outcome: Outcome


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
        return keeps_casts(self._device)

    def read(self, call: UnitCall, checkpointed: Checkpointer | None = None, *, casts: bool = False) -> Reading:
        """Return what a step allocates; `casts` as in `UnitCall.step`."""
        with self.undisturbed(call):
            return self._meter.read(lambda phases: call.step(phases, checkpointed, casts=casts))

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
                call.run(call.fresh_leaves())

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

    def traced(self, call: UnitCall, checkpointed: Checkpointer | None = None, *, signed: bool = False) -> UnitTrace:
        """Run one step under a dispatch mode; `signed` makes a digest of it, which takes longer.

        The gradients of the outcome are those of the step, uncopied: they are let go with it.

        Raises:
            UnitError: the unit, or torch, raised; torch may refuse a dispatch mode here.
        """
        recorder = Recorder() if signed else None
        storages: set[int] = set()
        saves = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saves
            saves += 1
            storages.add(storage_key(tensor))
            if recorder:
                recorder.note("saved", tensor)
            # Packing a unit's output as itself would tie a knot: the tensor holds its graph, and that the tensor.
            return tensor.detach()

        hooks = nullcontext() if checkpointed else saved_tensors_hooks(pack, as_saved)
        gradients: dict[str, torch.Tensor | None] = {}
        with self.undisturbed(call), recorder or FlopMeter() as meter, hooks:
            try:
                if recorder:
                    recorder.note("inputs", call.leaves)
                leaves = call.fresh_leaves()
                before = versions(leaves)
                for at in call.needing:
                    leaves[at].register_hook(lambda gradient, at=at: gradients.update({f"input {at}": gradient}))
                outputs = call.run(leaves, checkpointed)
                if recorder:
                    recorder.note("outputs", outputs)
                with as_unit_error():
                    end = end_of(outputs, uneven=True)
                    saved, made = _saved_of(call, leaves, outputs, storages, saves)
                writes_inputs = written_since(before) is not None
                forward_flops = meter.read().flops
                del leaves, before, outputs
                torch.clear_autocast_cache()
                keeps_outputs = all(storage.is_alive for storage in made)
                if recorder:
                    recorder.note("backward")
                if end.requires_grad:
                    with outside_autocast(self._device), as_unit_error():
                        end.backward()
                outcome = _left_behind(call, gradients)
            finally:
                for parameter in call.parameters:
                    parameter.grad = None
        return UnitTrace(
            digest=recorder.digest() if recorder else None,
            saved=saved,
            forward_flops=forward_flops,
            step_flops=meter.read().flops,
            writes_inputs=writes_inputs,
            keeps_outputs=keeps_outputs,
            outcome=outcome,
        )

    def warm_up(self, call: UnitCall) -> None:
        """Run a step that nobody looks at: the first one of a kernel allocates what none after it does."""
        with self.undisturbed(call):
            call.step(unmarked)

    def seconds(self, call: UnitCall) -> tuple[float, float]:
        """Return the seconds of a forward, the median over rounds, and of its part up to the last saved tensor."""
        last = 0.0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal last
            last = self._clock()
            return tensor.detach()

        with self.undisturbed(call), saved_tensors_hooks(pack, as_saved):
            leaves = call.fresh_leaves()
            start = self._clock()
            outputs = call.run(leaves)
            stop = self._clock()
        del leaves, outputs
        early_share = min(1.0, max(0.0, last - start) / max(stop - start, 1e-12))
        forward_s = median(self._forward_s(call) for _ in range(_ROUNDS))
        return forward_s, forward_s * early_share

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


def _saved_of(
    call: UnitCall, leaves: Sequence[Any], outputs: Sequence[Any], storages: set[int], count: int
) -> tuple[SavedTensors, list[StorageReference]]:
    """Return what is saved among inputs and outputs by the storages that are, and those that the call made itself."""
    before = {storage_key(leaf) for leaf in (*leaves, *call.parameters) if isinstance(leaf, torch.Tensor)}
    new = {
        storage_key(leaf): leaf
        for leaf in outputs
        if isinstance(leaf, torch.Tensor) and storage_key(leaf) not in before
    }
    sizes = {storage: leaf.untyped_storage().nbytes() for storage, leaf in new.items()}
    saved = SavedTensors(
        inputs=tuple(at for at, leaf in enumerate(leaves) if _is_in(leaf, storages)),
        outputs=tuple(at for at, leaf in enumerate(outputs) if _is_in(leaf, storages)),
        made=tuple(at for at, leaf in enumerate(outputs) if isinstance(leaf, torch.Tensor)),
        needing=tuple(at for at, leaf in enumerate(outputs) if needs_gradient(leaf)),
        gradient_bytes=sum(leaf.nbytes for leaf in outputs if needs_gradient(leaf)),
        new_bytes=sum(sizes.values()),
        new_saved_bytes=sum(size for storage, size in sizes.items() if storage in storages),
        count=count,
    )
    return saved, [StorageReference(leaf) for leaf in new.values()]


def _left_behind(call: UnitCall, of_inputs: dict[str, torch.Tensor | None]) -> Outcome:
    named = {name: own for member in call.members for name, own in member.named_parameters()}
    buffers = {name: own for member in call.members for name, own in member.named_buffers()}
    gradients = of_inputs | {name: own.grad for name, own in named.items()}
    return Outcome(
        loss=torch.zeros(()),
        gradients={name: _dense(gradient) for name, gradient in gradients.items()},
        buffers={name: buffer.detach().clone() for name, buffer in buffers.items()},
        random={},
    )


def _dense(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """Return a gradient to compare; None stands for that of an input which nothing comes back to."""
    if gradient is None:
        return None
    return gradient.detach() if gradient.layout == torch.strided else gradient.to_dense()


def _is_in(leaf: Any, storages: set[int]) -> bool:
    return isinstance(leaf, torch.Tensor) and storage_key(leaf) in storages
