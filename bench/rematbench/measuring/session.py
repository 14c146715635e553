"""One model on one device, built once: placements are applied, measured and removed in turn."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from rematbench.measuring.calls import MARK, CallMeter
from rematbench.measuring.equality import Outcome, compare, outcome_of, sharing, unsteadiness
from rematbench.measuring.flops import REFUSAL, FlopCount, FlopMeter
from rematbench.measuring.meter import Meter, meter_for
from rematbench.measuring.state import State
from rematbench.placement.outline import Outline
from rematbench.placement.placement import Placement, Region
from rematbench.placing.apply import applied
from rematbench.placing.containers import is_compiled
from rematbench.placing.outline import outline
from rematbench.placing.parts import Mark, marked
from rematbench.placing.recorded import record
from rematbench.records.measurement import Equality, Flops, Memory
from rematbench.traces.calls import Noted, with_calls
from rematbench.traces.replay import Reading
from rematbench.traces.tape import Tape, Worked, tape_of
from rematbench.traces.timeline import Phase, Timeline
from rematbench.traces.trace import AllocationTrace
from rematbench.workload.building import static_bytes, static_sizes
from rematbench.workload.devices import clock_for, is_accelerator, is_out_of_memory
from rematbench.workload.step import Phases, Workload, clear_gradients, training_step

Marking = Callable[[nn.Module, Mark], AbstractContextManager[None]]
PASSES = 2
MORE_PLAIN_STEPS = 3
"""So many plain steps more tell the noise of a model whose first two differ, or that runs on an accelerator.

Kernels there add in no fixed order, and two steps tell too little of that: where one gradient is noisy, a third one is
further from the first than the second in every other case.
"""


@dataclass(frozen=True, kw_only=True)
class UntimedMeasurement:
    """What is known of a placement before it is timed.

    Attributes:
        blocks: how many modules some region recomputes.
        compile_s: by how much the first step took longer than the second, where the model is compiled.
        equality: None without a plain step to compare with.
        unsteadiness: in what two plain steps differ, as a sentence; empty where they do not.
        flops: None where torch cannot run the step under its dispatch mode.
        timeline: of the greater memory pass; no two passes take the same times.
    """

    blocks: int
    loss: float
    memory: Memory
    equality: Equality | None
    flops: Flops | None
    unsteadiness: str = ""
    timeline: Timeline | None = field(default=None, compare=False)
    compile_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A step's operators.

    Attributes:
        worked: what each contraction came to, in their order.
        tape: of the step as it was watched, with a mark around each operator.
        calls: the operators by those marks.
    """

    worked: list[Worked]
    tape: Tape
    calls: list[Noted]


