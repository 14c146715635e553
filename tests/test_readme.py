"""What the README and the documentation say is what the code does and what the kept runs hold.

`python -m tests.test_readme` writes the tables anew, from the runs in `results/reference/`.
"""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean

import pytest

from rematbench.placement.registry import parse_strategy
from rematbench.records.columns import Cells
from rematbench.records.run import Run
from rematbench.reporting.compare import frontier_sheets
from rematbench.units import format_flops

ROOT = Path(__file__).parent.parent
README, PLANNING, PLACEMENTS = ROOT / "README.md", ROOT / "docs" / "planning.md", ROOT / "docs" / "placements.md"
PLAIN = ROOT / "results" / "reference" / "cpu.csv"


def test_every_strategy_shown_is_one() -> None:
    shown = PLACEMENTS.read_text().split("<!-- strategies -->\n```text\n")[1].split("```")[0].split()
    assert [parse_strategy(text).text for text in shown]


SHOWN = ("residual.conv_bn",)


def result_tables() -> str:
    """Return what `rematbench compare results/reference/cpu.csv --markdown` writes, for the models shown."""
    sheets = frontier_sheets(Run(PLAIN))
    return "\n\n".join(sheet.to_markdown() for sheet in sheets if sheet.title.startswith(SHOWN))


PEERS = ROOT / "results" / "reference" / "peers-cpu.csv"


def peers_table() -> str:
    """Return how plans at the peaks of hand-made placements compare with them, over all models of the run."""
    rows = Run(PEERS).cells
    by_name = {(cells["model"], cells["placement"]): cells for cells in rows}
    models = list(dict.fromkeys(cells["model"] for cells in rows))
    prefix = "plan-flops:="
    peers = [name.removeprefix(prefix) for model, name in by_name if model == models[0] and name.startswith(prefix)]
    lines = [
        "| placement | recomputes | its plan | peak of the plan | recomputes less | as much |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for peer in peers:
        pairs = [(by_name[model, peer], by_name[model, prefix + peer]) for model in models]
        assert all(plan["peak_bytes"] <= hand["peak_bytes"] for hand, plan in pairs)
        assert all(plan["recompute_flops"] <= hand["recompute_flops"] for hand, plan in pairs)
        assert all((plan["gradients"], plan["rng_state"]) == ("bitwise", "equal") for _, plan in pairs)
        sums = [sum(cells["recompute_flops"] for cells in side) for side in zip(*pairs, strict=True)]
        peak = math.prod(plan["peak_bytes"] / hand["peak_bytes"] for hand, plan in pairs) ** (1 / len(pairs))
        less = sum(plan["recompute_flops"] < hand["recompute_flops"] for hand, plan in pairs)
        cells = (f"`{peer}`", *map(format_flops, sums), f"{peak:.2f}×", str(less), str(len(pairs) - less))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PEERS_TIME = ROOT / "results" / "reference" / "peers-time-cpu.csv"


def peers_time_table() -> str:
    """Return how the fastest plans at those peaks compare with them, in time paired within rounds."""
    pairs: dict[str, list[Cells]] = {}
    for cells in Run(PEERS_TIME).cells:
        if cells["peer"]:
            pairs.setdefault(cells["peer"], []).append(cells)
    lines = [
        "| placement | peak of its plan | step of its plan | at worst | faster | not told apart | slower |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for peer, plans in pairs.items():
        assert all(plan["peer_peak_ratio"] <= 1 for plan in plans)
        assert all((plan["gradients"], plan["rng_state"]) == ("bitwise", "equal") for plan in plans)
        peaks, steps = ([plan[name] for plan in plans] for name in ("peer_peak_ratio", "peer_step_ratio"))
        faster = sum(plan["peer_step_ratio_high"] < 1 for plan in plans)
        slower = sum(plan["peer_step_ratio_low"] > 1 for plan in plans)
        ratios = (geometric_mean(peaks), geometric_mean(steps), max(steps))
        counts = (faster, len(plans) - faster - slower, slower)
        lines.append(f"| {' | '.join([f'`{peer}`', *(f'{ratio:.2f}×' for ratio in ratios), *map(str, counts)])} |")
    return "\n".join(lines)


PLANNERS = ROOT / "results" / "reference" / "planners-cpu.csv"


def planners_table() -> str:
    """Return whether less budget means a lower peak with each planner, and how low it reaches."""
    rows = Run(PLANNERS).cells
    lines = ["| planner | asked | networks on which a smaller budget peaks higher | lowest peak |", "|---|---|--:|--:|"]
    for planner in ("compile:budget", "ckptplan", "frontier"):
        own = [cells for cells in rows if cells["placement"].startswith(planner) and cells["peak_bytes"] is not None]
        by_model = {cells["model"]: [other for other in own if other["model"] == cells["model"]] for cells in own}
        peaks = [[cells["peak_bytes"] for cells in sorted(cases, key=budget_of)] for cases in by_model.values()]
        higher = sum(any(less > more for less, more in pairwise(ladder)) for ladder in peaks)
        lowest = geometric_mean(min(cells["peak_ratio"] for cells in cases) for cases in by_model.values())
        asked = sorted({(budget_of(cells), cells["placement"]) for cells in own})
        shown = f"`{asked[0][1]}` to `{asked[-1][1].removeprefix(planner).lstrip(':=')}`"
        lines.append(f"| `{planner}` | {shown} | {higher} of {len(peaks)} | {lowest:.2f}× |")
    return "\n".join(lines)


def budget_of(cells: Cells) -> float:
    """Return the number in `compile:budget=0.5`, `ckptplan:50%` or `frontier:2/5`."""
    return float(re.split(r"[:=]", cells["placement"])[-1].rstrip("%").partition("/")[0])


def test_the_share_of_time_predictions_that_hit_is_that_of_its_run() -> None:
    rows = [cells for cells in Run(PEERS_TIME).cells if cells["predicted_ratio"]]
    hits = sum(abs(cells["predicted_ratio"] / cells["step_ratio"] - 1) <= 0.05 for cells in rows)
    assert f"{hits} of {len(rows)} plans' step times were predicted within 5 %" in " ".join(
        PLANNING.read_text().split()
    )


TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "table": (README, result_tables),
    "peers": (PLANNING, peers_table),
    "peers-time": (PLANNING, peers_time_table),
    "planners": (PLANNING, planners_table),
}
"""Between `<!-- name:begin -->` and `<!-- name:end -->` of a page stands what the function makes of a kept run."""


def around(name: str) -> tuple[str, str, str]:
    """Return a page in three parts: up to a table, the table, and what follows."""
    begin, end = f"<!-- {name}:begin -->\n", f"\n<!-- {name}:end -->"
    before, found, rest = TABLES[name][0].read_text().partition(begin)
    table, ended, after = rest.partition(end)
    assert found
    assert ended
    return before + begin, table, end + after


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_its_run(name: str) -> None:
    assert around(name)[1] == TABLES[name][1]()


if __name__ == "__main__":
    for name, (page, make) in TABLES.items():
        before, _, after = around(name)
        page.write_text(before + make() + after)
