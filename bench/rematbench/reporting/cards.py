"""What a card draws of one measurement: its step over time, what held the peak, the placement over the blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rematbench.records.measurement import Measurement, Memory, Structure
from rematbench.reporting.answers import block_text
from rematbench.reporting.strip import cells, drawn_brackets, held
from rematbench.traces.timeline import Timeline
from rematbench.units import SECONDS, format_bytes, unit_of

_KINDS = ("kept", "recomputed", "transient", "gradients", "optimizer")
"""In the order in which they are stacked."""


_PARTS = 80
"""How many blocks are told apart of what held the peak, the largest, and how many stretches of recomputation."""


def card(record: Measurement, structure: Structure | None) -> dict[str, Any]:
    """Return what only a record has; what it lacks is left out.

    Args:
        structure: of the record's model, from whichever row holds it.
    """
    found: dict[str, Any] = {}
    if record.timeline and record.timeline.time_s:
        found["timeline"] = _timeline(record.timeline)
    if record.memory and record.memory.at_peak:
        found["shares"] = _shares(record.memory)
    if structure:
        found["strip"] = _strip(record, structure)
    return found


def _timeline(timeline: Timeline) -> dict[str, Any]:
    """Return the timeline in whole microseconds, bytes to the byte; each value less the one before, to be short."""
    peak_bytes = max(timeline.live_bytes)
    factor_s, unit = unit_of(timeline.time_s[-1], SECONDS)
    return {
        "us": _steps([_us(time) for time in timeline.time_s]),
        "bytes": _steps(timeline.live_bytes),
        "axis": {"factor_us": 1e6 * factor_s, "title": f"{unit}, slowed by the meter"},
        "peak": {
            "at": timeline.live_bytes.index(peak_bytes),
            "text": f"peak {format_bytes(peak_bytes)}",
            "hover": [f"peak: {peak_bytes:,} bytes"],
        },
        "phases": [
            {"name": phase, "start": _us(start), "end": _us(end)} for phase, (start, end) in timeline.phases.items()
        ],
        "recomputed": [
            {"text": text, "start": _us(start), "end": _us(end)} for text, start, end in _recomputed(timeline)
        ],
    }


def _recomputed(timeline: Timeline) -> Iterator[tuple[str, float, float]]:
    """Yield what is recomputed when, neighbours in time as one stretch where there are too many to tell apart."""
    size = -(-len(timeline.recomputed) // _PARTS) or 1
    for start in range(0, len(timeline.recomputed), size):
        stretch = timeline.recomputed[start : start + size]
        first, last = stretch[0], stretch[-1]
        blocks = first[0] or "(model)" if len(stretch) == 1 else f"{first[0]} to {last[0]}"
        yield f"recomputing {blocks}", first[1], last[2]


def _steps(values: Sequence[int]) -> list[int]:
    return [value - before for before, value in zip((0, *values), values, strict=False)]


def _us(seconds: float) -> int:
    return round(1e6 * seconds)


def _shares(memory: Memory) -> dict[str, Any]:
    """Return what held the peak, in the order in which it is drawn, and what was there before the step."""
    told, rest = memory.at_peak[:_PARTS], memory.at_peak[_PARTS:]
    parts = [{"kind": share.kind, "bytes": share.bytes, "block": block_text(share.block)} for share in told]
    for kind in dict.fromkeys(share.kind for share in rest):
        others = [share.bytes for share in rest if share.kind == kind]
        parts.append({"kind": kind, "bytes": sum(others), "block": f"{len(others):,} blocks with less each"})
    parts.sort(key=lambda part: _KINDS.index(str(part["kind"])))
    totals: Counter[str] = Counter()
    for share in memory.at_peak:
        totals[share.kind] += share.bytes
    legend = [{"kind": kind, "text": f"{kind} {format_bytes(count)}"} for kind, count in totals.items()]
    if memory.static_bytes:
        legend.append({"kind": "static", "text": f"there before {format_bytes(memory.static_bytes)}"})
    return {"parts": parts, "static_bytes": memory.static_bytes, "legend": legend}


def _strip(record: Measurement, structure: Structure) -> dict[str, Any]:
    """Return the regions over the blocks, and what each block keeps, where that was told apart."""
    by_block = record.memory.held_by_block if record.memory else None
    kept = None if by_block is None else held(by_block, structure.blocks)
    placed, notes = drawn_brackets(record.regions, structure.blocks) if record.regions else ([], [])
    return {
        "regions": [{"first": one.first, "last": one.last, "depth": one.depth, "hover": [one.text]} for one in placed],
        "kept": kept and [sum(kept[at] for at in cell) for cell in cells(structure.blocks)],
        "notes": notes,
    }
