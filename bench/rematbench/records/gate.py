"""Judge a run against a baseline: memory, recomputation and whether training stays the same; time only on request.

Bytes and FLOPs are deterministic, so their margins are zero unless somebody says otherwise. Nothing passes silently: a
row that only one side has is a finding too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rematbench.errors import RematbenchError
from rematbench.placement.placement import PLAIN
from rematbench.reading import BEYOND
from rematbench.records.columns import MARGIN, Cells
from rematbench.records.measurement import Status, has_figures
from rematbench.records.run import Key, Run, key_of
from rematbench.units import format_bytes, format_flops, format_interval, format_percent, parse_percent

_SAME = ("equal", "different")
_VERDICTS = {
    "gradients": ("bitwise", "noise", "close", "different"),
    "loss": _SAME,
    "buffers": _SAME,
    "rng_state": _SAME,
}
"""What says whether training stays the same, by column; each with its verdicts, the best first."""

_FIGURES = ("static_bytes", "peak_bytes", "held_bytes", "forward_flops", "recompute_flops")
_TIMES = ("step_ratio", "step_ratio_low", "step_ratio_high")
_NAMED_BLOCKS = 3


class Mark(StrEnum):
    """What a finding means; the value is how it is shown."""

    TRAINING = "training changed"
    REGRESSION = "regression"
    UNJUDGED = "cannot judge"
    WIN = "win"
    NEW = "new"


EXIT_CODES = {Mark.TRAINING: 4, Mark.REGRESSION: 1, Mark.UNJUDGED: 3}
"""Worst first; a win is 1 under `--strict-wins`, and everything else is 0."""


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How much a row may grow, as shares.

    Attributes:
        time: the band that the whole interval of the paired ratio must leave; None does not judge time.
        allow: by `model/placement`, memory margins of single rows; over the baseline's own, which are over `memory`.
    """

    memory: float = 0.0
    flops: float = 0.0
    time: float | None = None
    allow: Mapping[str, float] = field(default_factory=dict)

    def of_row(self, baseline: Cells) -> float:
        """Return the memory margin of a row.

        Raises:
            RematbenchError: the baseline's own is no percentage.
        """
        own = baseline.get(MARGIN)
        default = parse_percent(own) if own is not None else self.memory
        return self.allow.get(row_name(baseline), default)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to say about one row, in one sentence that begins with the row's name."""

    mark: Mark
    key: Key
    text: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.text}"


def row_name(cells: Cells) -> str:
    """Return how a row is named on the command line: `model/placement`."""
    return f"{cells['model']}/{cells['placement']}"


def judge(run: Run, baseline: Run, margins: Margins) -> list[Finding]:
    """Compare every row of either side; an empty list means that nothing changed.

    Raises:
        RematbenchError: a margin is for a row that the baseline does not have.
    """
    before, now = ({key: row.cells for key, row in side.rows.items()} for side in (baseline, run))
    known = set(map(row_name, before.values()))
    for name in margins.allow:
        if name not in known:
            raise RematbenchError(f"--allow {name}: the baseline has no such row; write model/placement=5%")
    findings = [finding for key, cells in before.items() for finding in _row(key, now.get(key), cells, margins)]
    return findings + [
        _finding(Mark.NEW, cells, "is not in the baseline; `rematbench baseline update` takes it in")
        for key, cells in now.items()
        if key not in before
    ]


def exit_code(findings: list[Finding], strict_wins: bool = False) -> int:
    """Return what the command exits with: the worst finding decides."""
    marks = {finding.mark for finding in findings}
    if strict_wins and Mark.WIN in marks:
        marks.add(Mark.REGRESSION)
    return next((code for mark, code in EXIT_CODES.items() if mark in marks), 0)


