"""The one table of columns: name, unit, meaning and value. The CSV, the README's reference and the tests read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rematbench.records.measurement import Measurement, Timing
from rematbench.records.statistics import Interval, step_iqr_s, step_median_s, step_ratio


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement with the plain one of the same model and device, which the ratios are to.

    Attributes:
        reference: None when the plain step has no row, or none with memory.
        peer: the placement at whose measured peak this one was planned, if it was.
    """

    case: Measurement
    reference: Measurement | None
    peer: Measurement | None = None

    @property
    def peak_ratio(self) -> float | None:
        """Peak over the plain step's peak."""
        if self.case.memory is None or self.reference is None or not self.reference.memory:
            return None
        plain = self.reference.memory.peak_bytes
        return self.case.memory.peak_bytes / plain if plain else None

    @property
    def peer_peak_ratio(self) -> float | None:
        """Peak over the peer's peak."""
        if self.case.memory is None or self.peer is None or not self.peer.memory:
            return None
        return self.case.memory.peak_bytes / self.peer.memory.peak_bytes if self.peer.memory.peak_bytes else None

    @property
    def peer_step_ratio(self) -> Interval | None:
        """Step time over the peer's, paired; None unless the two were timed in the same rounds."""
        own, other = self.case.timing, self.peer.timing if self.peer else None
        if own is None or other is None or not own.plain_s or own.plain_s != other.plain_s:
            return None
        return step_ratio(Timing(step_s=own.step_s, plain_s=other.step_s))


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of `results.csv`.

    Attributes:
        unit: of a number; a column with one is read back as a number, whole for what is counted.
        value: answers None where the number is absent, and the cell stays empty.
        required: a file without it is none of ours; one that is not came later, and is empty in older files.
    """

    name: str
    unit: str
    meaning: str
    value: Callable[[Row], Any]
    required: bool = True

    def parse(self, cell: str) -> Any:
        """Read a cell back; an empty one is None.

        Raises:
            ValueError: it is not of the column's kind.
        """
        if not cell:
            return None
        return _PARSERS.get(self.unit, str)(cell)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "bytes": int,
    "FLOP": int,
    "blocks": int,
    "rounds": int,
    "threads": int,
    "s": float,
    "×": float,
    "difference": float,
    "bytes by block": json.loads,
    "yes/no": {"true": True, "false": False}.__getitem__,
}


def rows_of(measurements: list[Measurement]) -> list[Row]:
    """Pair every measurement with its plain one, and a plan with the placement it was to be measured against."""
    by_key = {case.key: case for case in measurements}

    def peer(case: Measurement) -> Measurement | None:
        return by_key.get(case.target_key) if case.target_key else None

    return [Row(case=case, reference=by_key.get(case.plain_key), peer=peer(case)) for case in measurements]


def _case(name: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.case, name)


def _part(part: str, name: str) -> Callable[[Row], Any]:
    """Read a field of a part of the measurement that may be absent as a whole."""
    return lambda row: getattr(getattr(row.case, part), name, None)


def _timing(statistic: Callable[..., Any]) -> Callable[[Row], Any]:
    return lambda row: statistic(row.case.timing) if row.case.timing else None


def _ratio(field: str) -> Callable[[Row], Any]:
    """Read the paired ratio, where the plain step was timed in the same rounds."""

    def value(row: Row) -> float | None:
        timing = row.case.timing
        return getattr(step_ratio(timing), field) if timing and timing.plain_s else None

    return value


def _peer_ratio(field: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.peer_step_ratio, field, None)


def _uncounted(row: Row) -> str | None:
    return " ".join(row.case.flops.uncounted_ops) if row.case.flops else None


def _regions(row: Row) -> str | None:
    return str(row.case.regions) if row.case.regions else None


def _column(
    name: str, unit: str, meaning: str, value: Callable[[Row], Any] | None = None, *, required: bool = True
) -> Column:
    return Column(name=name, unit=unit, meaning=meaning, value=value or _case(name), required=required)


def cell_text(value: object) -> str:
    """Write a value as a cell; nothing for None, never 0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    return "" if value is None else str(value)


