"""The one table of columns: name, unit, meaning and value. The CSV, the README's reference and the tests read it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rematbench.errors import FigureError
from rematbench.reading import BEYOND, parse_json
from rematbench.records.measurement import Measurement, Timing
from rematbench.records.statistics import step_iqr_s, step_median_s, step_ratio
from rematbench.units import format_sizes

Cells = Mapping[str, Any]
"""A measurement by column: numbers are numbers, an absent one is None. A row of a baseline may have `MARGIN` too."""

MARGIN = "margin"
"""A further column that a baseline may have: the growth of memory a row is allowed, as in `2%`."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a column is read from: a measurement, and the two of its run that its ratios are to.

    Attributes:
        plain: of the same model, device and dtype; None where the run has none.
        target: the placement at whose measured peak this one was planned, if it was.
    """

    measurement: Measurement
    plain: Measurement | None = None
    target: Measurement | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of `results.csv`.

    Attributes:
        unit: of a number; a column with one is read back as a number, whole for what is counted.
        value: answers None where the number is absent, and the cell stays empty.
        required: a file without it is none of ours; one that is not came later, and is empty in older files.
        signed: whether the number may be below zero, as what has become less than it was.
    """

    name: str
    unit: str
    meaning: str
    value: Callable[[Context], Any]
    required: bool = True
    signed: bool = False

    def parse(self, cell: str) -> Any:
        """Read a cell back; an empty one is None.

        Raises:
            FigureError: it is a number that nothing measured can be.
            ValueError: it is not of the column's kind.
        """
        value = _KINDS[self.unit].parse(cell) if cell else None
        if isinstance(value, int | float) and value < 0 and not self.signed:
            raise FigureError(cell)
        return value

    @property
    def dtype(self) -> str:
        """What pandas calls the column's type; whole numbers are of the one that can be absent."""
        return _KINDS[self.unit].dtype


class _Kind(NamedTuple):
    """How the cells of a unit are read, and what they are in a data frame."""

    parse: Callable[[str], Any]
    dtype: str


def shielded(text: str) -> str:
    """Write a text as a cell that no spreadsheet takes for a formula: a quote stands before one that begins like it.

    One that begins with quotes and then like a formula gets one more, so that `unshielded` reads every text back.
    """
    return f"'{text}" if _LIKE_A_FORMULA.match(text) else text


def unshielded(cell: str) -> str:
    """Read a text back from its cell; one that older versions wrote without a quote is as it is."""
    return cell[1:] if cell.startswith("'") and _LIKE_A_FORMULA.match(cell) else cell


_LIKE_A_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def _counted(cell: str) -> int:
    """Read a whole number.

    Raises:
        FigureError: it is one that nothing can be counted to.
        ValueError: it is none.
    """
    if not _WHOLE.fullmatch(cell):
        if cell.lower().lstrip("+-") in ("inf", "infinity", "nan"):
            raise FigureError(cell)
        raise ValueError(cell)
    if len(cell) > _DIGITS or not -BEYOND < int(cell) < BEYOND:
        raise FigureError(f"of {len(cell)} digits" if len(cell) > _DIGITS else cell)
    return int(cell)


def _measured(cell: str) -> float:
    """Read a number; errors as of `_counted`."""
    number = float(cell)
    if not math.isfinite(number):
        raise FigureError(cell)
    return number


def _by_block(cell: str) -> dict[str, int]:
    """Read whole numbers by name; errors as of `_counted`."""
    found = parse_json(cell)
    if not isinstance(found, dict) or not all(type(size) is int for size in found.values()):
        raise ValueError(cell)
    return {block: _counted(str(size)) for block, size in found.items()}


_WHOLE = re.compile("-?[0-9]+")
_DIGITS = 20

_TEXT, _COUNT, _NUMBER = _Kind(unshielded, "string"), _Kind(_counted, "Int64"), _Kind(_measured, "float64")
_KINDS = {
    "": _TEXT,
    **dict.fromkeys(("bytes", "FLOP", "blocks", "rounds", "steps", "threads"), _COUNT),
    **dict.fromkeys(("s", "×"), _NUMBER),
    "difference": _Kind(float, "float64"),  # of gradients that are not finite it may be infinite
    "bytes by block": _Kind(_by_block, "object"),
    "yes/no": _Kind({"true": True, "false": False}.__getitem__, "boolean"),
}


def cells_of(measurements: Iterable[Measurement]) -> list[Cells]:
    """Derive the cells of a run's measurements, in their order: the one place where a column's value is worked out."""
    every = list(measurements)
    by_key = {measurement.key: measurement for measurement in every}

    def cells(measurement: Measurement) -> Cells:
        target = by_key.get(measurement.target_key) if measurement.target_key else None
        context = Context(measurement=measurement, plain=by_key.get(measurement.plain_key), target=target)
        return {column.name: column.value(context) for column in COLUMNS}

    return [cells(measurement) for measurement in every]


