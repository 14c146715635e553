"""What the charts of the page draw, as plain values that JSON can hold; every text in it is ready to be shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rematbench.records.measurement import Status, Structure
from rematbench.records.run import Cost, Row
from rematbench.reporting import budgets
from rematbench.reporting.cards import card
from rematbench.reporting.fitting import by_importance
from rematbench.reporting.gathering import Model, Series
from rematbench.reporting.strip import cell_names, drawn_arcs
from rematbench.reporting.texts import clipped, texts_of
from rematbench.reporting.words import WORDS
from rematbench.units import BYTES, FLOPS, SECONDS, SIZES, Scale, format_bytes, format_interval, unit_of

_COST_AXES: dict[Cost, tuple[str, Scale]] = {"time": ("step time", SECONDS), "flops": ("recomputed", FLOPS)}


def figures(models: Sequence[Model], cards_bytes: float = math.inf) -> dict[str, Any]:
    """Return all that the page's script needs: models with their series, and rows by the order of the table.

    Args:
        cards_bytes: what the charts of single rows may take; the rows that matter most have them first.
    """
    drawn = _cards(models, cards_bytes)
    rows = [
        row | drawn[id(of)]
        for place, model in enumerate(models)
        for at, series in enumerate(model.series)
        for of, row in _rows(series, {"model": place, "series": at}, overlaid=len(model.series) > 1)
    ]
    return {
        "words": WORDS,
        "scales": {"bytes": _scale(BYTES), "seconds": _scale(SECONDS)},
        "sizes": SIZES,
        "models": [_model(model) for model in models],
        "rows": [{"id": number, **row} for number, row in enumerate(rows)],
    }


def _cards(models: Sequence[Model], room_bytes: float) -> dict[int, dict[str, Any]]:
    """Return what a card draws of each row, by the row's `id`; once there is no room, that it was left out."""
    structures = {
        id(row): structure
        for model in models
        for series in model.series
        for structure in [series.structure]
        for row in series.rows
    }
    found: dict[int, dict[str, Any]] = {}
    for row in by_importance(models):
        drawn = card(row.measurement, structures[id(row)]) if row.measurement and room_bytes > 0 else {}
        if drawn and room_bytes < math.inf:
            room_bytes -= len(json.dumps(drawn, separators=(",", ":"), ensure_ascii=False).encode())
        is_left_out = bool(row.measurement) and room_bytes <= 0
        found[id(row)] = {"left_out": True} if is_left_out else drawn
    return found


def _scale(scale: Scale) -> list[dict[str, Any]]:
    return [{"factor": factor, "unit": unit} for factor, unit in scale]


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "axes": {cost: _axes(model, cost) for cost in budgets.COSTS},
        "missing": budgets.undrawable([row for series in model.series for row in series.rows]),
        "series": [
            _series(series, series.structure or model.structure, overlaid=len(model.series) > 1)
            for series in model.series
        ],
    }


def _axes(model: Model, cost: Cost) -> dict[str, Any]:
    """Return the units of a chart's axes: those of its greatest values."""
    drawn = [
        (value, row.cells["peak_bytes"])
        for series in model.series
        for row in series.rows
        if row.fits_a_plot and (value := row.cost(cost)) is not None
    ]
    title, scale = _COST_AXES[cost]
    x_factor, x_unit = unit_of(max((value for value, _ in drawn), default=0), scale)
    y_factor, y_unit = unit_of(max((peak for _, peak in drawn), default=0), BYTES)
    return {
        "x": {"factor": x_factor, "title": f"{title} ({x_unit})"},
        "y": {"factor": y_factor, "title": f"peak above the step's start ({y_unit})"},
    }


def _series(series: Series, structure: Structure | None, overlaid: bool) -> dict[str, Any]:
    plain = series.plain
    named = [block or "(model)" for block in structure.blocks] if structure else []
    return {
        "label": series.label,
        "prefix": f"{series.label}: " if overlaid else "",
        "plain_bytes": plain.cells["peak_bytes"] if plain else None,
        "static_bytes": plain.cells["static_bytes"] if plain else None,
        "capacity_bytes": _capacity_bytes(series),
        "unanswerable": budgets.unanswerable(series),
        "least": budgets.least(series),
        "blocks": cell_names(structure.blocks) if structure else [],
        "skips": [
            {
                "source": drawn.source,
                "target": drawn.target,
                "hover": [
                    f"skip {named[arc.source] if arc.source >= 0 else 'the batch'} → {named[arc.target]}",
                    f"{format_bytes(arc.bytes)}, {'×'.join(map(str, arc.shape))}",
                ],
            }
            for drawn, arc in (drawn_arcs(structure) if structure else ())
        ],
    }


def _capacity_bytes(series: Series) -> int | None:
    environments = (row.measurement.environment for row in series.rows if row.measurement)
    return next((found.capacity_bytes for found in environments if found and found.capacity_bytes), None)


def _rows(series: Series, where: dict[str, int], overlaid: bool) -> Iterator[tuple[Row, dict[str, Any]]]:
    frontiers = {cost: series.frontier(cost) for cost in budgets.COSTS}
    for row in series.rows:
        cells, step, name = row.cells, row.step_s, row.name
        yield (
            row,
            {
                **where,
                "name": name,
                "title": f"{name} · {series.label}" if overlaid else name,
                "plain": row.is_plain,
                "out_of_memory": cells["status"] == Status.OUT_OF_MEMORY,
                "peak_bytes": cells["peak_bytes"] if row.fits_a_plot else None,
                "static_bytes": cells["static_bytes"],
                "cost": {cost: row.cost(cost) for cost in budgets.COSTS},
                "spread_s": {"low": step.low, "high": step.high} if step else None,
                "frontier": {cost: name in kept for cost, kept in frontiers.items()},
                "same_gradients": cells["gradients"] != "different",
                "same_buffers": cells["buffers"] == "equal",
                "judged": cells["buffers"] is not None,
                "choice": budgets.choice(row),
                "brief": budgets.brief(row),
                "training": budgets.training(row),
                "hover": [f"{name} · {cells['model']}", f"regions: {clipped(cells['regions'] or 'none')}"],
                "facts": list(facts(row)),
            },
        )


def facts(row: Row) -> Iterator[str]:
    """Yield what is known of a row beyond its name and regions, a line each."""
    cells, texts = row.cells, texts_of(row)
    if not row.is_ok:
        yield clipped(texts["message"])
    if texts["peak"]:
        ratio = f", {texts['peak_ratio']} of none's" if texts["peak_ratio"] else ""
        yield f"peak: {texts['peak']}{ratio}, in {cells['peak_phase']}"
        yield f"held after forward: {texts['held']}"
    if row.step_s:
        ends = cells["step_ratio"], cells["step_ratio_low"], cells["step_ratio_high"]
        ratio = f", {format_interval(*ends)} none's" if texts["ratio"] else ""
        yield f"step: {texts['step']}{ratio}"
    if texts["recompute"]:
        yield f"recomputed: {texts['recompute']}"
    if cells["gradients"] is not None:
        yield f"gradients: {cells['gradients']}, loss: {cells['loss']}, buffers: {cells['buffers']}"
