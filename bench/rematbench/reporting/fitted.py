"""The answers of a fit as a table and a sentence."""

from __future__ import annotations

from tabulate import tabulate

from rematbench.records.fitting import Fit, FittedPlacement
from rematbench.reporting.texts import one_line
from rematbench.units import format_bytes, format_percent, format_ratio, format_sizes


def table(fit: Fit) -> str:
    """Write one line for each placement, and beneath it why some have no answer."""
    header = ("placement", fit.vary, "needs", "the next", "needs", "FLOPs", "told by", "run here")
    lines = [_line(fitted) for fitted in fit.placements]
    text = tabulate(lines, headers=header, disable_numparse=True, colalign=("left", *["right"] * 6, "left"))
    at = f", {format_sizes(fit.at)}" if fit.at else ""
    title = one_line(f"{fit.model}{at}: the largest {fit.vary} in {format_bytes(fit.memory_bytes)}")
    notes = [one_line(f"  {fitted.placement}: {fitted.message}") for fitted in fit.placements if fitted.message]
    return "\n".join([title, text, *notes])


def answer(fit: Fit) -> str:
    """Say it in a sentence: `batch: none 11; each 46 for 1.31× the FLOPs`."""
    parts = [_in_short(fitted) for fitted in fit.placements if fitted.value is not None]
    return one_line(f"{fit.vary}: {'; '.join(parts)}" if parts else f"{fit.vary}: nothing fits")


def _in_short(fitted: FittedPlacement) -> str:
    ratio = fitted.compute_ratio
    price = f" for {format_ratio(ratio)} the FLOPs" if ratio and ratio > 1 else ""
    return f"{fitted.placement} {fitted.value}{price}"


def _line(fitted: FittedPlacement) -> tuple[str, ...]:
    name = one_line(fitted.placement)
    if fitted.value is None:
        beyond = (str(fitted.next_value), format_bytes(fitted.next_bytes)) if fitted.next_bytes else ("", "")
        return (name, "none", "", *beyond, "", f"{fitted.runs} steps" if fitted.runs else "", "")
    doubt = f" ± {format_percent(fitted.reach)}" if fitted.reach else ""
    return (
        name,
        str(fitted.value),
        f"{format_bytes(fitted.bytes or 0)}{doubt}",
        str(fitted.next_value),
        format_bytes(fitted.next_bytes or 0),
        format_ratio(fitted.compute_ratio) if fitted.compute_ratio else "",
        f"{fitted.runs} steps",
        _confirmed(fitted),
    )


def _confirmed(fitted: FittedPlacement) -> str:
    """Say whether running the answer and the next value bore it out."""
    if fitted.measured_bytes is None:
        return "too large to"
    if fitted.measured_bytes == fitted.bytes and fitted.next_measured_bytes in (fitted.next_bytes, None):
        return "to the byte"
    return f"{format_bytes(fitted.measured_bytes)}, not as told"