def _recorded(path: str) -> Callable[[Context], Any]:
    """Read a field of the measurement, as `memory.peak_bytes`; None where a part of it is absent as a whole."""

    def value(context: Context) -> Any:
        found: Any = context.measurement
        for name in path.split("."):
            found = None if found is None else getattr(found, name)
        return found

    return value


def _timed(statistic: Callable[[Timing], Any]) -> Callable[[Context], Any]:
    return lambda context: statistic(context.measurement.timing) if context.measurement.timing else None


def _peak_over(other: Literal["plain", "target"]) -> Callable[[Context], float | None]:
    """Divide the peak by another's; None where one of them has none, or the other's is nothing."""

    def value(context: Context) -> float | None:
        base: Measurement | None = getattr(context, other)
        if context.measurement.memory is None or base is None or not base.memory or not base.memory.peak_bytes:
            return None
        return context.measurement.memory.peak_bytes / base.memory.peak_bytes

    return value


def _step_over_plain(end: Literal["median", "low", "high"]) -> Callable[[Context], float | None]:
    """Read the paired ratio, where the plain step was timed in the same rounds."""

    def value(context: Context) -> float | None:
        timing = context.measurement.timing
        return getattr(step_ratio(timing), end) if timing and timing.plain_s else None

    return value


def _step_over_target(end: Literal["median", "low", "high"]) -> Callable[[Context], float | None]:
    """Read the ratio to the target, paired too.

    That two placements ran in the same rounds is known by their plain step: its samples are the same numbers.
    """

    def value(context: Context) -> float | None:
        own, other = context.measurement.timing, context.target.timing if context.target else None
        if own is None or other is None or not own.plain_s or own.plain_s != other.plain_s:
            return None
        return getattr(step_ratio(Timing(step_s=own.step_s, plain_s=other.step_s)), end)

    return value


def _uncounted(context: Context) -> str | None:
    flops = context.measurement.flops
    return " ".join(flops.uncounted_ops) if flops else None


def _regions(context: Context) -> str | None:
    regions = context.measurement.regions
    return str(regions) if regions else None


def _software(context: Context) -> str | None:
    environment = context.measurement.environment
    return (environment.software or None) if environment else None


def _allocator(context: Context) -> str | None:
    """Read the allocator's settings where bytes depend on them; on a processor none do."""
    environment = context.measurement.environment
    return (environment.allocator or None) if environment and environment.software else None


def _checked_at(context: Context) -> str | None:
    facts = context.measurement.prediction
    return format_sizes(facts.checked_at) if facts and facts.checked_at else None


def _column(
    name: str,
    unit: str,
    meaning: str,
    value: Callable[[Context], Any] | str | None = None,
    *,
    required: bool = True,
    signed: bool = False,
) -> Column:
    """Declare a column; its value is a function, the path of a field of the measurement, or the field of its name."""
    read = value if callable(value) else _recorded(value or name)
    return Column(name=name, unit=unit, meaning=meaning, value=read, required=required, signed=signed)


def csv_lines(rows: Iterable[Iterable[str]]) -> str:
    """Write rows of cells as CSV with `\\n` at the end of each, every cell as the reader gives it back."""
    lines: list[str] = []
    for row in rows:
        line = io.StringIO()
        # Told that lines end in both, the writer quotes a cell with either; a bare \r would be read as a row's end.
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n"))
    return "".join(f"{line}\n" for line in lines)


