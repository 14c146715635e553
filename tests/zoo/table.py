"""What the rows of the zoo come to: the summary, the table of every network, and what failed, by its cause."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from statistics import median
from typing import Any

from tests.zoo.measuring import BY_HAND, PLANS
from tests.zoo.network import KINDS
from tests.zoo.results import Row

from rematbench.units import format_mib

APPLIED = ("each", "sqrt", "segments:2", "nested:2")
_EXACT = 0.01


def best_by_hand(row: Row) -> tuple[str, int] | None:
    """Return the placement by hand with the lowest peak whose gradients are not `different`, and that peak."""
    peaks = {
        name: row[f"{name}_peak_bytes"]
        for name in BY_HAND
        if row[f"{name}_peak_bytes"] is not None and not (row[f"{name}_verdict"] or "").startswith("different")
    }
    return min(peaks.items(), key=lambda found: found[1]) if peaks else None


def is_too_small(row: Row, prefix: str) -> bool:
    """Whether a plan was refused because the budget is below the least peak, and no placement by hand fits either."""
    best = best_by_hand(row)
    least = min((peak for peak in (row["least_peak_bytes"], best and best[1]) if peak is not None), default=None)
    refused = "no placement fits" in (row[f"{prefix}_message"] or "")
    return bool(refused and prefix != "least" and least is not None and least > 0.6 * row["plain_peak_bytes"])


def summary(rows: Collection[Row]) -> list[tuple[str, str, str]]:
    """Return each figure of the issue's list: what it is, what it came to, and what is wanted."""
    ran = [row for row in rows if row["plain_peak_bytes"] is not None]
    planned = [row for row in ran if row["least_peak_bytes"] is not None]
    hand = {row["network"]: best[1] for row in ran if (best := best_by_hand(row))}
    above = [
        row["network"] for row in planned if row["least_peak_bytes"] > hand.get(row["network"], row["plain_peak_bytes"])
    ]
    shares = [row["least_peak_bytes"] / hand[row["network"]] for row in planned if row["network"] in hand]
    errors = [abs(error) for row in ran for prefix in PLANS if (error := prediction_error(row, prefix)) is not None]
    steady = [
        row[f"{prefix}_verdict"] for row in ran for prefix in PLANS if row[f"{prefix}_verdict"] and not row["unsteady"]
    ]
    took = [row["plan_s"] / row["plain_step_s"] for row in planned if row["plan_s"] is not None]
    at_60 = [row for row in ran if row["plan60_peak_bytes"] is not None or is_too_small(row, "plan60")]
    return [
        ("networks", str(len(rows)), "80 or more"),
        ("whose plain step ran", str(len(ran)), "all"),
        ("with a plan", _share(len(planned), len(ran)), "98 %"),
        ("with a plan at 60 %, or rightly told that nothing fits", _share(len(at_60), len(ran)), "98 %"),
        ("least peak of a plan above the best by hand", str(len(above)), "0"),
        ("least peak of a plan over the best by hand, median", _number(shares), "at most 0.8"),
        ("predicted within 1 %", _share(sum(error <= _EXACT for error in errors), len(errors)), "97 %"),
        ("worst prediction", f"{100 * max(errors):.1f} %" if errors else "", ""),
        ("plans that leave training as it is, bitwise", _share(steady.count("bitwise"), len(steady)), "all"),
        *(
            (f"`{name}` applies", _share(sum(row[f"{name}_peak_bytes"] is not None for row in ran), len(ran)), "95 %")
            for name in APPLIED
        ),
        ("planning in plain steps, median", _number(took, 0), "40 for 12 blocks"),
    ]


def prediction_error(row: Row, prefix: str) -> float | None:
    """Return predicted over measured less one; None where there is no plan."""
    peak, predicted = row[f"{prefix}_peak_bytes"], row[f"{prefix}_predicted_bytes"]
    return predicted / peak - 1 if peak and predicted is not None else None


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.0f} %)" if of else ""


def _number(values: Sequence[float], digits: int = 3) -> str:
    return f"{median(values):.{digits}f}" if values else ""