def _row(key: Key, now: Cells | None, before: Cells, margins: Margins) -> Iterator[Finding]:
    if now is None:
        yield Finding(mark=Mark.UNJUDGED, key=key, text=f"{_title(before)} is in the baseline but was not measured")
    elif not has_figures(before["status"]):
        yield _finding(Mark.UNJUDGED, before, f"is {before['status']} in the baseline: update it")
    elif now["status"] == Status.OUT_OF_MEMORY:
        yield _finding(Mark.REGRESSION, now, f"runs out of memory: {now['message']}")
    elif not has_figures(now["status"]):
        yield _finding(Mark.UNJUDGED, now, f"is {now['status']}: {now['message']}")
    elif other := _other_environment(now, before):
        yield _finding(Mark.UNJUDGED, now, f"comes from another environment than the baseline ({other})")
    elif unsound := _unsound(now, before, timed=margins.time is not None):
        yield _finding(Mark.UNJUDGED, now, f"has {unsound}: nothing can be judged by that")
    else:
        yield from _training(now, before)
        yield from _memory(now, before, margins)
        yield from _flops(now, before, margins.flops)
        yield from _time(now, before, margins.time)


def _unsound(now: Cells, before: Cells, *, timed: bool) -> str:
    """Name the first figure of either side that nothing measured can be: below zero, no number, or beyond any machine.

    Comparing would let it pass: nothing is more than infinity, and NaN is neither more nor less than anything.
    """
    columns = _FIGURES + _TIMES if timed else _FIGURES
    for side, cells in (("", now), (" in the baseline", before)):
        for column in columns:
            figure = cells[column]
            # Forward may free more of what was there before the step than it keeps.
            least = -BEYOND if column == "held_bytes" else 0
            if figure is not None and not least <= figure < BEYOND:  # false of NaN, too
                return f"{column} {_shown(figure)}{side}"
    return ""


def _title(cells: Cells) -> str:
    return f"{cells['model']} · {cells['placement']}"


def _finding(mark: Mark, cells: Cells, text: str) -> Finding:
    return Finding(mark=mark, key=key_of(cells), text=f"{_title(cells)} {text}")


def _other_environment(now: Cells, before: Cells) -> str:
    """Say what bytes depend on and differs: torch's release. Seed, threads and host are no part of it.

    On a GPU also which build of it, the GPU, its libraries and driver, and how its allocator is set: kernels take
    scratch memory and round as these have it. A baseline from before it was recorded is not held to the software.
    """
    if now["device"] == "cpu":
        # `2.9.0+cpu` and `2.9.0+cu130` are one release, and hand out the same bytes
        keys = [("torch", *((cells["torch"] or "").partition("+")[0] for cells in (before, now)))]
    else:
        columns = ["torch", "device_name"]
        if before.get("device_software"):
            columns += ["device_software", "device_allocator"]
        keys = [(name.removesuffix("_name"), before.get(name) or "", now.get(name) or "") for name in columns]
    return ", ".join(f"{name} {left}, now {right}" for name, left, right in keys if left != right)


def _shown(figure: float) -> str:
    return str(figure) if not figure >= BEYOND or figure == math.inf else f"of 2**{int(math.log2(figure))} and more"


def _training(now: Cells, before: Cells) -> Iterator[Finding]:
    for column, order in _VERDICTS.items():
        left, right = before[column], now[column]
        if right not in order:
            yield _finding(Mark.UNJUDGED, now, f"has {_verdict(right)} on {column}, {left} in the baseline")
        elif left not in order:
            yield _finding(Mark.UNJUDGED, now, f"has {column} {right}, but {_verdict(left)} on it in the baseline")
        elif order.index(right) > order.index(left):
            detail = f", most in {now['gradients_worst']}" if column == "gradients" and now["gradients_worst"] else ""
            yield _finding(Mark.TRAINING, now, f"has {column} {right}, {left} in the baseline{detail}")


def _verdict(found: str | None) -> str:
    """Name a verdict that is none of ours."""
    return f"the unknown verdict {found!r}" if found else "no verdict"


