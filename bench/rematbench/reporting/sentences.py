"""What is said of rows in more than one place: whether training stays the same, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rematbench.records.run import Row

_NAMED = 4


def training(rows: Sequence[Row], named: Callable[[Row], str] = lambda row: row.name) -> Iterator[str]:
    """Say whether training stays the same, and which placements touch its buffers.

    The plain step is no placement that could change anything, and a row without a verdict says nothing.

    Args:
        named: how a row is called; by its placement where all rows are of one model.
    """
    judged = [row for row in rows if not row.is_plain and row.cells["gradients"] is not None]
    changed = [row for row in judged if row.cells["gradients"] == "different"]
    touched = [row for row in judged if row.cells["buffers"] == "different"]
    if changed:
        yield f"Training changes: gradients are different under {_listed(changed, named)}."
    elif judged:
        bitwise = sum(row.cells["gradients"] == "bitwise" for row in judged)
        extent = "every placement" if bitwise == len(judged) else f"{bitwise} of {len(judged)} placements"
        rest = "" if bitwise == len(judged) else ", within noise or tolerance under the others"
        what = "Gradients stay" if touched else "Training stays"
        yield f"{what} the same: gradients are equal bit for bit to none's under {extent}{rest}."
    if touched:
        yield (
            f"Buffers end up different under {_listed(touched, named)}, as running statistics do where batch norm is "
            "recomputed; +batch_norm=once cures that."
        )


def failures(rows: Sequence[Row], named: Callable[[Row], str] = lambda row: row.name) -> Iterator[str]:
    """Say how many rows failed, and of the first why; names as in `training`."""
    failed = [row for row in rows if not row.is_ok]
    if failed:
        first = f"{named(failed[0])}: {failed[0].cells['message'] or failed[0].cells['status']}"
        yield f"{len(failed)} of {len(rows)} rows failed, first {first}."


def _listed(rows: Sequence[Row], named: Callable[[Row], str]) -> str:
    """Name the first few of many rows."""
    rest = len(rows) - _NAMED
    return ", ".join(map(named, rows[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")
