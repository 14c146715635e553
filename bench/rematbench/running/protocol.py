"""What the runner and a worker say to each other: one JSON object a line, on a pipe that nothing else writes to.

The runner sends one order and then holds the pipe open; a worker whose order pipe closes has lost its runner and ends.
The worker answers on a descriptor of its own, so that what a model prints cannot be taken for a message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from rematbench.record import Record
from rematbench.records.diagnosis import Diagnosis
from rematbench.records.fitting import FittedPlacement
from rematbench.records.inspection import Inspection
from rematbench.records.measurement import Environment, Measurement, Status, Timing
from rematbench.suite.suite import Device, Job

Stage = Literal[
    "building", "inspecting", "diagnosing", "plain step", "predicting", "fitting", "measuring", "timing", "resident"
]


class ProbeOrder(Record):
    """Say what a device is, and whether its memory meter sees what is allocated."""

    kind: Literal["probe"] = "probe"
    device: str
    threads: int | None


class JobOrder(Record):
    """Measure a model.

    Attributes:
        measure: the placements to measure, by name, in order.
        time: the placements to time afterwards; more than those measured when an earlier worker was lost.
        plain: whether there is a plain step to compare with; without one a model that fits only when checkpointed is
            still measured.
    """

    kind: Literal["job"] = "job"
    job: Job
    measure: tuple[str, ...]
    time: tuple[str, ...]
    plain: bool


class ResidentOrder(Record):
    """Measure the resident set of one placement, in a process that does nothing else."""

    kind: Literal["resident"] = "resident"
    job: Job
    placement: str


class InspectOrder(Record):
    """Take the plain step of a job's model apart."""

    kind: Literal["inspect"] = "inspect"
    job: Job


class FitOrder(Record):
    """Find the largest value of a size that a memory holds, for some placements of a job.

    Attributes:
        vary: the size; the job's `at` are the others.
    """

    kind: Literal["fit"] = "fit"
    job: Job
    vary: str
    memory_bytes: int
    multiple_of: int
    placements: tuple[str, ...]


class WhyOrder(Record):
    """Say why a job's model takes its memory under one of its placements, in steps of so many micro-batches."""

    kind: Literal["why"] = "why"
    job: Job
    placement: str
    accumulate: int


class Probed(Record):
    """Answer to a probe; `meter` is the line that tells how the self-test went."""

    kind: Literal["probed"] = "probed"
    device: Device
    environment: Environment
    meter: str


class Began(Record):
    """The worker turned to a placement: whatever ends it now, until the stage is over, is that placement's doing.

    The stage is over with its result or with `Ended`, whichever comes first; then nothing is in progress.
    """

    kind: Literal["began"] = "began"
    placement: str
    stage: Stage


class Ended(Record):
    """What was begun is over: whatever ends the worker now is no placement's doing."""

    kind: Literal["ended"] = "ended"


class Built(Record):
    """The model is there; `dtype` is what its rows say."""

    kind: Literal["built"] = "built"
    dtype: str


class Measured(Record):
    """A row, but for its time."""

    kind: Literal["measured"] = "measured"
    measurement: Measurement


class Timed(Record):
    """The samples of one placement."""

    kind: Literal["timed"] = "timed"
    placement: str
    timing: Timing


class Resident(Record):
    """The growth of the peak resident set."""

    kind: Literal["resident"] = "resident"
    placement: str
    resident_bytes: int


class Inspected(Record):
    """Answer to an inspection."""

    kind: Literal["inspected"] = "inspected"
    inspection: Inspection


class Fitted(Record):
    """Answer to a fit, for one placement."""

    kind: Literal["fitted"] = "fitted"
    fitted: FittedPlacement


class Diagnosed(Record):
    """Answer to the question why."""

    kind: Literal["diagnosed"] = "diagnosed"
    diagnosis: Diagnosis


class Failed(Record):
    """A placement failed; the worker ends after this. `placement` is empty when the model could not be built."""

    kind: Literal["failed"] = "failed"
    placement: str
    status: Status
    message: str


class Lost(Failed):
    """A worker ended while nothing of a placement was in progress: it was starting, building, or between two.

    Made on the runner's side, never said by a worker. No placement is to blame, and another worker may do better.
    """


class Refused(Record):
    """The order is a usage error, which the sentence names; the worker ends after this."""

    kind: Literal["refused"] = "refused"
    message: str


class Done(Record):
    """All that was ordered is done."""

    kind: Literal["done"] = "done"


Order = ProbeOrder | JobOrder | ResidentOrder | InspectOrder | WhyOrder | FitOrder
Message = (
    Probed
    | Began
    | Built
    | Ended
    | Measured
    | Timed
    | Resident
    | Inspected
    | Diagnosed
    | Fitted
    | Failed
    | Refused
    | Done
)

ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
