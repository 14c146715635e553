"""One unit measured by itself, again and again on what it was given: memory, what it keeps, FLOPs, seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from rematbench.measuring.flops import FlopMeter
from rematbench.measuring.meter import Meter, meter_for
from rematbench.placing.policies import load_policy
from rematbench.planner.profile import Way
from rematbench.solver.schedule import OFFLOAD
from rematbench.torch_internals import storage_key
from rematbench.traces.replay import Reading
from rematbench.workload.devices import clock_for, random_state, restore_random_state
from rematbench.workload.step import Phases, unmarked

_ROUNDS = 5

Around = Callable[..., Any]
"""Runs a forward on leaves in some other way, as a checkpoint does: `around(forward, *leaves)`."""


def unpacked(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class _Take(torch.autograd.Function):
    """Begins a unit: hands on its inputs as results of an operator, so that their gradients add up as in a real step.

    A leaf's gradient would be accumulated at once, one between operators waits in the engine's buffers. It is told how
    many bytes each gradient holds: one that is a view, as those of a concatenation are, holds more than its own.
    """

    @staticmethod
    def forward(ctx: Any, told: list[int], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.told = told
        return tuple(_alias(tensor) for tensor in inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        storages: set[int] = set()
        ctx.told[:] = [_held_bytes(gradient, storages) for gradient in gradients]
        return (None,) * (1 + len(gradients))


def _held_bytes(gradient: torch.Tensor | None, seen: set[int]) -> int:
    """Return the bytes of a gradient's storage, the first time that it is seen."""
    if gradient is None or storage_key(gradient) in seen:
        return 0
    seen.add(storage_key(gradient))
    return gradient.untyped_storage().nbytes()


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Return another tensor on the same storage that autograd does not take for a view."""
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    return tensor.new_empty(0).set_(storage, offset, tensor.shape, tensor.stride())


class _Emit(torch.autograd.Function):
    """Ends a unit: a scalar whose backward hands the engine gradients that nobody else holds, as in a real step."""

    @staticmethod
    def forward(ctx: Any, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.likes = [(output.shape, output.dtype, output.device) for output in outputs]
        return outputs[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> Any:
        return tuple(torch.ones(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)


@dataclass(kw_only=True)
class Run:
    """A unit's call as something to repeat: `forward` takes the leaves of inputs and returns those of outputs."""

    forward: Callable[..., tuple[torch.Tensor, ...]]
    leaves: tuple[Any, ...]
    parameters: tuple[nn.Parameter, ...]
    gradient_bytes: list[int] = field(default_factory=list)

    @cached_property
    def needing(self) -> tuple[int, ...]:
        """Positions of the leaves that require a gradient; `gradient_bytes` are of these, from the last backward."""
        return tuple(at for at, leaf in enumerate(self.leaves) if _needs_gradient(leaf))

    def fresh_leaves(self) -> tuple[Any, ...]:
        leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        if self.needing:
            starts = [leaves[at].requires_grad_() for at in self.needing]
            taken = _Take.apply(self.gradient_bytes, *starts)  # type: ignore[no-untyped-call]
            for at, tensor in zip(self.needing, taken, strict=True):
                leaves[at] = tensor
        return tuple(leaves)

    def step(self, phases: Phases, around: Around | None = None, *, holding: bool = False) -> None:
        """Run forward and backward under `around`, if there is one; gradients are dropped at the end.

        Outputs are dropped right after forward unless `holding`, so that only what backward needs is there.
        """
        leaves = self.fresh_leaves()
        with phases("forward"):
            outputs = around(self.forward, *leaves) if around else self.forward(*leaves)
            end = _Emit.apply(*_needing(outputs))  # type: ignore[no-untyped-call]
            held = outputs if holding else ()
            del outputs
        with phases("backward"):
            del held
            if end.requires_grad:
                end.backward()
        for parameter in self.parameters:
            parameter.grad = None


