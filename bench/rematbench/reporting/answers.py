"""What a page says in words: what holds the memory at its peak, plain and lowest, and whether training is the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rematbench.records.measurement import Memory
from rematbench.reporting.gathering import Model, Series
from rematbench.reporting.sentences import failures, training
from rematbench.traces.timeline import LOSS
from rematbench.units import format_bytes, format_percent

KINDS = {
    "kept": "kept since forward for backward",
    "recomputed": "recomputed in backward",
    "gradients": "gradients of parameters",
    "transient": "transients, freed before their phase ends",
    "optimizer": "allocated by the optimizer",
}


def answers(model: Model) -> list[str]:
    """Return the sentences about a model, on its peak and on training; one that not all series share says whose."""
    said: dict[str, list[str]] = {}
    for series in model.series:
        for sentence in (*_peak(series), *_lowest(series), *training(series.rows), *failures(series.rows)):
            said.setdefault(sentence, []).append(series.label)
    return [
        sentence if len(labels) == len(model.series) else f"{', '.join(labels)}: {sentence}"
        for sentence, labels in said.items()
    ]


def block_text(block: str) -> str:
    """Return a module's path as a person reads it."""
    return {"": "the model itself", LOSS: "the loss and backward"}.get(block, block)


def _peak(series: Series) -> Iterator[str]:
    memory = series.plain.measurement.memory if series.plain and series.plain.measurement else None
    if memory is None or not memory.at_peak:
        return
    yield (
        f"Under none the step peaks {format_bytes(memory.peak_bytes)} above its start, in {memory.peak_phase}; "
        f"{' and '.join(_holders(memory))}. On top come {format_bytes(memory.static_bytes)} that are there before it: "
        "parameters, buffers, batch and optimizer state."
    )


def _lowest(series: Series) -> Iterator[str]:
    """Say what is left at the peak of the placement that has the lowest and leaves training alone."""
    rows = [row for row in series.rows if row.is_ok and not row.is_plain and row.cells["gradients"] != "different"]
    memories = {row.name: row.measurement.memory for row in rows if row.measurement and row.measurement.memory}
    least = min(memories, key=lambda name: memories[name].peak_bytes, default=None)
    if least is None or not memories[least].at_peak:
        return
    memory = memories[least]
    yield (
        f"The lowest peak, {format_bytes(memory.peak_bytes)} in {memory.peak_phase}, has {least}; "
        f"{' and '.join(_holders(memory))}. rematbench why says what lowers it further."
    )


def _holders(memory: Memory) -> Iterator[str]:
    """Name the two kinds that hold most at the peak, and where the first of them lies."""
    kinds: Counter[str] = Counter()
    for share in memory.at_peak:
        kinds[share.kind] += share.bytes
    total = sum(kinds.values()) or 1
    for place, (kind, count) in enumerate(kinds.most_common(2)):
        where = f", {_largest(memory, kind)}" if place == 0 else ""
        yield f"{format_percent(count / total)} of that is {KINDS[kind]}{where}"


def _largest(memory: Memory, kind: str) -> str:
    """Name the block with most of a kind, or how many have as much."""
    shares = [share for share in memory.at_peak if share.kind == kind]
    most = max(share.bytes for share in shares)
    first, *others = [share for share in shares if share.bytes == most]
    if others:
        return f"most in {len(others) + 1} blocks alike ({format_bytes(most)} in each of them)"
    return f"most in {block_text(first.block)} ({format_bytes(most)})"
