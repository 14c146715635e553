"""What the question "how large may it be" came to, as kept in a file."""

from __future__ import annotations

from pydantic import Field

from rematbench.record import Amount, Count, Record


class CurvePoint(Record):
    """What a step needs at one value of the size, with all that is there before it."""

    value: Count
    bytes: Count


class FittedPlacement(Record):
    """The largest value that fits under one placement. Bytes are of the peak and of all that is there before the step.

    Attributes:
        value: the answer; None where the smallest one does not fit.
        bytes: at the answer, as predicted.
        next_value, next_bytes: the first that does not fit.
        reach: share by which the bytes may be off; 0 where a further run came out to the byte.
        compute_ratio: the FLOPs of the step over the plain step's at the answer; None where they are not counted.
        measured_bytes, next_measured_bytes: the same two, run; None where they are too large to.
        runs: how many small steps told it.
        checked_at: the sizes of the run that was told to the byte.
        curve: bytes by value, as predicted.
        message: why there is no answer; empty where there is one.
    """

    placement: str
    value: Count | None
    bytes: Count | None = None
    next_value: Count | None = None
    next_bytes: Count | None = None
    reach: Amount = 0.0
    compute_ratio: Amount | None = None
    measured_bytes: Count | None = None
    next_measured_bytes: Count | None = None
    runs: Count = 0
    checked_at: dict[str, Count] | None = None
    curve: tuple[CurvePoint, ...] = ()
    message: str = ""


class Fit(Record):
    """The largest value of a size for a memory, by placement.

    Attributes:
        vary: the size.
        at: other sizes asked for.
        memory_bytes: of everything that torch allocates.
    """

    model: str
    device: str
    vary: str
    at: dict[str, Count] = Field(default_factory=dict)
    memory_bytes: Count
    multiple_of: Count = 1
    placements: tuple[FittedPlacement, ...] = ()