def cell_text(value: object) -> str:
    """Write a value as a cell; nothing for None, never 0. A text is `shielded`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, str):
        return shielded(value)
    return "" if value is None else str(value)


COLUMNS = (
    _column("suite", "", "the suite that was run"),
    _column("model", "", "the model, as the suite names it"),
    _column("placement", "", "the placement, as the suite names it"),
    _column("device", "", "`cpu`, or as `cuda:N` an accelerator"),
    _column("dtype", "", "of the parameters and the batch"),
    _column("status", "", "`ok`, `predicted`, `out_of_memory`, `error`, `timeout` or `killed`"),
    _column("message", "", "why the status is not ok, or what is worth knowing about the row"),
    _column("regions", "", "what the placement came to on this model", _regions),
    _column("checkpointed_blocks", "blocks", "modules that some region recomputes"),
    _column("static_bytes", "bytes", "parameters, buffers, batch and optimizer state", "memory.static_bytes"),
    _column("peak_bytes", "bytes", "greatest allocation above the start of the step", "memory.peak_bytes"),
    _column("peak_ratio", "×", "peak over the peak of `none`", _peak_over("plain")),
    _column(
        "held_bytes", "bytes", "allocated at the end of forward, above the start", "memory.held_bytes", signed=True
    ),
    _column("peak_phase", "", "phase the peak falls in; recomputation is in `backward`", "memory.peak_phase"),
    _column("repeatable", "yes/no", "whether both memory passes found the same peak", "memory.repeatable"),
    _column("step_median_s", "s", "median time of a step", _timed(step_median_s)),
    _column("step_iqr_s", "s", "interquartile range of the step time", _timed(step_iqr_s)),
    _column("step_ratio", "×", "median of the ratios to `none` within each round", _step_over_plain("median")),
    _column("step_ratio_low", "×", "lower end of its 95 % bootstrap interval", _step_over_plain("low")),
    _column("step_ratio_high", "×", "upper end of its 95 % bootstrap interval", _step_over_plain("high")),
    _column("rounds", "rounds", "timed, each running every placement once", _timed(lambda timing: len(timing.step_s))),
    _column("forward_flops", "FLOP", "floating-point operations of the forward pass", "flops.forward"),
    _column("recompute_flops", "FLOP", "what the placement adds to the plain step's", "flops.recompute", signed=True),
    _column("uncounted_ops", "", "operators on floats without a FLOP formula", _uncounted),
    _column("gradients", "", "`bitwise`, `noise`, `close` or `different` from `none`", "equality.gradients"),
    _column("gradients_max_abs_diff", "difference", "greatest, absolute", "equality.gradients_max_abs_diff"),
    _column("gradients_worst", "", "the parameter that has it", "equality.gradients_worst"),
    _column("loss", "", "`equal` or `different`, bit for bit", "equality.loss"),
    _column("buffers", "", "`equal` or `different` after the step, bit for bit", "equality.buffers"),
    _column("rng_state", "", "`equal` or `different` after the step", "equality.rng_state"),
    _column("resident_bytes", "bytes", "growth of the resident set over a step (`--resident`)", signed=True),
    _column("reserved_bytes", "bytes", "taken from the GPU by its caching allocator, at most", "memory.reserved_bytes"),
    _column("memory_meter", "", "how the bytes were measured", "memory.meter"),
    _column("torch", "", "version", "environment.torch"),
    _column("python", "", "version", "environment.python"),
    _column("device_name", "", "processor or GPU", "environment.device_name"),
    _column("threads", "threads", "intra-op threads of torch", "environment.threads"),
    _column("commit", "", "of the model's repository, `+` when it has changes", "environment.commit"),
    _column("measured_at", "", "UTC"),
    _column(
        "held_by_block",
        "bytes by block",
        "`held_bytes` by the module that allocated them, as JSON",
        "memory.held_by_block",
        required=False,
    ),
    _column("peer", "", "the placement whose peak was the plan's budget", "plan.budget_of", required=False),
    _column("peer_peak_ratio", "×", "peak over the peer's", _peak_over("target"), required=False),
    _column(
        "peer_step_ratio",
        "×",
        "median of the ratios to the peer within each round",
        _step_over_target("median"),
        required=False,
    ),
    _column("peer_step_ratio_low", "×", "lower end of its 95 % interval", _step_over_target("low"), required=False),
    _column("peer_step_ratio_high", "×", "upper end of its 95 % interval", _step_over_target("high"), required=False),
    _column("predicted_ratio", "×", "`step_ratio` as the planner had it", "plan.predicted_ratio", required=False),
    _column("compile_s", "s", "what `torch.compile` took before the first step, no part of it", required=False),
    _column(
        "allocated_bytes",
        "bytes",
        "the peak in whole blocks of the GPU's caching allocator",
        "memory.allocated_bytes",
        required=False,
    ),
    _column(
        "active_bytes",
        "bytes",
        "the same with freed blocks that another stream may use",
        "memory.active_bytes",
        required=False,
    ),
    _column(
        "device_used_bytes",
        "bytes",
        "in use on the GPU after the step by all processes, as its driver says",
        "memory.device_used_bytes",
        required=False,
    ),
    _column(
        "plan_reserved_bytes",
        "bytes",
        "reserved by a planned step that was allowed no more of the GPU than its budget",
        "plan.reserved_bytes",
        required=False,
    ),
    _column("device_software", "", "the GPU's toolkit, libraries, driver and precision", _software, required=False),
    _column("device_allocator", "", "settings of the GPU's allocator", _allocator, required=False),
    _column(
        "predicted_from", "steps", "small ones that were run for a predicted row", "prediction.runs", required=False
    ),
    _column("checked_at", "", "sizes of the one that the prediction was held against", _checked_at, required=False),
    _column(
        "peak_low_bytes", "bytes", "the peak of a predicted row is not below", "prediction.low_bytes", required=False
    ),
    _column("peak_high_bytes", "bytes", "and not above", "prediction.high_bytes", required=False),
)