def causes(rows: Iterable[Row]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Group every sentence that stands in place of a result, names and numbers aside, the most frequent first.

    Each is (network, placement, sentence).
    """
    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for row in rows:
        if row["status"] != "ok":
            text = row["message"] or row["status"]
            found[_cause(text)].append((row["network"], "plain", text))
        for name in (*PLANS, *BY_HAND):
            if (text := row[f"{name}_message"]) and not (name in PLANS and is_too_small(row, name)):
                found[_cause(text)].append((row["network"], name, text))
    return sorted(found.items(), key=lambda group: (-len({network for network, _, _ in group[1]}), group[0]))


def _cause(text: str) -> str:
    """Cut a sentence down to what does not depend on the network: paths, numbers and names are left out."""
    text = re.sub(r"^((frontier|plan)\S*: |measuring: )*", "", text)
    text = re.sub(r"^(\w+Error: )?[\w.\[\]]+: ", r"\1… ", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|(?<=set by )\S+|(?<=region before )\S+|^\S+(?= has only)", "…", text)
    text = re.sub(r"\b\w+(\.[\w\[\]:]+)+|\b\w+\[[\d:]*\]|(?<!\w)[\d.,]+( [KMG]iB| B)?|\b\w+_\w+\b", "…", text)
    return re.sub(r"[\s,]*…[…\s,]*", " … ", text).strip()[:110]


def markdown(rows: Collection[Row]) -> str:
    """Return the page of the documentation."""
    order = sorted(rows, key=lambda row: (row["library"], row["network"]))
    parts = [_HEAD, _table(("", "is", "wanted"), summary(order)), _EXPLAINED, _table(_COLUMNS, map(_line, order))]
    refusals = [(f"`{row['network']}`", name, _plain(text)) for row in order for name, text in _refusals(row)]
    if refusals:
        parts += ["## What is refused, in its own words", _table(("network", "asked", "sentence"), refusals)]
    kinds = [
        (kind, about, ", ".join(f"`{row['network']}`" for row in order if kind in row["kinds"].split("; ")))
        for kind, about in KINDS.items()
    ]
    parts += ["## Kinds", _table(("kind", "which is", "networks"), kinds)]
    return "\n\n".join(parts) + "\n"


def _refusals(row: Row) -> Iterable[tuple[str, str]]:
    if row["status"] != "ok":
        yield "plain step", row["message"] or row["status"]
    for prefix, called in (("least", "least peak"), ("plan60", "60 %")):
        if row[f"{prefix}_message"] and not is_too_small(row, prefix):
            yield called, row[f"{prefix}_message"]


_HEAD = """# The zoo

Networks of other libraries, and some by hand, each small, from a config with random weights, on one thread of a CPU.
They stand for the kinds that planners break on; `tests/zoo/` has them. `make zoo` measures them and writes this page;
`python -m tests.zoo --only 'timm.*'` does some of them, and `rematbench run --model tests/zoo/by_hand.py:flow` takes
any one like a model of yours. `python -m tests.zoo --list` names them all; what is not in the table is not measured."""

_EXPLAINED = """## Every network

Peaks are MiB above the start of the step. Best by hand is the lowest of `each`, `each-but-last`, `sqrt`, `segments:2`
and `nested:2` that does not change gradients (batch norm may count twice); own is the library's own checkpointing,
switched on. Least is the least peak of a plan (`frontier:1/2`), 60 % the plan of fewest FLOPs within that share of the
plain step's peak (`plan-flops:60%/step`), each with what was predicted beside it. *Too little* stands where neither a
plan nor a placement by hand gets below 60 %, and the plan says so. The verdict is of both plans, of each where they
differ. Steps are the seconds of planning both over those of a plain step."""

_COLUMNS = (
    "network",
    "plain",
    "best by hand",
    "own",
    "least",
    "predicted",
    "over by hand",
    "60 %",
    "predicted",
    "verdict",
    "planning",
    "steps",
)


def _line(row: Row) -> list[str]:
    best = best_by_hand(row)
    least, plan_s = row["least_peak_bytes"], row["plan_s"]
    verdicts = dict.fromkeys(row[f"{prefix}_verdict"] for prefix in PLANS if row[f"{prefix}_verdict"])
    return [
        f"`{row['network']}`",
        _mib(row["plain_peak_bytes"]),
        f"{_mib(best[1])} `{best[0]}`" if best else "none applies",
        _mib(row["own_peak_bytes"]),
        _peak(row, "least"),
        _percent(prediction_error(row, "least")),
        f"{least / best[1]:.2f}" if best and least is not None else "",
        _peak(row, "plan60"),
        _percent(prediction_error(row, "plan60")),
        "; ".join(verdicts),
        f"{plan_s:.1f} s" if plan_s is not None else "",
        f"{plan_s / row['plain_step_s']:.0f}" if plan_s is not None and row["plain_step_s"] else "",
    ]


def _peak(row: Row, prefix: str) -> str:
    if row[f"{prefix}_message"]:
        return "too little" if is_too_small(row, prefix) else "**refused**"
    return _mib(row[f"{prefix}_peak_bytes"])


def _mib(count: int | None) -> str:
    return "" if count is None else format_mib(count)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def _plain(text: str) -> str:
    """Write a sentence so that Markdown takes nothing in it for markup."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
