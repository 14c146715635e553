"""Why a step takes the memory that it does: causes with their figures, in words, the greatest first."""

from __future__ import annotations

from rematbench.record import Count, Record, Whole
from rematbench.records.measurement import Environment
from rematbench.traces.timeline import Phase
from rematbench.units import format_bytes, format_percent


class Cause(Record):
    """One thing that holds memory, or keeps regions from freeing it.

    Attributes:
        kind: its name in `rematbench.records.causes.CAUSES`.
        bytes: how much it is about; causes are told in order of it.
        at: paths of the modules it is about, those that hold most first; empty where it is about none.
        figures: what it goes by, the unit in each name.
        says: what is so, in a sentence or two.
        next: what to try.
    """

    kind: str
    bytes: Whole
    at: tuple[str, ...] = ()
    figures: dict[str, Whole]
    says: str
    next: str


class Diagnosis(Record):
    """What `rematbench why` found out about one model under one placement.

    Attributes:
        static_bytes, peak_bytes: as in `Memory`; the peak is above the start of the step.
        plain_peak_bytes: the plain step's.
        peak_phase: in which the peak was.
        at_peak: what the peak is made of, by what it is, in parts that add up to it.
        steps_peak_bytes, steps_left_bytes: of three steps in a row, what each peaked at above the start of the first
            and what it left behind for good.
        accumulate: how many micro-batches each of them had.
        causes: the verdict first, then what else matters.
        remarks: what is worth knowing, a sentence each.
    """

    model: str
    device: str
    dtype: str
    placement: str
    static_bytes: Count
    plain_peak_bytes: Count
    peak_bytes: Count
    peak_phase: Phase
    at_peak: dict[str, Whole]
    steps_peak_bytes: tuple[Whole, ...]
    steps_left_bytes: tuple[Whole, ...]
    accumulate: Count
    causes: tuple[Cause, ...]
    remarks: tuple[str, ...] = ()
    environment: Environment | None = None

    @property
    def verdict(self) -> Cause:
        """The first of the causes."""
        return self.causes[0]

    def explain(self) -> str:
        """Say it all for people: what the step takes, the verdict with what to try, and what else there is."""
        lines = [f"{self.model} under {self.placement} on {self.device}, {self.dtype}", self._totals(), self._parts()]
        if self.accumulate > 1:
            most = format_bytes(max(self.steps_peak_bytes, default=0))
            lines.append(f"a step of {self.accumulate} micro-batches peaks at {most} above its start")
        lines.append("")
        for number, cause in enumerate(self.causes, 1):
            share = cause.bytes / max(self.static_bytes + self.peak_bytes, 1)
            percent = f", {format_percent(share)}" if share <= 1 else ""  # what is reserved may be more than all
            size = f" ({format_bytes(cause.bytes)}{percent})" if cause.bytes > 0 else ""
            lines += [f"{number}. {cause.kind}{size}: {cause.says}", f"   try: {cause.next}"]
        lines += ["", *(f"note: {remark}" for remark in self.remarks)] if self.remarks else []
        return "\n".join(lines)

    def _totals(self) -> str:
        total = format_bytes(self.static_bytes + self.peak_bytes)
        static, peak = format_bytes(self.static_bytes), format_bytes(self.peak_bytes)
        where = "the optimizer's step" if self.peak_phase == "optimizer" else self.peak_phase
        compared = ""
        if self.placement != "none":
            change = self.peak_bytes / max(self.plain_peak_bytes, 1) - 1
            less = "less" if change <= 0 else "more"
            compared = (
                f", {format_percent(abs(change))} {less} than the plain step's {format_bytes(self.plain_peak_bytes)}"
            )
        return f"{total} in all: {static} before the step and a peak of {peak} in {where}{compared}"

    def _parts(self) -> str:
        parts = sorted(self.at_peak.items(), key=lambda part: -part[1])
        told = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if abs(size) > 0.01 * self.peak_bytes)
        return f"at the peak: {told}"

    def __str__(self) -> str:
        return self.explain()