def _needing(outputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
    return tuple(tensor for tensor in tensors if tensor.requires_grad) or tuple(tensors[:1])


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What autograd saves of one call.

    Attributes:
        inputs, outputs: positions of the saved ones among the leaves of its inputs and of its outputs.
        needing: positions of the outputs that require a gradient; `gradient_bytes` are of these gradients.
        new_bytes: of the storages that the call returns and made itself; `new_saved_bytes` of those that are saved.
        early_share: how much of the call is over when the last tensor is saved.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    needing: tuple[int, ...]
    gradient_bytes: int
    new_bytes: int
    new_saved_bytes: int
    early_share: float


class Bench:
    """Where single units are measured: with a meter, a clock and a FLOP counter, each from the same random state."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meter: Meter = meter_for(device)
        self._clock = clock_for(device)
        on_device = device.type == "cpu"
        self.emitted_bytes = 4 if on_device else 512  # one float, as the allocator rounds it
        self.region_bytes = torch.get_rng_state().nbytes if on_device else 0
        self.can_offload = not on_device

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        state = random_state(self._device)
        try:
            yield
        finally:
            restore_random_state(state, self._device)

    def read(self, run: Run, around: Around | None = None, *, holding: bool = False) -> Reading:
        with self.undisturbed():
            return self._meter.read(lambda phases: run.step(phases, around, holding=holding))

    def read_unsaved(self, run: Run) -> int:
        """Return the peak of a forward that keeps nothing, as inside a region."""

        def step(phases: Phases) -> None:
            with phases("forward"), saved_tensors_hooks(lambda _tensor: None, unpacked):
                run.forward(*run.fresh_leaves())

        with self.undisturbed():
            return self._meter.read(step).peak_bytes

    def read_backward(self, loss: torch.Tensor) -> int:
        """Return the peak of a backward from a loss to where its graph ends; 0 where there is none."""

        def step(phases: Phases) -> None:
            with phases("forward"):
                pass
            with phases("backward"):
                if loss.requires_grad:
                    loss.backward()

        return self._meter.read(step).peak_bytes

    def saved(self, run: Run) -> _Saved:
        storages: set[int] = set()
        last = 0.0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal last
            storages.add(storage_key(tensor))
            last = self._clock()
            return tensor.detach()

        with self.undisturbed(), saved_tensors_hooks(pack, unpacked):
            start = self._clock()
            leaves = run.fresh_leaves()
            outputs = run.forward(*leaves)
            stop = self._clock()
        given = {storage_key(leaf) for leaf in (*leaves, *run.parameters) if isinstance(leaf, torch.Tensor)}
        made = {storage_key(leaf): leaf.untyped_storage().nbytes() for leaf in outputs if _is_new(leaf, given)}
        return _Saved(
            inputs=tuple(at for at, leaf in enumerate(leaves) if _is_in(leaf, storages)),
            outputs=tuple(at for at, leaf in enumerate(outputs) if _is_in(leaf, storages)),
            needing=tuple(at for at, leaf in enumerate(outputs) if _needs_gradient(leaf)),
            gradient_bytes=sum(leaf.nbytes for leaf in outputs if _needs_gradient(leaf)),
            new_bytes=sum(made.values()),
            new_saved_bytes=sum(size for identity, size in made.items() if identity in storages),
            early_share=min(1.0, max(0.0, last - start) / max(stop - start, 1e-12)),
        )

    def forward_s(self, run: Run) -> float:
        return median(self._forward_s(run) for _ in range(_ROUNDS))

    def _forward_s(self, run: Run) -> float:
        with self.undisturbed():
            leaves = run.fresh_leaves()
            start = self._clock()
            run.forward(*leaves)
            return self._clock() - start

    def extra_s(self, run: Run, around: Around) -> float:
        """Return by how many seconds a step under `around` is longer, the median over pairs."""
        return max(0.0, median(self._step_s(run, around) - self._step_s(run) for _ in range(_ROUNDS)))

    def _step_s(self, run: Run, around: Around | None = None) -> float:
        with self.undisturbed():
            start = self._clock()
            run.step(unmarked, around)
            return self._clock() - start

    def flops(self, run: Run, around: Around | None = None) -> tuple[int, int]:
        """Return what a forward counts, and what a whole step does."""
        counted: list[int] = []
        with self.undisturbed(), FlopMeter() as meter:

            @contextmanager
            def phases(_phase: str) -> Iterator[None]:
                yield
                counted.append(meter.read().flops)

            run.step(phases, around)
        return counted[0], counted[-1]


def _is_in(leaf: Any, storages: set[int]) -> bool:
    return isinstance(leaf, torch.Tensor) and storage_key(leaf) in storages


def _is_new(leaf: Any, given: set[int]) -> bool:
    return isinstance(leaf, torch.Tensor) and storage_key(leaf) not in given


def _needs_gradient(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def _checkpointed(forward: Callable[..., Any], *leaves: Any) -> Any:
    return checkpoint(forward, *leaves, use_reentrant=False)


def _selective(policy: str) -> Around:
    if policy == OFFLOAD:
        return _offloaded
    contexts = partial(create_selective_checkpoint_contexts, load_policy(policy))

    def around(forward: Callable[..., Any], *leaves: Any) -> Any:
        return checkpoint(forward, *leaves, use_reentrant=False, context_fn=contexts)

    return around


def _offloaded(forward: Callable[..., Any], *leaves: Any) -> Any:
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return forward(*leaves)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A unit's own numbers, before it is known which tensor is which."""

    saved: _Saved
    ways: tuple[Way, ...]
    gradient_bytes: dict[int, int]
    forward_bytes: int
    forward_s: float
    forward_flops: int
    rerun_flops: int
    can_be_region: bool


def measure_unit(bench: Bench, run: Run, policies: tuple[str, ...]) -> Measured:
    bench.read(run)  # discarded: the first step of a kernel allocates what none after it does
    saved = bench.saved(run)
    forward_flops, plain_flops = bench.flops(run)
    plain = _plain_way(bench, run, saved)
    gradient_bytes = tuple(run.gradient_bytes)
    try:
        _, redone_flops = bench.flops(run, _checkpointed)
        selective = [_selective_way(bench, run, policy, saved, plain_flops) for policy in policies]
        can_be_region = bool(saved.needing)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # the unit cannot be recomputed by itself, so no region may hold it
        redone_flops, selective, can_be_region = plain_flops, [], False
    lean = [way for way in selective if can_be_region and way.kept_bytes < plain.kept_bytes]
    return Measured(
        saved=saved,
        ways=(plain, *lean),
        gradient_bytes=dict(zip(run.needing, gradient_bytes, strict=False)),
        forward_bytes=bench.read_unsaved(run),
        forward_s=bench.forward_s(run),
        forward_flops=forward_flops,
        rerun_flops=max(0, redone_flops - plain_flops),
        can_be_region=can_be_region,
    )


def _plain_way(bench: Bench, run: Run, saved: _Saved) -> Way:
    reading = bench.read(run)
    return Way(
        save="everything",
        kept_bytes=reading.held_bytes - bench.emitted_bytes - saved.new_saved_bytes,
        forward_peak_bytes=reading.phase_peak_bytes["forward"] - bench.emitted_bytes,
        backward_peak_bytes=_backward_peak(reading, saved),
    )


def _selective_way(bench: Bench, run: Run, policy: str, saved: _Saved, plain_flops: int) -> Way:
    around = _selective(policy)
    reading, holding = bench.read(run, around), bench.read(run, around, holding=True)
    kept_of_outputs = saved.new_bytes - (holding.held_bytes - reading.held_bytes)
    whole = bool(saved.new_bytes) and kept_of_outputs == saved.new_bytes
    _, flops = bench.flops(run, around)
    stash = 0 if policy == OFFLOAD else bench.region_bytes
    return Way(
        save=policy,
        kept_bytes=reading.held_bytes - bench.emitted_bytes - stash - (kept_of_outputs if whole else 0),
        keeps_output=whole,
        forward_peak_bytes=reading.phase_peak_bytes["forward"] - bench.emitted_bytes,
        backward_peak_bytes=_backward_peak(reading, saved),
        recompute_s=bench.extra_s(run, around),
        recompute_flops=max(0, flops - plain_flops),
    )


def _backward_peak(reading: Reading, saved: _Saved) -> int:
    """Return the peak above what is there when backward begins: what is held, and the gradients of the outputs."""
    return max(0, reading.phase_peak_bytes["backward"] - reading.held_bytes - saved.gradient_bytes)
