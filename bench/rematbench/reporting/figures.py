"""What the charts of the page draw, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rematbench.placement.placement import PLAIN
from rematbench.records.measurement import Measurement, Memory, Structure
from rematbench.records.run import Row
from rematbench.reporting.answers import block_text, kind_text
from rematbench.reporting.gathering import Model, Series
from rematbench.reporting.strip import arcs, brackets, held
from rematbench.traces.timeline import Timeline
from rematbench.units import format_bytes, format_flops, format_percent, format_ratio, format_seconds


def figures(models: Sequence[Model]) -> dict[str, Any]:
    """Return all that the page's script needs: models with their series, and rows by the order of the table."""
    return {
        "models": [_model(model) for model in models],
        "rows": [
            _row(row, series, place, at)
            for place, model in enumerate(models)
            for at, series in enumerate(model.series)
            for row in series.rows
        ],
    }


def _model(model: Model) -> dict[str, Any]:
    known = [found for series in model.series if (found := _structure(series))]
    return {
        "name": model.name,
        "series": [_series(series, _structure(series) or next(iter(known), None)) for series in model.series],
    }


def _structure(series: Series) -> Structure | None:
    records = (row.measurement for row in series.rows if row.measurement)
    return next((record.structure for record in records if record.structure), None)


def _series(series: Series, structure: Structure | None) -> dict[str, Any]:
    plain = series.plain
    return {
        "label": series.label,
        "plain_bytes": plain.cells["peak_bytes"] if plain else None,
        "static_bytes": plain.cells["static_bytes"] if plain else None,
        "capacity_bytes": _capacity_bytes(series),
        "blocks": [block or "(model)" for block in structure.blocks] if structure else [],
        "skips": [[arc.source, arc.target, arc.bytes, arc.shape] for arc in arcs(structure)] if structure else [],
    }


def _capacity_bytes(series: Series) -> int | None:
    environments = (row.measurement.environment for row in series.rows if row.measurement)
    return next((found.capacity_bytes for found in environments if found and found.capacity_bytes), None)


def _row(row: Row, series: Series, model: int, at: int) -> dict[str, Any]:
    cells, step, name = row.cells, row.step_s, row.cells["placement"]
    return {
        "model": model,
        "series": at,
        "name": name,
        "plain": name == PLAIN,
        "status": cells["status"],
        "peak": cells["peak_bytes"] if row.fits_a_plot else None,
        "static": cells["static_bytes"],
        "time": [step.median, step.low, step.high] if step else None,
        "flops": cells["recompute_flops"],
        "frontier": {"time": name in series.frontier("time"), "flops": name in series.frontier("flops")},
        "same": cells["gradients"] != "different",
        "buffers": cells["buffers"],
        "hover": list(hover_lines(row)),
        **(_detail(row.measurement, series) if row.measurement else {}),
    }


def hover_lines(row: Row) -> Iterable[str]:
    """Yield all that is known of a row, a line each."""
    cells = row.cells
    yield f"{cells['placement']} · {cells['model']}"
    yield f"regions: {cells['regions'] or 'none'}"
    if cells["status"] != "ok":
        yield f"{cells['status']}: {cells['message'] or ''}"
    if cells["peak_bytes"] is not None:
        ratio = f", {format_percent(cells['peak_ratio'])} of none's" if cells["peak_ratio"] is not None else ""
        yield f"peak: {format_bytes(cells['peak_bytes'])}{ratio}, in {cells['peak_phase']}"
        yield f"held after forward: {format_bytes(cells['held_bytes'])}"
    if row.step_s:
        yield f"step: {format_seconds(row.step_s.median)}{_interval(row)}"
    if cells["recompute_flops"] is not None:
        yield f"recomputed: {format_flops(cells['recompute_flops'])}"
    if cells["gradients"] is not None:
        yield f"gradients: {cells['gradients']}, loss: {cells['loss']}, buffers: {cells['buffers']}"


def _interval(row: Row) -> str:
    cells = row.cells
    if cells["step_ratio"] is None:
        return ""
    low, high = cells["step_ratio_low"], cells["step_ratio_high"]
    ends = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    return f", {format_ratio(cells['step_ratio'])}{ends} none's"


def _detail(record: Measurement, series: Series) -> dict[str, Any]:
    """Return what only a record has: the timeline, what held the peak, and the placement over the blocks."""
    found: dict[str, Any] = {}
    if record.timeline and record.timeline.time_s:
        found["timeline"] = _timeline(record.timeline)
    if record.memory:
        found["shares"] = _shares(record.memory)
    structure = _structure(series)
    if structure:
        placed = brackets(record.regions, structure.blocks) if record.regions else []
        found["regions"] = [[one.text, one.first, one.last, one.depth] for one in placed]
        if record.memory and record.memory.held_by_block is not None:
            found["held"] = held(record.memory.held_by_block, structure.blocks)
    return found


def _timeline(timeline: Timeline) -> dict[str, Any]:
    """Return the timeline in whole microseconds, bytes to the byte; each value less the one before, to be short."""
    return {
        "us": _steps([_us(time) for time in timeline.time_s]),
        "bytes": _steps(timeline.live_bytes),
        "phases": [[phase, _us(start), _us(end)] for phase, (start, end) in timeline.phases.items()],
        "recomputed": [[block or "(model)", _us(start), _us(end)] for block, start, end in timeline.recomputed],
    }


def _steps(values: Sequence[int]) -> list[int]:
    return [value - before for before, value in zip((0, *values), values, strict=False)]


def _us(seconds: float) -> int:
    return round(1e6 * seconds)


def _shares(memory: Memory) -> list[list[Any]]:
    return [[share.kind, kind_text(share.kind), block_text(share.block), share.bytes] for share in memory.at_peak]