COLUMNS = (
    _column("suite", "", "the suite that was run"),
    _column("model", "", "the model, as the suite names it"),
    _column("placement", "", "the placement, as the suite names it"),
    _column("device", "", "`cpu` or `cuda:N`"),
    _column("dtype", "", "of the parameters and the batch"),
    _column("status", "", "`ok`, `out_of_memory`, `error`, `timeout` or `killed`"),
    _column("message", "", "why the status is not ok, or what is worth knowing about the row"),
    _column("regions", "", "what the placement came to on this model", _regions),
    _column("checkpointed_blocks", "blocks", "modules that some region recomputes"),
    _column("static_bytes", "bytes", "parameters, buffers, batch and optimizer state", _part("memory", "static_bytes")),
    _column("peak_bytes", "bytes", "greatest allocation above the start of the step", _part("memory", "peak_bytes")),
    _column("peak_ratio", "×", "peak over the peak of `none`", lambda row: row.peak_ratio),
    _column("held_bytes", "bytes", "allocated at the end of forward, above the start", _part("memory", "held_bytes")),
    _column("peak_phase", "", "phase the peak falls in; recomputation is in `backward`", _part("memory", "peak_phase")),
    _column("repeatable", "yes/no", "whether both memory passes found the same peak", _part("memory", "repeatable")),
    _column("step_median_s", "s", "median time of a step", _timing(step_median_s)),
    _column("step_iqr_s", "s", "interquartile range of the step time", _timing(step_iqr_s)),
    _column("step_ratio", "×", "median of the ratios to `none` within each round", _ratio("median")),
    _column("step_ratio_low", "×", "lower end of its 95 % bootstrap interval", _ratio("low")),
    _column("step_ratio_high", "×", "upper end of its 95 % bootstrap interval", _ratio("high")),
    _column("rounds", "rounds", "timed, each running every placement once", _timing(lambda timing: len(timing.step_s))),
    _column("forward_flops", "FLOP", "floating-point operations of the forward pass", _part("flops", "forward")),
    _column("recompute_flops", "FLOP", "what the placement adds to the plain step's", _part("flops", "recompute")),
    _column("uncounted_ops", "", "operators on floats without a FLOP formula", _uncounted),
    _column("gradients", "", "`bitwise`, `noise`, `close` or `different` from `none`", _part("equality", "gradients")),
    _column("gradients_max_abs_diff", "difference", "greatest, absolute", _part("equality", "gradients_max_abs_diff")),
    _column("gradients_worst", "", "the parameter that has it", _part("equality", "gradients_worst")),
    _column("loss", "", "`equal` or `different`, bit for bit", _part("equality", "loss")),
    _column("buffers", "", "`equal` or `different` after the step, bit for bit", _part("equality", "buffers")),
    _column("rng_state", "", "`equal` or `different` after the step", _part("equality", "rng_state")),
    _column("resident_bytes", "bytes", "growth of the resident set over a step (`--resident`)"),
    _column(
        "reserved_bytes", "bytes", "taken from the GPU by the caching allocator", _part("memory", "reserved_bytes")
    ),
    _column("memory_meter", "", "how the bytes were measured", _part("memory", "meter")),
    _column("torch", "", "version", _part("environment", "torch")),
    _column("python", "", "version", _part("environment", "python")),
    _column("device_name", "", "processor or GPU", _part("environment", "device_name")),
    _column("threads", "threads", "intra-op threads of torch", _part("environment", "threads")),
    _column("commit", "", "of the model's repository, `+` when it has changes", _part("environment", "commit")),
    _column("measured_at", "", "UTC"),
    _column(
        "held_by_block",
        "bytes by block",
        "`held_bytes` by the module that allocated them, as JSON",
        _part("memory", "held_by_block"),
        required=False,
    ),
    _column("peer", "", "the placement whose peak was the plan's budget", _part("plan", "budget_of"), required=False),
    _column("peer_peak_ratio", "×", "peak over the peer's", lambda row: row.peer_peak_ratio, required=False),
    _column(
        "peer_step_ratio",
        "×",
        "median of the ratios to the peer within each round",
        _peer_ratio("median"),
        required=False,
    ),
    _column("peer_step_ratio_low", "×", "lower end of its 95 % interval", _peer_ratio("low"), required=False),
    _column("peer_step_ratio_high", "×", "upper end of its 95 % interval", _peer_ratio("high"), required=False),
    _column(
        "predicted_ratio", "×", "`step_ratio` as the planner had it", _part("plan", "predicted_ratio"), required=False
    ),
    _column("compile_s", "s", "what `torch.compile` took before the first step, no part of it", required=False),
)
