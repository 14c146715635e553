"""The ways to run one unit, each measured by itself: plainly, recomputed, by each save set, and with regions inside."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rematbench.errors import PlacementError
from rematbench.measuring.equality import compare
from rematbench.placement.placement import Placement, Region
from rematbench.placing.apply import applied
from rematbench.planner.profile import BEGINNING, Way
from rematbench.planner.unit_call import UnitCall, UnitError
from rematbench.planner.unit_meter import SavedTensors, UnitMeter, UnitTrace
from rematbench.solver.schedule import NOTHING, OFFLOAD
from rematbench.traces.replay import Reading


@dataclass(frozen=True, kw_only=True)
class MeasuredWay:
    """A way as measured, before its boundary tensors have numbers.

    Attributes:
        inputs, outputs: positions of those it saves, among the leaves of the unit's inputs and of its outputs.
    """

    way: Way
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """A unit's numbers, whichever tensors of the model it runs on; units that do the same have the same.

    Attributes:
        ways: how it can be run, the plain way first.
        forward_bytes, forward_s, forward_flops, rerun_s, rerun_flops, refusals: as in `UnitProfile`.
        cast_bytes: kept by autocast of what it has cast in a forward that saves nothing; None outside of autocast.
        gradient_bytes: what the gradient of each input that requires one holds, by its position among the leaves.
    """

    saved: SavedTensors
    ways: tuple[MeasuredWay, ...]
    gradient_bytes: Mapping[int, int]
    cast_bytes: int | None
    forward_bytes: int
    forward_s: float
    forward_flops: int
    rerun_s: float
    rerun_flops: int
    refusals: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Inside:
    """Regions over parts of a unit, their paths from its module on, and the seconds they recompute as predicted."""

    regions: tuple[Region, ...]
    recompute_s: float


def measure_unit(
    meter: UnitMeter,
    call: UnitCall,
    saves: Sequence[str],
    insides: Callable[[Way], Iterable[Inside]] = lambda _plain: (),
    *,
    trace: UnitTrace | None = None,
    timed: bool = True,
) -> UnitCosts:
    """Measure a unit plainly, recomputed, by each save set, and with each of some regions inside.

    What it cannot be run as is told in `refusals`; every way fails by itself.

    Args:
        trace: of its plain step, where there is one.
        timed: seconds are taken, which is most of the work; else they are 0.
    """
    trace = trace or meter.traced(call)
    meter.warm_up(call)
    saved = trace.saved
    unsaved = meter.read_unsaved(call)
    cast_bytes = unsaved.held_bytes if meter.in_autocast else None
    plain = _plain_way(meter, call, saved, "everything", casts=bool(cast_bytes))
    gradient_bytes = tuple(call.gradient_bytes)
    if saved.count and call.members:
        plain = replace(plain, way=replace(plain.way, rerun_peak_bytes=meter.read_rerun(call, saved)))
    refusals: dict[str, str] = {}
    rerun_flops = 0
    ways = [plain]
    if not saved.needing:
        refusals[NOTHING] = "none of its outputs requires a gradient"
    elif trace.writes_inputs:
        # A region may cover it that begins before it, and runs all of it again.
        refusals[BEGINNING] = "it changes its input in place"
        rerun_flops = trace.forward_flops
    else:
        with _noting(refusals, NOTHING):
            recomputed = meter.traced(call, call.saving(NOTHING))
            rerun_flops = max(0, recomputed.step_flops - trace.step_flops)
            _refuse_other_training(meter, call, trace, recomputed)
            del recomputed  # and the gradients that it has left behind
    for save in saves if not refusals else ():
        with _noting(refusals, save):
            if found := _selective_way(meter, call, save, trace, plain.way.saved_bytes, cast_bytes, timed=timed):
                ways.append(found)
    if saved.needing and call.members:
        ways += _ways_inside(meter, call, insides, plain, trace.step_flops, casts=bool(cast_bytes))
    forward_s, rerun_s = meter.seconds(call) if timed else (0.0, 0.0)
    return UnitCosts(
        saved=saved,
        ways=tuple(ways),
        cast_bytes=cast_bytes,
        gradient_bytes=dict(zip(call.needing, gradient_bytes, strict=False)),
        forward_bytes=unsaved.peak_bytes,
        forward_s=forward_s,
        forward_flops=trace.forward_flops,
        rerun_s=rerun_s,
        rerun_flops=rerun_flops,
        refusals=refusals,
    )


@contextmanager
def _noting(refusals: dict[str, str], save: str) -> Iterator[None]:
    """Note why a unit cannot be run so."""
    try:
        yield
    except UnitError as error:
        refusals.setdefault(save, str(error))
    else:
        return
    # A traceback holds the unit's tensors in a cycle, and their release would be part of what is metered next.
    gc.collect()


def _refuse_other_training(meter: UnitMeter, call: UnitCall, plain: UnitTrace, recomputed: UnitTrace) -> None:
    """Refuse a unit that leaves other gradients or buffers behind when recomputed, where running it twice does not.

    Raises:
        UnitError: it reads what it has written, as a running average or a codebook, or draws by itself.
    """
    found = compare(plain.outcome, plain.outcome, recomputed.outcome)
    if found.gradients == "bitwise" and found.buffers == "equal":
        return
    found = compare(plain.outcome, meter.traced(call).outcome, recomputed.outcome)
    if found.buffers == "different":
        raise UnitError(f"recomputing it changes its buffer {found.buffer} once more")
    if found.gradients == "different":
        raise UnitError(f"recomputing it changes the gradient of its {found.gradients_worst}")


def _ways_inside(
    meter: UnitMeter,
    call: UnitCall,
    insides: Callable[[Way], Iterable[Inside]],
    plain: MeasuredWay,
    plain_flops: int,
    *,
    casts: bool,
) -> Iterator[MeasuredWay]:
    """Measure the unit with regions inside; what cannot be run so, or needs no less than the plain way, is left out."""
    (module,) = call.members
    for number, inside in enumerate(insides(plain.way), start=1):
        name = f"inside {number}"
        try:
            with applied(module, Placement(name=name, regions=inside.regions)):
                trace = meter.traced(call)
                found = _plain_way(meter, call, trace.saved, name, casts=casts)
        except (UnitError, PlacementError):
            gc.collect()
            continue
        way = replace(
            found.way,
            recompute_s=inside.recompute_s,
            recompute_flops=max(0, trace.step_flops - plain_flops),
            inside=inside.regions,
        )
        before = plain.way
        if way.saved_bytes < before.saved_bytes or way.backward_peak_bytes < before.backward_peak_bytes:
            yield replace(found, way=way)


def _plain_way(meter: UnitMeter, call: UnitCall, saved: SavedTensors, name: str, *, casts: bool) -> MeasuredWay:
    """Measure the unit as it is; with `casts` also what autocast keeps of it beside what it saves itself."""
    lingering = meter.read(call, casts=True).held_bytes if casts else 0
    reading = meter.read(call)
    way = Way(
        save=name,
        # What is saved of the outputs is a boundary tensor's to count.
        saved_bytes=reading.held_bytes - meter.end_bytes - saved.new_saved_bytes,
        forward_peak_bytes=reading.phase_peak_bytes["forward"] - meter.end_bytes,
        backward_peak_bytes=_backward_peak(reading, saved),
        lingering_bytes=lingering - reading.held_bytes if casts else 0,
    )
    return MeasuredWay(way=way, inputs=saved.inputs, outputs=saved.outputs)


def _selective_way(
    meter: UnitMeter,
    call: UnitCall,
    save: str,
    plain: UnitTrace,
    plain_saved_bytes: int,
    cast_bytes: int | None,
    *,
    timed: bool,
) -> MeasuredWay | None:
    """Measure the unit by a save set; None where that saves no less than the plain way, which recomputes nothing."""
    checkpointed = call.saving(save)
    # A policy's cache holds tensors that no hook sees. Whether the outputs are among them shows in that they are there
    # when nobody else holds them.
    trace, reading = meter.traced(call, checkpointed), meter.read(call, checkpointed)
    saved = plain.saved
    whole = bool(saved.new_bytes) and trace.keeps_outputs
    # Offloading recomputes nothing, so that it keeps no random state.
    region_bytes = 0 if save == OFFLOAD else meter.region_bytes
    saved_bytes = reading.held_bytes - meter.end_bytes - region_bytes - (saved.new_bytes if whole else 0)
    if saved_bytes >= plain_saved_bytes:
        return None
    way = Way(
        save=save,
        saved_bytes=saved_bytes,
        forward_peak_bytes=reading.phase_peak_bytes["forward"] - meter.end_bytes,
        backward_peak_bytes=_backward_peak(reading, saved),
        lingering_bytes=cast_bytes or 0,
        recompute_s=meter.extra_s(call, checkpointed) if timed else 0.0,
        recompute_flops=max(0, trace.step_flops - plain.step_flops),
    )
    return MeasuredWay(way=way, outputs=saved.made if whole else ())


def _backward_peak(reading: Reading, saved: SavedTensors) -> int:
    """Return the peak above what is there when backward begins: what is held, and the gradients of the outputs."""
    return max(0, reading.phase_peak_bytes["backward"] - reading.held_bytes - saved.gradient_bytes)
