"""The raw records: one `Measurement` for each placement of each model, samples kept, absent things absent.

Everything a person reads is derived from these and can be derived again later, on another machine.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rematbench.placement.placement import Placement
from rematbench.record import Amount, Count, Finite, Record, Whole
from rematbench.traces.timeline import Phase, Share, Timeline


class Status(StrEnum):
    """What became of a case."""

    OK = "ok"
    PREDICTED = "predicted"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    TIMEOUT = "timeout"
    KILLED = "killed"

    @property
    def is_ok(self) -> bool:
        """Whether there are figures, measured or predicted."""
        return has_figures(self)


def has_figures(status: str) -> bool:
    """Tell whether a row of a status has figures, measured or predicted; the status may come from anyone's file."""
    return status in (Status.OK, Status.PREDICTED)


Verdict = Literal["bitwise", "noise", "close", "different"]
Same = Literal["equal", "different"]


class Environment(Record):
    """What a number depends on besides the code under measure; rows of different environments are never mixed.

    Attributes:
        device_name: the processor's or the GPU's product name.
        threads: intra-op threads of torch.
        allocator: allocator settings found in the process environment, as `NAME=value` joined by spaces.
        commit: of the repository the model comes from, with `+` for uncommitted changes; empty outside one.
        capacity_bytes: a GPU's memory; None for a processor, which the machine shares.
        software: a GPU's toolkit, libraries and driver, and in what precision they multiply; empty for a processor.
    """

    torch: str
    python: str
    device_name: str
    threads: Count
    allocator: str
    commit: str
    capacity_bytes: Count | None = None
    software: str = ""


class Memory(Record):
    """Bytes that torch's allocator handed out, above the start of the step.

    Attributes:
        meter: how it was measured.
        static_bytes: parameters, buffers, batch and optimizer state, each storage once.
        peak_bytes: greatest sum of live bytes in the step.
        held_bytes: live at the end of forward, the output and the loss included.
        phase_peak_bytes: the greatest sum inside each phase.
        passes_peak_bytes: the peak of every pass; they should not differ.
        allocated_bytes: the peak in whole blocks of the caching allocator, which are larger than what was asked for;
            None, as of the next three, where there is none or it does not tell.
        active_bytes: the same, with the blocks that are freed but that another stream may still use.
        reserved_bytes: greatest number of bytes the caching allocator took from the device, what was there before the
            step included.
        device_used_bytes: in use on the device after the step, by all processes, as its driver says.
        held_by_block: `held_bytes` by the path of the module that allocated them, in order of their first allocation;
            None where the meter cannot tell.
        at_peak: what `peak_bytes` were, the greatest first; empty where the meter cannot tell.
    """

    meter: str
    static_bytes: Count
    peak_bytes: Count
    held_bytes: Whole
    phase_peak_bytes: Annotated[dict[Phase, Whole], Field(min_length=1)]
    passes_peak_bytes: Annotated[tuple[Count, ...], Field(min_length=1)]
    allocated_bytes: Whole | None = None
    active_bytes: Whole | None = None
    reserved_bytes: Whole | None = None
    device_used_bytes: Whole | None = None
    held_by_block: dict[str, Whole] | None = None
    at_peak: tuple[Share, ...] = ()

    @property
    def peak_phase(self) -> Phase:
        """The first phase that reaches the peak."""
        return max(self.phase_peak_bytes, key=lambda phase: self.phase_peak_bytes[phase])

    @property
    def repeatable(self) -> bool:
        """Whether every pass found the same peak."""
        return len(set(self.passes_peak_bytes)) == 1


class Equality(Record):
    """A step under a placement against the plain step from the same weights, batch and random state.

    Attributes:
        gradients: `bitwise`; `noise`, no further from the plain step than a second plain step is; `close`, within the
            tolerances of `rematbench.measuring.equality`; or `different`. None, as of the other verdicts: two plain
            steps differ so far in it that it cannot be judged.
        gradients_max_abs_diff: greatest absolute difference over all gradients.
        gradients_worst: the parameter that has it; empty when nothing differs.
        buffer: the first buffer that differs; empty when none does.
    """

    gradients: Verdict | None
    gradients_max_abs_diff: float
    gradients_worst: str
    loss: Same | None
    buffers: Same | None
    buffer: str
    rng_state: Same | None


class Flops(Record):
    """Floating-point operations of one step by torch's convention (a multiply-add is two, only contractions count).

    Attributes:
        forward: in the forward pass.
        total: in the whole step.
        recompute: what the placement adds to the plain step; None without a plain step.
        uncounted_ops: operators on floats that have no formula, by name.
    """

    forward: Count
    total: Count
    recompute: Whole | None = None
    uncounted_ops: tuple[str, ...]


Second = Annotated[float, Field(ge=1e-12, le=1e12)]
"""Of a sample that is divided by another: no clock tells less, and nobody waits longer."""


class Timing(Record):
    """Seconds a step, one sample a round; `plain_s` are the plain step's samples of the same rounds, or none."""

    step_s: Annotated[tuple[Second, ...], Field(min_length=1)]
    plain_s: tuple[Second, ...]

    @model_validator(mode="after")
    def _of_the_same_rounds(self) -> Self:
        if self.plain_s and len(self.plain_s) != len(self.step_s):
            raise ValueError(f"{len(self.step_s)} samples of the step, but {len(self.plain_s)} of the plain step")
        return self


