"""Set placements of one run side by side, or runs; what cannot be compared is said beneath."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rematbench.errors import RematbenchError, unknown
from rematbench.records.frontier import dominated, frontier
from rematbench.records.run import Key, Row, Run
from rematbench.reporting.fitting import evenly
from rematbench.reporting.sheet import Sheet
from rematbench.reporting.texts import TEXTS, heading_of
from rematbench.units import format_number, format_ratio

SORTS: Mapping[str, Callable[[Row], float]] = {
    "peak": lambda row: -row.cells["peak_bytes"],
    "time": lambda row: row.cost("time") or 0.0,
}


def frontier_sheets(run: Run, sort: str = "peak") -> Iterator[Sheet]:
    """Yield one sheet for each model, device and dtype: the placements no other is better than in both.

    Raises:
        RematbenchError: there is no such order.
    """
    if sort not in SORTS:
        raise RematbenchError(f"--sort: {unknown('order', sort, SORTS)}")

    def series(row: Row) -> tuple[str, str, str]:
        return row.cells["model"], row.cells["device"], row.cells["dtype"]

    for (model, device, dtype), rows in groupby(sorted(run.rows.values(), key=series), key=series):
        yield frontier_sheet(f"{model} on {device}, {dtype}", list(rows), sort)


def frontier_sheet(title: str, rows: Sequence[Row], sort: str = "peak", most: int | None = None) -> Sheet:
    """Return the frontier of one model; the plain step is shown even where noise puts another before it.

    Args:
        most: how many of its placements to show, evenly along it; None for all.
    """
    points = [row for row in rows if row.fits_a_plot and row.step_s]
    kept, beaten, prices = frontier(rows), dominated(rows), _prices(rows)
    drawn = {row.name for row in points}
    shown = sorted((row for row in points if row.name in kept or row.is_plain), key=SORTS[sort])
    names = ("placement", "peak_mib", "saved", "step", "ratio", "ms per MiB saved", "gradients", "buffers")
    texts = TEXTS | {"ms per MiB saved": lambda row: prices.get(row.name, "")}
    few = evenly(shown, most or len(shown))
    lines = tuple(tuple(texts[name](row) for name in names) for row in few)
    left_out = {
        "dominated": [row.name for row in points if row.name in beaten and not row.is_plain],
        "without peak or time": [row.name for row in rows if row.is_ok and row.name not in drawn],
        "failed": [f"{row.name} ({row.cells['status']})" for row in rows if not row.is_ok],
    }
    notes = tuple(_listed(what, names) for what, names in left_out.items() if names)
    if len(few) < len(shown):
        every = f"{len(few)} of the {len(shown):,} on the frontier are shown; `rematbench compare` lists all of them"
        notes = (every, *notes)
    return Sheet(title=title, header=tuple(map(heading_of, names)), rows=lines, notes=notes)


def _prices(rows: Sequence[Row]) -> dict[str, str]:
    """Price each placement of the frontier against the next faster one, in ms for each MiB saved."""
    kept = frontier(rows)
    ordered = sorted((row for row in rows if row.name in kept), key=SORTS["time"])
    return {
        smaller.name: format_number(1000 * (SORTS["time"](smaller) - SORTS["time"](faster)) / saved_mib)
        for faster, smaller in pairwise(ordered)
        if (saved_mib := (faster.cells["peak_bytes"] - smaller.cells["peak_bytes"]) / 2**20)
    }


def _listed(what: str, names: Sequence[str]) -> str:
    """Name what is folded away, the first few of many."""
    few = [*names[:8], "…"] if len(names) > 8 else names
    return f"{what} ({len(names)}): {', '.join(few)}" if names else ""


def by_sheet(run: Run, column: str) -> Sheet:
    """Set the devices, or the dtypes, of one run side by side: peak and paired ratio of each placement under each.

    Raises:
        RematbenchError: the column cannot stand across.
    """
    if column not in ("device", "dtype"):
        raise RematbenchError(f"--by: {unknown('column', column, ('device', 'dtype'))}")
    other = "dtype" if column == "device" else "device"
    rows = run.rows.values()
    values = sorted({row.cells[column] for row in rows})
    found = {(row.cells["model"], row.name, row.cells[other], row.cells[column]): row for row in rows}

    def pair(row: Row | None) -> tuple[str, ...]:
        if row is None or row.cells["peak_bytes"] is None:
            return "", str(row.cells["status"]) if row else ""
        return TEXTS["peak_mib"](row), TEXTS["ratio"](row)

    header = ("model", "placement", other, *(f"{value} {what}" for value in values for what in ("peak MiB", "ratio")))
    lines = tuple(
        (*name, *(cell for value in values for cell in pair(found.get((*name, value)))))
        for name in dict.fromkeys(key[:3] for key in found)
    )
    return Sheet(title=f"by {column}", header=header, rows=lines)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row in two runs; a ratio is new over old, None where a side has none.

    Attributes:
        mark: `better`, `worse` or `mixed`, of peak, recomputation and time; `training` where gradients, loss,
            buffers or random state have another verdict; `new`, `gone`; or empty for nothing beyond noise.
    """

    key: Key
    mark: str
    old: Row | None
    new: Row | None
    peak: float | None = None
    time: float | None = None


