"""A planned row in words: budget, prediction and measurement, the price of a little more or less, and the bound."""

from __future__ import annotations

from collections.abc import Iterator

from rematbench.records.measurement import PlanFacts
from rematbench.records.run import Row
from rematbench.records.statistics import Interval
from rematbench.units import (
    format_bytes,
    format_flops,
    format_interval,
    format_number,
    format_percent,
    format_ratio,
    format_seconds,
)


def explanation(row: Row) -> list[str]:
    """Return what there is to say of a row that a planner made; nothing of any other."""
    facts = row.measurement.plan if row.measurement else None
    if facts is None or row.cells["peak_bytes"] is None:
        return []
    return [*_result(row, facts), *_around(facts), *_bounds(facts)]


def _result(row: Row, facts: PlanFacts) -> Iterator[str]:
    cells = row.cells
    regions = row.measurement.regions if row.measurement else None
    predicted = f" (predicted {format_bytes(facts.predicted_peak_bytes)})" if facts.predicted_peak_bytes else ""
    yield (
        f"{cells['model']} · {row.name}: {len(regions.regions) if regions else 0} regions; the step peaks at "
        f"{format_bytes(cells['peak_bytes'])} of a budget of {format_bytes(facts.budget_bytes)}{predicted}, "
        f"{format_bytes(cells['peak_bytes'] + cells['static_bytes'])} with what is there before it"
    )
    if facts.by_hand:
        yield f"it is `{facts.by_hand}`, placed by hand: no schedule of measured units fits"
    parts = []
    if facts.predicted_cost is not None:
        parts += [
            f"recomputes {_cost(facts, facts.predicted_cost)}, {_share(facts, facts.predicted_cost)} of a forward"
        ]
    if row.step_ratio:
        ratio = f" (predicted {format_ratio(facts.predicted_ratio)})" if facts.predicted_ratio else ""
        parts += [f"takes {_interval(row.step_ratio)} the plain step{ratio}"]
    if cells["recompute_flops"] is not None:
        parts += [f"{format_flops(cells['recompute_flops'])} recomputed as measured"]
    yield from ["; ".join(parts)] if parts else []
    if cells["peer_peak_ratio"] is not None:
        step = f", {_interval(row.target_step_ratio)} its step" if row.target_step_ratio else ""
        yield f"against {facts.budget_of}: {format_ratio(cells['peer_peak_ratio'])} its peak{step}"


def _interval(ratio: Interval) -> str:
    return format_interval(ratio.median, ratio.low, ratio.high)


def _around(facts: PlanFacts) -> Iterator[str]:
    """Say what the next points of the frontier would cost, for each MiB between them and this one."""
    if facts.predicted_peak_bytes is None or facts.predicted_cost is None:
        return
    for word, point in (("less", facts.below), ("more", facts.above)):
        if point is not None:
            mib_apart = abs(point.predicted_peak_bytes - facts.predicted_peak_bytes) / 2**20
            price = abs(point.predicted_cost - facts.predicted_cost) / max(mib_apart, 1e-9)
            each = f"{format_number(1e3 * price)} ms" if facts.minimise == "time" else format_flops(round(price))
            yield (
                f"next point with {word} memory: {format_bytes(point.predicted_peak_bytes)}, recomputing "
                f"{_cost(facts, point.predicted_cost)} ({each} for each MiB)"
            )


def _bounds(facts: PlanFacts) -> Iterator[str]:
    reached = f"plans reach down to {format_bytes(facts.least_peak_bytes)}"
    if facts.bound_peak_bytes is None:
        yield reached
        return
    yield f"{reached}; no schedule of these units goes below {format_bytes(facts.bound_peak_bytes)}"
    if facts.bound_cost is not None and facts.predicted_cost is not None:
        gap = facts.predicted_cost - facts.bound_cost
        yield (
            f"any schedule of these units within the budget recomputes at least {_cost(facts, facts.bound_cost)}: "
            f"this plan is within {_share(facts, gap)} of a forward of the best"
        )


def _cost(facts: PlanFacts, cost: float) -> str:
    return format_seconds(cost) if facts.minimise == "time" else format_flops(round(cost))


def _share(facts: PlanFacts, cost: float) -> str:
    return format_percent(cost / facts.plain_cost) if facts.plain_cost else "nothing"
