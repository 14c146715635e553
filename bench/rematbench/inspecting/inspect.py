"""Take a model's plain step apart: what each module costs, and what autograd keeps."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import nn

from rematbench.errors import ModelError
from rematbench.inspecting.caches import cache_warnings
from rematbench.inspecting.saved import saved_by_forward
from rematbench.inspecting.structure import chains_of
from rematbench.measuring.flops import REFUSAL, FlopMeter
from rematbench.measuring.session import Session
from rematbench.placement.placement import PLAIN, Placement
from rematbench.placing.containers import every_module, is_compiled
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.records.inspection import Inspection, ModuleCost
from rematbench.suite.suite import Job
from rematbench.torch_internals import pytree
from rematbench.traces.timeline import LOSS
from rematbench.workload.building import floating_dtype, static_bytes
from rematbench.workload.devices import clock_for
from rematbench.workload.environment import environment_of
from rematbench.workload.step import Workload, call, forward_loss, loss_from

_PLAIN_STEP = Placement(name=PLAIN)
_ROUNDS = 5


def inspect(session: Session, job: Job, device: torch.device) -> Inspection:
    """Run the passes that tell a model's modules and saved tensors, each from the same state, which is put back."""
    workload = session.workload
    forward_once(session)
    readings = session.readings(_PLAIN_STEP, every=True)
    reading = max(readings, key=lambda reading: reading.peak_bytes)
    hidden_by = hides_its_modules(workload.module)
    held = None if hidden_by else reading.held_by_block
    session.fresh()
    saved = saved_by_forward(workload)
    modules = tuple(_modules(session, device, held))
    warnings = cache_warnings(session)
    if hidden_by:
        warnings.insert(
            0, f"the model runs through {hidden_by}, which hides its modules: build it without to see them apart"
        )
    chains = chains_of(session.outline)
    session.fresh()
    return Inspection(
        model=job.model.name,
        device=job.device,
        dtype=floating_dtype(workload),
        modules=modules,
        chains=chains,
        saved=saved.saved,
        held_bytes=reading.held_bytes,
        loss_bytes=held.get(LOSS, 0) if held is not None else None,
        output_bytes=saved.output_bytes,
        peak_bytes=reading.peak_bytes,
        static_bytes=static_bytes(workload),
        remarks=tuple(warnings),
        environment=environment_of(device, job.model.root),
    )


def forward_once(session: Session) -> None:
    """Run one step that is discarded: the first imports, tunes and allocates what none after it does.

    Raises:
        ModelError: there is no backward to keep anything for.
    """
    session.fresh()
    _, loss = forward_loss(session.workload)
    if not loss.requires_grad:
        raise ModelError("the loss depends on nothing that requires a gradient, so nothing is kept for backward")
    loss.backward()


def hides_its_modules(model: nn.Module) -> str | None:
    """Return through what a model runs that calls no module's forward, so that only the whole can be watched."""
    if is_compiled(model):
        return "torch.compile"
    return "torch.jit" if isinstance(model, torch.jit.ScriptModule) else None


def _watched(workload: Workload, around: Callable[[str, Forward], Forward]) -> Any:
    """Run the model with every module's calls going through `around`, its own from outside."""
    modules = {} if hides_its_modules(workload.module) else every_module(workload.module)
    with shadowed({path: module for path, module in modules.items() if path}, around):
        return around("", lambda: call(workload))()


def _modules(session: Session, device: torch.device, held: dict[str, int] | None) -> Iterator[ModuleCost]:
    counts = _counted(session)
    times = [_timed(session, device) for _ in range(_ROUNDS)]
    for path, module in {"": session.workload.module, **every_module(session.workload.module)}.items():
        if path in counts:
            count = counts[path]
            backward_s = [time.backward_s[path] for time in times if path in time.backward_s]
            yield ModuleCost(
                path=path,
                class_name=type(module).__name__,
                parameters=sum(parameter.numel() for parameter in module.parameters()),
                outputs=count.outputs,
                calls=count.calls,
                own_bytes=held.get(path, 0) if held is not None else None,
                forward_s=median(time.forward_s[path] for time in times),
                backward_s=median(backward_s) if backward_s else None,
                forward_flops=count.flops,
            )


