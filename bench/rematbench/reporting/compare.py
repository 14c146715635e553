"""Set placements of one run side by side, or runs; what cannot be compared is said beneath."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rematbench.errors import RematbenchError, unknown
from rematbench.placement.placement import PLAIN
from rematbench.records.frontier import not_beaten
from rematbench.records.measurement import Status
from rematbench.records.run import Cells, Key, Run
from rematbench.records.step_time import step_time
from rematbench.reporting.sheet import Sheet
from rematbench.units import format_mib, format_percent, format_ratio, format_seconds


@dataclass(frozen=True, kw_only=True)
class Point:
    """A placement as the frontier sees it; `step_s` is the plain step's median times the paired ratio, where known."""

    cells: Cells
    peak_bytes: int
    step_s: float


SORTS: Mapping[str, Callable[[Point], float]] = {
    "peak": lambda point: -point.peak_bytes,
    "time": lambda point: point.step_s,
}


def frontier_sheets(run: Run, sort: str = "peak") -> Iterator[Sheet]:
    """Yield one sheet for each model, device and dtype: the placements no other is better than in both.

    Raises:
        RematbenchError: there is no such order.
    """
    if sort not in SORTS:
        raise RematbenchError(f"--sort: {unknown('order', sort, SORTS)}")
    ordered = sorted(run.rows.values(), key=_group)
    for (model, device, dtype), group in groupby(ordered, key=_group):
        rows = list(group)
        yield _frontier_sheet(f"{model} on {device}, {dtype}", rows, SORTS[sort])


def _group(cells: Cells) -> tuple[str, str, str]:
    return cells["model"], cells["device"], cells["dtype"]


def _frontier_sheet(title: str, rows: Sequence[Cells], order: Callable[[Point], float]) -> Sheet:
    """Draw the frontier; the plain step is shown even where noise puts another before it."""
    points = {cells["placement"]: point for cells in rows if (point := _point(cells, rows)) is not None}
    kept = not_beaten({name: (point.peak_bytes, point.step_s) for name, point in points.items()})
    prices = _prices([points[name] for name in kept])
    shown = sorted((point for name, point in points.items() if name in kept or name == PLAIN), key=order)
    lines = tuple(_frontier_line(point, prices.get(point.cells["placement"], "")) for point in shown)
    header = ("placement", "peak MiB", "saved", "step", "ratio", "ms per MiB saved", "gradients", "buffers")
    return Sheet(title=title, header=header, rows=lines, notes=tuple(_left_out(rows, points, kept)))


def _prices(frontier: Sequence[Point]) -> dict[str, str]:
    """Price each placement of the frontier against the next faster one."""
    ordered = sorted(frontier, key=lambda point: point.step_s)
    return {smaller.cells["placement"]: _price(faster, smaller) for faster, smaller in pairwise(ordered)}


def _left_out(rows: Sequence[Cells], points: Mapping[str, Point], kept: set[str]) -> Iterator[str]:
    """Say in a line each what the frontier does not show."""
    failed = [f"{row['placement']} ({row['status']})" for row in rows if row["status"] != Status.OK]
    ok = [row["placement"] for row in rows if row["status"] == Status.OK]
    groups = {
        "dominated": [name for name in points if name not in kept and name != PLAIN],
        "without peak or time": [name for name in ok if name not in points],
        "failed": failed,
    }
    yield from (_listed(what, names) for what, names in groups.items() if names)


def _listed(what: str, names: Sequence[str]) -> str:
    """Name what is folded away, the first few of many."""
    few = [*names[:8], "…"] if len(names) > 8 else names
    return f"{what} ({len(names)}): {', '.join(few)}" if names else ""


def _point(cells: Cells, rows: Sequence[Cells]) -> Point | None:
    """Place a row, by the paired ratio where the plain step has a time, else by its own median."""
    step = step_time(cells, next((row["step_median_s"] for row in rows if row["placement"] == PLAIN), None))
    if step is None or cells["peak_bytes"] is None:
        return None
    return Point(cells=cells, peak_bytes=cells["peak_bytes"], step_s=step.median)


def _price(faster: Point, smaller: Point) -> str:
    """Price the step from one placement of the frontier to the next that holds less."""
    saved_mib = (faster.peak_bytes - smaller.peak_bytes) / 2**20
    if not saved_mib:
        return ""
    price = 1000 * (smaller.step_s - faster.step_s) / saved_mib
    return f"{price:.3g}" if price < 1000 else f"{price:.0f}"


def _frontier_line(point: Point, price: str) -> tuple[str, ...]:
    cells = point.cells
    saved = format_percent(1 - cells["peak_ratio"]) if cells["peak_ratio"] is not None else ""
    ratio = format_ratio(cells["step_ratio"]) if cells["step_ratio"] is not None else ""
    numbers = (format_mib(point.peak_bytes), saved, format_seconds(point.step_s), ratio, price)
    return (cells["placement"], *numbers, cells["gradients"] or "", cells["buffers"] or "")