def _memory(now: Cells, before: Cells, margins: Margins) -> Iterator[Finding]:
    """Judge the peak, and what is there before the step begins, which is no part of it: both have to fit."""
    try:
        margin = margins.of_row(before)
    except RematbenchError as error:
        yield _finding(Mark.UNJUDGED, before, f"has a {MARGIN} in the baseline that is none: {error}")
        return
    for column, verb, what in (("peak_bytes", "peaks at", "peak"), ("static_bytes", "starts from", "static bytes")):
        left, right = before[column], now[column]
        if left is None or right is None:
            yield _finding(Mark.UNJUDGED, now, f"has no {what} on one side or both")
            continue
        growth = right - left
        change = f"{verb} {left:,} → {right:,} bytes ({_signed(growth)}, {_share(growth, left)})"
        if growth > margin * left:
            where = f", in {now['peak_phase']}: {_breakdown(now, before)}" if column == "peak_bytes" else ""
            yield _finding(
                Mark.REGRESSION, now, f"{change}{where or ': parameters, buffers, batch or optimizer state'}"
            )
        elif growth < 0:
            yield _finding(Mark.WIN, now, change)


def _breakdown(now: Cells, before: Cells) -> str:
    """Say where the growth is: what is there before the step, what forward leaves behind, or what comes and goes."""
    held, static = ((now[column] or 0) - (before[column] or 0) for column in ("held_bytes", "static_bytes"))
    parts = {
        "held after forward": held,
        "transient": now["peak_bytes"] - before["peak_bytes"] - held,
        "static (not in the peak)": static,
    }
    text = ", ".join(f"{name} {_signed(change)}" for name, change in parts.items() if change)
    return f"{text}{_blocks(now, before)}"


def _blocks(now: Cells, before: Cells) -> str:
    """Name the blocks that hold more than before, where both sides know; nothing where none does."""
    left, right = before["held_by_block"], now["held_by_block"]
    if not left or not right:
        return ""
    growth = {block: size - left.get(block, 0) for block, size in right.items() if size > left.get(block, 0)}
    worst = sorted(growth, key=lambda block: -growth[block])
    named = [f"{block or 'the model itself'} {_signed(growth[block])}" for block in worst[:_NAMED_BLOCKS]]
    rest = sum(growth[block] for block in worst[_NAMED_BLOCKS:])
    more = [f"{len(worst) - _NAMED_BLOCKS} more {_signed(rest)}"] if rest else []
    return f"; more is held by {', '.join(named + more)}" if named else ""


def _flops(now: Cells, before: Cells, margin: float) -> Iterator[Finding]:
    left, right = before["recompute_flops"], now["recompute_flops"]
    if left is None or right is None:
        if left != right:
            yield _finding(Mark.UNJUDGED, now, "has recompute FLOPs on one side only")
    elif right - left > margin * left:
        yield _finding(Mark.REGRESSION, now, f"recomputes {format_flops(right)}, {format_flops(left)} in the baseline")
    elif right < left:
        yield _finding(Mark.WIN, now, f"recomputes {format_flops(right)}, {format_flops(left)} in the baseline")


def _time(now: Cells, before: Cells, band: float | None) -> Iterator[Finding]:
    """Judge the ratio to `none` of the same run: only an interval wholly beyond the band counts.

    The baseline was measured too: the band lies above the upper end of its interval.
    """
    if band is None or now["placement"] == PLAIN:
        return
    if now["step_ratio_low"] is None or before["step_ratio_high"] is None:
        yield _finding(
            Mark.UNJUDGED, now, "has no interval of its step time on both sides: measure five rounds or more"
        )
    elif now["step_ratio_low"] > before["step_ratio_high"] * (1 + band):
        columns = ("step_ratio", "step_ratio_low", "step_ratio_high")
        takes, took = (format_interval(*(cells[column] for column in columns)) for cells in (now, before))
        yield _finding(Mark.REGRESSION, now, f"takes {takes} the plain step, {took} in the baseline")


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else '-'}{format_bytes(abs(count))}"


def _share(growth: int, before: int) -> str:
    return f"{'+' if growth >= 0 else '-'}{format_percent(abs(growth) / before)}" if before else "from nothing"