@dataclass(kw_only=True)
class _ModuleCount:
    """What the calls of one module came to in one forward."""

    outputs: tuple[tuple[int, ...], ...] = ()
    calls: int = 0
    flops: int | None = 0


def _counted(session: Session, *, with_flops: bool = True) -> dict[str, _ModuleCount]:
    """Run a forward that counts calls and FLOPs; FLOPs are absent where torch cannot run it under a dispatch mode."""
    meter = FlopMeter() if with_flops else None
    counts: dict[str, _ModuleCount] = defaultdict(_ModuleCount)

    def around(path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = meter.read().flops if meter else 0
            output = forward(*args, **kwargs)
            count = counts[path]
            count.calls += 1
            count.flops = count.flops + meter.read().flops - before if meter and count.flops is not None else None
            leaves = (leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor))
            count.outputs = count.outputs or tuple(tuple(leaf.shape) for leaf in leaves)
            return output

        return run

    session.fresh()
    try:
        with meter or nullcontext():
            _watched(session.workload, around)
    except torch.OutOfMemoryError:
        raise
    except REFUSAL:
        # A step has run without the counter before; where it is the model after all, it raises again without.
        if not with_flops:
            raise
        return _counted(session, with_flops=False)
    return counts


class _StepClock:
    """Clocks one step: calls of modules in forward, and in backward the nodes of the graph that each module made."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inside: list[str] = []
        self._makers: dict[Any, str] = {}
        self.forward_s: dict[str, float] = defaultdict(float)
        self.own_backward_s: dict[str, float] = defaultdict(float)

    def around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._claim((args, kwargs), self._inside[-1] if self._inside else LOSS)
            self._inside.append(path)
            start = self._clock()
            try:
                output = forward(*args, **kwargs)
            finally:
                self.forward_s[path] += self._clock() - start
                self._inside.pop()
            self._claim(output, path)
            return output

        return run

    def step(self, workload: Workload) -> None:
        loss = loss_from(workload, _watched(workload, self.around))
        self._claim(loss, LOSS)
        loss.backward()
        self._makers.clear()

    @cached_property
    def backward_s(self) -> dict[str, float]:
        """The seconds of each module and those inside it, once the step is over; without those that have no part."""
        found: dict[str, float] = defaultdict(float)
        for maker, seconds in self.own_backward_s.items():
            found[maker] += seconds
            around = "" if maker == LOSS else maker
            while around:
                around = around.rpartition(".")[0]
                found[around] += seconds
        return dict(found)

    def _claim(self, values: Any, maker: str) -> None:
        """Give the nodes behind these values that nobody has claimed to who made them, and time them."""
        # torch makes the Python object of a C++ node when asked for it, and the same again only while that lives
        # (torch/csrc/autograd/python_cpp_function.cpp): as a key it lives, and a node stays who it is.
        leaves = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor))
        stack = [leaf.grad_fn for leaf in leaves]
        while stack:
            node = stack.pop()
            if node is not None and node not in self._makers:
                self._makers[node] = maker
                self._time(node, maker)
                stack += [following for following, _ in node.next_functions]

    def _time(self, node: Any, maker: str) -> None:
        started: list[float] = []
        node.register_prehook(lambda _gradients: started.append(self._clock()))

        def stop(_inputs: Any, _outputs: Any) -> None:
            self.own_backward_s[maker] += self._clock() - started.pop()

        node.register_hook(stop)


def _timed(session: Session, device: torch.device) -> _StepClock:
    session.fresh()
    gc.collect()
    timed = _StepClock(clock_for(device))
    timed.step(session.workload)
    return timed