def changes(old: Run, new: Run) -> list[Change]:
    """Compare every row of either run: bytes exactly, time by whether the intervals of the paired ratios part."""
    keys = dict.fromkeys([*old.rows, *new.rows])
    return [_change(key, old.rows.get(key), new.rows.get(key)) for key in keys]


def _change(key: Key, old: Row | None, new: Row | None) -> Change:
    if old is None or new is None:
        return Change(key=key, mark="new" if old is None else "gone", old=old, new=new)
    if old.is_ok != new.is_ok:
        return Change(key=key, mark="worse" if old.is_ok else "better", old=old, new=new)
    before, now = old.cells, new.cells

    def ratio(column: str) -> float | None:
        return now[column] / before[column] if before[column] and now[column] else None

    def sign(column: str) -> int:
        left, right = before[column], now[column]
        return 0 if left is None or right is None else (right > left) - (right < left)

    # without intervals on both sides, and with intervals that have something in common, a time is within noise
    ends = (before["step_ratio_low"], before["step_ratio_high"], now["step_ratio_low"], now["step_ratio_high"])
    apart = None not in ends and (ends[1] < ends[2] or ends[3] < ends[0])
    signs = {sign("peak_bytes"), sign("recompute_flops"), sign("step_ratio") if apart else 0} - {0}
    mark = {(): "", (-1,): "better", (1,): "worse"}.get(tuple(signs), "mixed")
    if any(before[column] != now[column] for column in ("gradients", "loss", "buffers", "rng_state")):
        mark = "training"
    return Change(key=key, mark=mark, old=old, new=new, peak=ratio("peak_bytes"), time=ratio("step_ratio"))


def change_sheet(old: Run, new: Run) -> Sheet:
    """Set two runs side by side, the first the reference; what did not change is folded into one line."""
    every = changes(old, new)
    still = [f"{change.key[0]}/{change.key[1]}" for change in every if not change.mark]
    means = (_times(_mean([change.peak for change in every])), _times(_mean([change.time for change in every])))
    rows = [_change_line(change) for change in every if change.mark]
    rows.append(("geometric mean", "", "", "", means[0], "", means[1]))
    header = ("model", "placement", "change", "peak MiB", "peak", "ratio", "time")
    notes = [_listed("within noise", still), *_environments(old, new)]
    title = f"{old.source} → {new.source}"
    return Sheet(title=title, header=header, rows=tuple(rows), notes=tuple(note for note in notes if note))


def _change_line(change: Change) -> tuple[str, ...]:
    def arrow(name: str) -> str:
        ends = [TEXTS[name](row) if row else "" for row in (change.old, change.new)]
        return ends[0] if ends[0] == ends[1] else " → ".join(ends).strip()

    model, placement, *_ = change.key
    return (model, placement, change.mark, arrow("peak_mib"), _times(change.peak), arrow("ratio"), _times(change.time))


def _times(ratio: float | None) -> str:
    return format_ratio(ratio, places=3) if ratio is not None else ""


def _mean(ratios: Sequence[float | None]) -> float | None:
    """Return the geometric mean of the ratios there are: of a halving and a doubling it is 1, and with a 0 it is 0."""
    there = [ratio for ratio in ratios if ratio is not None]
    if not all(there):
        return 0.0
    return math.exp(sum(map(math.log, there)) / len(there)) if there else None


def _environments(old: Run, new: Run) -> Iterator[str]:
    """Say what the rows of the two runs were measured under, where it differs."""
    for column in ("torch", "python", "device_name", "threads"):
        left, right = (
            ", ".join(sorted({str(row.cells[column]) for row in run.rows.values() if row.cells[column] is not None}))
            for run in (old, new)
        )
        if left != right:
            yield f"different {column}: {left} → {right}; times are compared as ratios to `none` only"