def by_sheet(run: Run, column: str) -> Sheet:
    """Set the devices, or the dtypes, of one run side by side: peak and paired ratio of each placement under each.

    Raises:
        RematbenchError: the column cannot stand across.
    """
    if column not in ("device", "dtype"):
        raise RematbenchError(f"--by: {unknown('column', column, ('device', 'dtype'))}")
    values = sorted({cells[column] for cells in run.rows.values()})
    other = "dtype" if column == "device" else "device"
    found = {(cells["model"], cells["placement"], cells[other], cells[column]): cells for cells in run.rows.values()}
    names = dict.fromkeys(key[:3] for key in found)
    header = ("model", "placement", other, *(f"{value} {what}" for value in values for what in ("peak MiB", "ratio")))
    rows = tuple((*name, *(cell for value in values for cell in _pair(found.get((*name, value))))) for name in names)
    return Sheet(title=f"by {column}", header=header, rows=rows)


def _pair(cells: Cells | None) -> tuple[str, str]:
    if cells is None or cells["peak_bytes"] is None:
        return "", str(cells["status"]) if cells else ""
    return format_mib(cells["peak_bytes"]), format_ratio(cells["step_ratio"]) if cells["step_ratio"] else ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row in two runs; a ratio is new over old, None where a side has none.

    Attributes:
        mark: `better`, `worse` or `mixed`, of peak, recomputation and time; `training` where gradients or buffers have
            another verdict; `new`, `gone`; or empty for nothing beyond noise.
    """

    key: Key
    mark: str
    old: Cells | None
    new: Cells | None
    peak: float | None = None
    time: float | None = None


def changes(old: Run, new: Run) -> list[Change]:
    """Compare every row of either run: bytes exactly, time by whether the intervals of the paired ratios part."""
    keys = dict.fromkeys([*old.rows, *new.rows])
    return [_change(key, old.rows.get(key), new.rows.get(key)) for key in keys]


def _change(key: Key, old: Cells | None, new: Cells | None) -> Change:
    if old is None or new is None:
        return Change(key=key, mark="new" if old is None else "gone", old=old, new=new)
    peak, time = _ratio(old, new, "peak_bytes"), _ratio(old, new, "step_ratio")
    if Status.OK in (old["status"], new["status"]) and old["status"] != new["status"]:
        return Change(key=key, mark="worse" if old["status"] == Status.OK else "better", old=old, new=new)
    recompute = _ratio(old, new, "recompute_flops")
    signs = {_sign(peak), _sign(recompute), _sign(time) if _apart(old, new) else 0} - {0}
    mark = {(): "", (-1,): "better", (1,): "worse"}.get(tuple(signs), "mixed")
    if (old["gradients"], old["buffers"]) != (new["gradients"], new["buffers"]):
        mark = "training"
    return Change(key=key, mark=mark, old=old, new=new, peak=peak, time=time)


def _ratio(old: Cells, new: Cells, column: str) -> float | None:
    return new[column] / old[column] if old[column] and new[column] else None


def _sign(ratio: float | None) -> int:
    return 0 if ratio is None or ratio == 1 else 1 if ratio > 1 else -1


def _apart(old: Cells, new: Cells) -> bool:
    """Whether the intervals of the step ratios have nothing in common; without intervals nothing is beyond noise."""
    ends = (old["step_ratio_low"], old["step_ratio_high"], new["step_ratio_low"], new["step_ratio_high"])
    return None not in ends and (ends[1] < ends[2] or ends[3] < ends[0])


def change_sheet(old: Run, new: Run) -> Sheet:
    """Set two runs side by side, the first the reference; what did not change is folded into one line."""
    every = changes(old, new)
    shown = [change for change in every if change.mark]
    still = [f"{change.key[0]}/{change.key[1]}" for change in every if not change.mark]
    rows = [_change_line(change) for change in shown]
    rows.append(
        (
            "geometric mean",
            "",
            "",
            "",
            _mean(change.peak for change in every),
            "",
            _mean(change.time for change in every),
        )
    )
    header = ("model", "placement", "change", "peak MiB", "peak", "ratio", "time")
    notes = [_listed("within noise", still), *_environments(old, new)]
    title = f"{old.source} → {new.source}"
    return Sheet(title=title, header=header, rows=tuple(rows), notes=tuple(note for note in notes if note))


def _change_line(change: Change) -> tuple[str, ...]:
    peaks, ratios = (
        _arrow(change, column, show) for column, show in (("peak_bytes", format_mib), ("step_ratio", format_ratio))
    )
    return (change.key[0], change.key[1], change.mark, peaks, _times(change.peak), ratios, _times(change.time))


def _arrow(change: Change, column: str, show: Callable[..., str]) -> str:
    ends = [show(cells[column]) if cells and cells[column] is not None else "" for cells in (change.old, change.new)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} → {ends[1]}".strip()


def _times(ratio: float | None) -> str:
    return f"{ratio:.3f}×" if ratio is not None else ""


def _mean(ratios: Iterator[float | None]) -> str:
    """Return the geometric mean of the ratios there are."""
    known = [ratio for ratio in ratios if ratio is not None]
    return _times(math.exp(sum(map(math.log, known)) / len(known))) if known else ""


def _environments(old: Run, new: Run) -> Iterator[str]:
    """Say what the rows of the two runs were measured under, where it differs."""
    for column in ("torch", "python", "device_name", "threads"):
        left, right = (_values(run, column) for run in (old, new))
        if left != right:
            yield f"different {column}: {left} → {right}; times are compared as ratios to `none` only"


def _values(run: Run, column: str) -> str:
    return ", ".join(sorted({str(cells[column]) for cells in run.rows.values() if cells[column] is not None}))