class PlanPoint(Record):
    """A neighbour of a plan on the predicted frontier; cost as in `PlanFacts`."""

    predicted_peak_bytes: Whole
    predicted_cost: Finite


class PlanFacts(Record):
    """How a planned placement was found. Peaks are of the step, above its start; costs in seconds or in FLOPs.

    Attributes:
        budget_bytes: of the step.
        budget_of: the placement whose measured peak it is, if it was given as one.
        predicted_peak_bytes, predicted_cost, plain_cost: None where the plan is a placement by hand.
        predicted_cost, bound_cost: recomputed by the plan, and at least by any schedule of units within the budget
            (`rematbench.solver.bound`); None where that was not worked out.
        bound_peak_bytes: no schedule of units peaks lower.
        least_peak_bytes: the lowest that a plan reaches, as predicted; of placements by hand, as measured.
        by_hand: name of the placement by hand that it is, as no schedule of units fits; empty where one does.
        predicted_ratio: of the step's time to the plain step's; None where units were timed by themselves only.
        plain_cost: of one forward, to set costs against.
        tries: placements measured until this one.
        reserved_bytes: what the allocator of a GPU reserved for the step, above its start, when it was allowed no more
            than the budget; None where none can be told so.
        below, above: the next points of the frontier.
    """

    minimise: Literal["time", "flops"]
    budget_bytes: Whole
    predicted_peak_bytes: Whole | None = None
    measured_peak_bytes: Whole
    predicted_cost: Finite | None = None
    bound_cost: Finite | None = None
    bound_peak_bytes: Whole | None = None
    least_peak_bytes: Whole
    plain_cost: Amount | None = None
    tries: Count
    by_hand: str = ""
    predicted_ratio: Finite | None = None
    budget_of: str | None = None
    reserved_bytes: Whole | None = None
    below: PlanPoint | None = None
    above: PlanPoint | None = None

    @field_validator("bound_cost", mode="before")
    @classmethod
    def _a_bound(cls, bound: Any) -> Any:
        """Take no bound for an infinite one: it says that nothing fits what this plan was measured to fit."""
        return None if bound in (math.inf, "Infinity") else bound


class PredictionFacts(Record):
    """How the figures of a step that was not run were found.

    Attributes:
        at: the sizes that they are of.
        runs: how many steps were run for them.
        largest: the sizes of the largest of these.
        checked_at: the sizes of the run that they were held against; None where there was none.
        low_bytes, high_bytes: between which the peak lies; equal where that run came out to the byte.
        broken: modules whose memory came out otherwise there.
    """

    at: dict[str, Count]
    runs: Count
    largest: dict[str, Count]
    checked_at: dict[str, Count] | None = None
    low_bytes: Whole
    high_bytes: Whole
    broken: tuple[str, ...] = ()


class Skip(Record):
    """A tensor that one block makes and a block further down the model still takes in.

    Attributes:
        source: the block that made it; `""` where it comes with the batch.
        target: the last block that takes it in.
    """

    source: str
    target: str
    bytes: Whole
    shape: tuple[Whole, ...]


class Structure(Record):
    """A model as its step runs it: the blocks in the order of their first calls, and what skips past some of them."""

    blocks: tuple[str, ...]
    skips: tuple[Skip, ...] = ()


class Measurement(Record):
    """One placement of one model on one device.

    Attributes:
        placement: as named in the suite; `regions` is what it came to on this model.
        message: why the status is not ok, or what is worth knowing about a row that is.
        checkpointed_blocks: modules that some region recomputes, outermost regions only.
        timeline: of the memory pass with the greater peak; None where the meter cannot tell.
        plan: how it was found, where a planner made it.
        compile_s: what compiling took, where the placement compiles; no part of the step.
        structure: of the model; in the plain row only.
        prediction: how it was found, where the step was not run; status is `predicted` then.
        resident_bytes: growth of the peak resident set over a step, in a process of its own; on request.
        sources: the files of the user's that the worker had imported, by their paths from the run's root folder, with
            what tells the content of each from any other (`rematbench.records.sources`).
        measured_at: UTC, ISO 8601.
    """

    suite: str
    model: str
    placement: str
    device: str
    dtype: str
    status: Status
    message: str = ""
    regions: Placement | None = None
    checkpointed_blocks: Count | None = None
    memory: Memory | None = None
    equality: Equality | None = None
    flops: Flops | None = None
    timing: Timing | None = None
    timeline: Timeline | None = None
    compile_s: Amount | None = None
    structure: Structure | None = None
    plan: PlanFacts | None = None
    prediction: PredictionFacts | None = None
    resident_bytes: Whole | None = None
    environment: Environment | None = None
    sources: dict[str, str] | None = None
    measured_at: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies a row within a run: model, placement, device, dtype."""
        return self.model, self.placement, self.device, self.dtype

    @property
    def plain_key(self) -> tuple[str, str, str, str]:
        """The key of the plain row this one is compared to."""
        return self.model, "none", self.device, self.dtype

    @property
    def target_key(self) -> tuple[str, str, str, str] | None:
        """The key of the row at whose peak this one was planned; None for any other."""
        if self.plan is None or self.plan.budget_of is None:
            return None
        return self.model, self.plan.budget_of, self.device, self.dtype
