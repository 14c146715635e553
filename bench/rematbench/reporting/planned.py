"""A planned row in words: budget, prediction and measurement, the price of a little more or less, and the bound."""

from __future__ import annotations

from collections.abc import Iterator

from rematbench.records.columns import Row
from rematbench.records.measurement import PlanFacts, PlanPoint
from rematbench.records.statistics import Interval, step_ratio
from rematbench.units import format_bytes, format_flops, format_percent, format_ratio, format_seconds


def explanation(row: Row) -> list[str]:
    """Return what there is to say of a row that a planner made; nothing of any other."""
    facts, memory = row.case.plan, row.case.memory
    if facts is None or memory is None:
        return []
    return [*_result(row, facts, memory.peak_bytes, memory.static_bytes), *_around(facts), *_bounds(facts)]


def _result(row: Row, facts: PlanFacts, peak: int, static: int) -> Iterator[str]:
    count = len(row.case.regions.regions) if row.case.regions else 0
    yield (
        f"{row.case.model} · {row.case.placement}: {count} regions; the step peaks at {format_bytes(peak)} of a budget "
        f"of {format_bytes(facts.budget_bytes)} (predicted {format_bytes(facts.predicted_peak_bytes)}), "
        f"{format_bytes(peak + static)} with what is there before it"
    )
    cost = f"recomputes {_cost(facts, facts.predicted_cost)}, {_share(facts, facts.predicted_cost)} of a forward"
    timing, flops = row.case.timing, row.case.flops
    if timing and timing.plain_s:
        ratio = step_ratio(timing)
        predicted = f" (predicted {format_ratio(facts.predicted_ratio)})" if facts.predicted_ratio else ""
        cost += f"; takes {format_ratio(ratio.median)}{_ends(ratio)} the plain step{predicted}"
    if flops and flops.recompute is not None:
        cost += f"; {format_flops(flops.recompute)} recomputed as measured"
    yield cost
    if row.peer_peak_ratio is not None:
        against = f"against {facts.budget_of}: {format_ratio(row.peer_peak_ratio)} its peak"
        if (paired := row.peer_step_ratio) is not None:
            against += f", {format_ratio(paired.median)}{_ends(paired)} its step"
        yield against


def _ends(ratio: Interval) -> str:
    return f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.low is not None and ratio.high is not None else ""


def _around(facts: PlanFacts) -> Iterator[str]:
    for word, point in (("less", facts.below), ("more", facts.above)):
        if point is not None:
            yield f"next point with {word} memory: {_neighbour(facts, point)}"


def _neighbour(facts: PlanFacts, point: PlanPoint) -> str:
    bytes_apart = abs(point.predicted_peak_bytes - facts.predicted_peak_bytes)
    apart = abs(point.predicted_cost - facts.predicted_cost)
    price = apart / max(bytes_apart / 2**20, 1e-9)
    each = f"{1e3 * price:.3g} ms" if facts.minimise == "time" else format_flops(round(price))
    return (
        f"{format_bytes(point.predicted_peak_bytes)}, recomputing {_cost(facts, point.predicted_cost)} "
        f"({each} for each MiB)"
    )


def _bounds(facts: PlanFacts) -> Iterator[str]:
    yield (
        f"plans reach down to {format_bytes(facts.least_peak_bytes)}; no schedule of whole blocks goes below "
        f"{format_bytes(facts.bound_peak_bytes)}"
    )
    if facts.bound_cost is not None:
        gap = facts.predicted_cost - facts.bound_cost
        yield (
            f"any schedule of whole blocks within the budget recomputes at least {_cost(facts, facts.bound_cost)}: "
            f"this plan is within {_share(facts, gap)} of a forward of the best (parts of blocks are not covered)"
        )


def _cost(facts: PlanFacts, cost: float) -> str:
    return format_seconds(cost) if facts.minimise == "time" else format_flops(round(cost))


def _share(facts: PlanFacts, cost: float) -> str:
    return format_percent(cost / facts.plain_cost) if facts.plain_cost else "nothing"