class Session:
    """A built model and the plain step it is compared with.

    Every step starts from the same weights, buffers, attributes, batch, optimizer state and random states, with all
    gradients None.
    """

    def __init__(self, workload: Workload, device: torch.device, meter: Meter | None = None) -> None:
        self.workload = workload
        self._device = device
        self._meter = meter or meter_for(device)
        self._clock = clock_for(device)
        self._start = State(workload, device)
        self._plain: tuple[Outcome, ...] = ()
        self._plain_flops: int | None = None
        self._equalities: dict[tuple[Region, ...], Equality | None] = {}
        self._has_recomputed = False
        self._readings: dict[tuple[object, ...], list[Reading]] = {}
        self._losses: list[torch.Tensor] = []

    def keep_plain(self) -> None:
        """Run the plain step twice, to compare with and to know its noise, after one that is discarded.

        Where the two differ, and on an accelerator always, three more are run: how far apart two are may be chance.
        """
        self._outcome()
        first = self._outcome()
        again = [sharing(first, self._outcome())]
        if is_accelerator(self._device) or unsteadiness(first, again[0]):
            again += [sharing(first, self._outcome()) for _ in range(MORE_PLAIN_STEPS)]
        self._plain = first, *again
        flops = self._flops()
        self._plain_flops = flops.total if flops else None

    @cached_property
    def plain_peak_bytes(self) -> int | None:
        """The plain step's peak above its start; None where there is no plain step to compare with."""
        return self.peak_bytes(Placement(name="none")) if self._plain else None

    @property
    def static_bytes(self) -> int:
        """What is there before the step: parameters, buffers, batch and optimizer state."""
        return static_bytes(self.workload)

    @cached_property
    def outline(self) -> Outline:
        """What strategies act on: the model's chains as a step runs them; as they are listed where torch refuses."""
        self.fresh()
        try:
            recording = record(self.workload, self._device)
        except REFUSAL:
            # Of being watched, or of a plain step that does not fit; else the placement's own step will raise it again.
            traceback.print_exc()
            recording = None
        return outline(self.workload.module, recording)

    def peak_bytes(self, placement: Placement, *, passes: int = PASSES) -> int:
        """Meter a placement's step and return its peak, the greatest of the passes."""
        return _worst(self.readings(placement, passes=passes)).peak_bytes

    def measure(self, placement: Placement) -> UntimedMeasurement:
        """Apply a placement, measure everything but its time, and remove it."""
        compiled = placement.compile_budget is not None
        compile_s = self.timed_step(placement) - self.timed_step(placement) if compiled else None
        with applied(self.workload.module, placement) as handle:
            outcome = self._outcome()
            equality = self._equalities[placement.regions] = self._compared(outcome)
            # Under a dispatch mode, which counting needs, compiled code would run as if it were not.
            flops = None if compiled else self._flops()
        readings = self.readings(placement)
        return UntimedMeasurement(
            blocks=len(handle.blocks),
            loss=float(outcome.loss),
            memory=self._memory_of(readings, inside=not (compiled or is_compiled(self.workload.module))),
            equality=equality,
            unsteadiness=unsteadiness(*self._plain) if self._plain else "",
            flops=flops,
            timeline=_worst(readings).timeline,
            compile_s=compile_s,
        )

    def equality(self, placement: Placement) -> Equality | None:
        """Hold a step under a placement against the plain step, once; None where there is no plain step.

        Where all passes of it have been metered, that has been done.
        """
        if self._plain and placement.regions not in self._equalities:
            with applied(self.workload.module, placement):
                self._equalities[placement.regions] = self._compared(self._outcome())
        return self._equalities.get(placement.regions)

    def writes_buffers(self) -> bool:
        """Tell whether the plain step changes a buffer; False as well where there is no plain step."""
        self.fresh()
        now = dict(self.workload.module.named_buffers())
        after = self._plain[0].buffers if self._plain else {}
        return any(name not in now or not torch.equal(now[name].cpu(), kept) for name, kept in after.items())

    def _compared(self, outcome: Outcome) -> Equality | None:
        if not self._plain:
            return None
        plain, again, *further = self._plain
        return compare(plain, again, outcome, further=further)

    def timed_step(self, placement: Placement) -> float:
        """Return the seconds of one step under a placement; applying and removing it are not counted."""
        with applied(self.workload.module, placement):
            self.fresh()
            start = self._clock()
            training_step(self.workload)
            return self._clock() - start

    def fresh(self) -> None:
        """Put the state before every step back, with no gradients."""
        self._start.restore()
        clear_gradients(self.workload)

    def _outcome(self) -> Outcome:
        self.fresh()
        return outcome_of(self.workload, training_step(self.workload), self._device)

    def readings(self, placement: Placement, *, every: bool = False, passes: int = PASSES) -> list[Reading]:
        """Meter a placement's step in passes that should not differ; `every` marks the modules inside blocks too.

        Regions that were metered once are not metered again, whatever the placement's name: a planner reads what it
        then chooses, and every step starts from the same state. What it does not choose, one pass is enough for.
        """
        key = placement.regions, placement.compile_budget, every
        found = self._readings.get(key, [])
        if len(found) < passes:
            # Kept only once all have gone well.
            judged = passes == PASSES and not every
            more = self._metered(placement, passes - len(found), every=every, judged=judged)
            found = self._readings[key] = [*found, *more]
        return found

    def trace(self, placement: Placement, marking: Marking = marked, *, every: bool = False) -> AllocationTrace | None:
        """Return what one step under a placement allocated and freed; None where the meter cannot tell.

        `marking(model, mark)` marks what the trace is to tell apart; calls of the model's parts, unless told. `every`
        marks the modules inside blocks and regions too. The step's gradients are left as it made them.
        """
        with self._watched(placement, every=every, inside=every, marking=marking):
            if placement.regions or not self._plain:
                # Discarded, as the first step of a kernel allocates what none after it does. The plain one was run.
                self.fresh()
                training_step(self.workload)
            return self._read().trace

    def tape(self, placement: Placement) -> Tape | None:
        """Return all numbers of one step under a placement in a row; None where the meter cannot tell lifetimes.

        Without FLOPs where torch cannot run the step under its dispatch mode.
        """
        trace = self.trace(placement)
        if trace is None:
            return None
        with applied(self.workload.module, placement), marked(self.workload.module, self._meter.block):
            try:
                watched = self._noted()
            except REFUSAL as error:
                if is_out_of_memory(error):
                    raise
                return tape_of(trace, static_sizes(self.workload), ())
        tape = tape_of(trace, static_sizes(self.workload), watched.worked)
        return with_calls(tape, watched.tape, watched.calls, MARK)

    def in_a_row(self, placement: Placement, *, steps: int, accumulate: int = 1) -> list[list[Reading]]:
        """Meter steps that each start from what the one before left, but for gradients, which it has cleared.

        Each has so many micro-batches, the same batch again; the optimizer steps in the last of them. Returned are the
        readings of each step, one a micro-batch. What only the collector frees is gone by the end of each.
        """
        without = replace(self.workload, optimizer=None)
        with self._watched(placement, every=True, inside=True):
            self.fresh()
            gc.collect()
            return [
                [
                    *(self._read_on(without, clears=False) for _ in range(accumulate - 1)),
                    self._read_on(self.workload, clears=True),
                ]
                for _ in range(steps)
            ]

    def _read_on(self, workload: Workload, *, clears: bool) -> Reading:
        def step(phases: Phases) -> None:
            training_step(workload, phases)
            if clears:
                clear_gradients(workload)
            gc.collect()

        return self._meter.read(step)

    @contextmanager
    def _watched(self, placement: Placement, *, every: bool, inside: bool, marking: Marking = marked) -> Iterator[None]:
        """Hold a placement in force with calls marked: what checkpointing a region takes by itself, and with `inside`
        what the region recomputes too.
        """
        model, mark = self.workload.module, self._meter.block
        # Nothing stands in front of what is to be compiled, or dynamo would compile that in.
        within = marked(model, mark, every=every) if inside and placement.compile_budget is None else nullcontext()
        with within, applied(model, placement), marking(model, mark):
            if is_accelerator(self._device) or (placement.regions and not self._has_recomputed):
                # Discarded: plans of cuDNN and workspaces of cuBLAS are per thread, and what a region recomputes runs
                # in autograd's, where the plain step has never run it. On a processor too the first recomputation
                # keeps a tensor for longer, at whatever torch does once.
                self._has_recomputed = self._has_recomputed or bool(placement.regions)
                self.fresh()
                training_step(self.workload)
            yield

    def _metered(self, placement: Placement, passes: int, *, every: bool, judged: bool) -> list[Reading]:
        with self._watched(placement, every=every, inside=True):
            # The lifetimes are not kept: a planner reads hundreds of steps, and the collector would look at them all.
            found = [replace(self._read(), trace=None) for _ in range(passes)]
            if judged and self._plain and placement.regions and placement.regions not in self._equalities:
                # What the last pass has left behind is what any step would: it need not be run again to be judged.
                self._equalities[placement.regions] = self._compared(self._left_behind())
            return found

    def _read(self) -> Reading:
        self.fresh()
        gc.collect()  # so that what a reference cycle keeps is there, or gone, in every pass alike
        self._losses.clear()
        return self._meter.read(lambda phases: self._losses.append(training_step(self.workload, phases)))

    def _left_behind(self) -> Outcome:
        """Return what the step just metered has left behind."""
        return outcome_of(self.workload, self._losses[-1], self._device)

    def _memory_of(self, readings: list[Reading], *, inside: bool) -> Memory:
        """Sum up what was read; by block only where the inside of the model could be watched."""
        worst = _worst(readings)
        return Memory(
            meter=self._meter.name,
            static_bytes=static_bytes(self.workload),
            peak_bytes=worst.peak_bytes,
            held_bytes=worst.held_bytes,
            phase_peak_bytes=worst.phase_peak_bytes,
            passes_peak_bytes=tuple(reading.peak_bytes for reading in readings),
            allocated_bytes=worst.allocated_bytes,
            active_bytes=worst.active_bytes,
            reserved_bytes=worst.reserved_bytes,
            device_used_bytes=worst.device_used_bytes,
            held_by_block=worst.held_by_block if inside else None,
            at_peak=worst.at_peak if inside else (),
        )

    def _flops(self) -> Flops | None:
        try:
            counts = self._count()
        except torch.OutOfMemoryError:
            raise
        except REFUSAL:
            # The same step has just run without the counter, so this is torch refusing the mode (flex attention).
            traceback.print_exc()
            return None
        forward, total = counts["forward"].flops, counts["total"].flops
        recompute = total - self._plain_flops if self._plain_flops is not None else None
        return Flops(forward=forward, total=total, recompute=recompute, uncounted_ops=counts["total"].uncounted_ops)

    def _noted(self) -> Watched:
        """Run a step under a mode that notes its operators, metered, and return what they were."""
        ended: list[tuple[Phase, int]] = []
        self.fresh()
        gc.collect()
        with CallMeter(self._meter.block) as meter:

            def step(phases: Phases) -> None:
                @contextmanager
                def counted(phase: Phase) -> Iterator[None]:
                    with phases(phase):
                        yield
                    ended.append((phase, len(meter.calls)))

                training_step(self.workload, counted)

            trace = self._meter.read(step).trace
        starts = [0, *(stop for _, stop in ended)]
        worked = [
            Worked(phase, operator, flops)
            for (phase, stop), start in zip(ended, starts, strict=False)
            for operator, flops in meter.calls[start:stop]
        ]
        worked += [Worked(None, operator, None) for operator in meter.read().uncounted_ops]
        return Watched(worked=worked, tape=tape_of(trace or AllocationTrace((), ()), (), ()), calls=meter.noted)

    def _count(self) -> dict[str, FlopCount]:
        """Return what a step has counted by the end of each phase, and in total."""
        counts: dict[str, FlopCount] = {}
        self.fresh()
        with FlopMeter() as meter:

            @contextmanager
            def phases(phase: Phase) -> Iterator[None]:
                yield
                counts[phase] = counts["total"] = meter.read()

            training_step(self.workload, phases)
        return counts


def _worst(readings: list[Reading]) -> Reading:
    return max(readings, key=lambda reading: reading.peak_bytes)
