"""Measurements made up for the tests of this room: by hand with only what a test is about, or at random."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from hypothesis import strategies as st

from rematbench.placement.placement import Placement, Region
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.records.columns import MARGIN
from rematbench.records.measurement import (
    Environment,
    Equality,
    Flops,
    Measurement,
    Memory,
    Skip,
    Status,
    Structure,
    Timing,
)
from rematbench.records.run import Row, Run, rows_of
from rematbench.traces.timeline import Kind, Share, Timeline

MIB = 2**20
CPU = Environment(
    torch="2.13.0", python="3.11.7", device_name="A Processor", threads=2, allocator="", commit="0123abc+"
)


def measurement(placement: str = "none", **values: Any) -> Measurement:
    """Return a row of `toy` on the processor that holds nothing but what is given."""
    usual = {"suite": "mine", "model": "toy", "device": "cpu", "dtype": "float32", "status": "ok"}
    return Measurement.model_validate(usual | {"placement": placement, "measured_at": "2030-01-31"} | values)


def memory(peak: int, held: int = 0, **values: Any) -> Memory:
    """Return memory with the peak in backward."""
    usual = {"meter": "by hand", "static_bytes": 0, "phase_peak_bytes": {"forward": held, "backward": peak}}
    return Memory.model_validate(
        usual | {"peak_bytes": peak, "held_bytes": held, "passes_peak_bytes": (peak, peak)} | values
    )


def timing(ratio: float, step_s: float = 0.01, rounds: int = 9, *, paired: bool = True) -> Timing:
    """Return the same step in every round, `ratio` times the plain one."""
    return Timing(step_s=(ratio * step_s,) * rounds, plain_s=(step_s,) * rounds if paired else ())


def equality(gradients: str = "bitwise", **values: Any) -> Equality:
    """Return the verdict of a step that leaves everything else equal."""
    usual = {"gradients_max_abs_diff": 0.0, "gradients_worst": "", "loss": "equal", "buffers": "equal"}
    return Equality.model_validate(usual | {"gradients": gradients, "buffer": "", "rng_state": "equal"} | values)


def rows(*cases: Measurement) -> Sequence[Row]:
    """Return the measurements of a run as its rows."""
    return rows_of(cases)


def run_of(*cases: Measurement, margin: str | None = None) -> Run:
    """Return a run of the measurements; each row with the margin, as in a baseline."""
    own = {MARGIN: margin} if margin else {}
    return Run("run", [replace(row, cells={**row.cells, **own}) for row in rows(*cases)])


# At random

one_line = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=12)
counts = st.integers(0, 2**48)
seconds = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6).map(tuple)

placements = st.builds(
    Placement,
    name=one_line,
    regions=st.lists(
        st.builds(
            Region,
            path=st.sampled_from(("", "blocks[3]", "blocks[0:4]", "encoder.layers[2].mlp")),
            save=st.sampled_from([*SAVE_POLICIES]),
            preserve_rng=st.booleans(),
            batch_norm=st.sampled_from(("as-is", "once")),
        ),
        max_size=3,
    ).map(tuple),
)
memories = st.builds(
    Memory,
    meter=one_line,
    static_bytes=counts,
    peak_bytes=counts,
    held_bytes=counts,
    phase_peak_bytes=st.dictionaries(st.sampled_from(("forward", "backward", "optimizer")), counts, min_size=1),
    passes_peak_bytes=st.lists(counts, min_size=1, max_size=3).map(tuple),
    reserved_bytes=st.none() | counts,
    held_by_block=st.none() | st.dictionaries(one_line, counts, max_size=3),
    at_peak=st.lists(st.builds(Share, kind=st.sampled_from(get_args(Kind)), block=one_line, bytes=counts), max_size=3),
)
timelines = st.builds(
    Timeline,
    time_s=st.lists(st.floats(0, 1e3), max_size=3).map(tuple),
    live_bytes=st.lists(counts, max_size=3).map(tuple),
    phases=st.just({"forward": (0.0, 1.0)}),
)
structures = st.builds(
    Structure,
    blocks=st.lists(one_line, max_size=3).map(tuple),
    skips=st.lists(st.builds(Skip, source=one_line, target=one_line, bytes=counts, shape=st.just((2, 3))), max_size=2),
)
equalities = st.builds(
    Equality,
    gradients=st.sampled_from(("bitwise", "noise", "close", "different")),
    gradients_max_abs_diff=st.floats(0, allow_infinity=True),
    gradients_worst=one_line,
    loss=st.sampled_from(("equal", "different")),
    buffers=st.sampled_from(("equal", "different")),
    buffer=one_line,
    rng_state=st.sampled_from(("equal", "different")),
)
flops = st.builds(
    Flops,
    forward=counts,
    total=counts,
    recompute=st.none() | counts,
    uncounted_ops=st.lists(one_line, max_size=2).map(tuple),
)
timings = seconds.flatmap(
    lambda step_s: st.builds(
        Timing, step_s=st.just(step_s), plain_s=st.just(()) | st.just(tuple(2 * value for value in step_s))
    )
)


def measurements(texts: st.SearchStrategy[str] = one_line) -> st.SearchStrategy[Measurement]:
    """Draw any measurement there can be, each of its parts there or not; few names, so that rows meet."""
    return st.builds(
        Measurement,
        suite=texts,
        model=st.sampled_from(("toy", "other")),
        placement=st.sampled_from(("none", "each", "sqrt")),
        device=st.sampled_from(("cpu", "cuda:0")),
        dtype=st.sampled_from(("float32", "bfloat16")),
        status=st.sampled_from(Status),
        message=texts,
        regions=st.none() | placements,
        checkpointed_blocks=st.none() | st.integers(0, 99),
        memory=st.none() | memories,
        equality=st.none() | equalities,
        flops=st.none() | flops,
        timing=st.none() | timings,
        timeline=st.none() | timelines,
        structure=st.none() | structures,
        resident_bytes=st.none() | counts,
        environment=st.none() | st.just(CPU),
        measured_at=texts,
    )
