"""What the README says is what the code does."""

import math
import re
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean

from rematbench.placement.placement import Options
from rematbench.placement.strategies import parse_strategy
from rematbench.records.columns import COLUMNS, Cells
from rematbench.records.run import Run
from rematbench.reporting.compare import frontier_sheets
from rematbench.units import format_flops

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PLAIN = ROOT / "results" / "reference" / "cpu.csv"


def between(name: str) -> str:
    return README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def column_table() -> str:
    rows = [f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in COLUMNS]
    return "\n".join(["| column | unit | meaning |", "|---|---|---|", *rows])


def test_the_columns_are_those_of_the_csv() -> None:
    assert between("columns") == column_table()


def test_every_strategy_shown_is_one() -> None:
    shown = README.split("```\neach ")[1].split("```")[0].split()
    assert [parse_strategy(text).text for text in ["each", *shown]]


def test_every_option_is_named() -> None:
    paragraph = README.split("\nOptions: ")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", paragraph))
    assert set(Options.model_fields) <= named


SHOWN = ("residual.conv_bn", "concat_skip.unet", "lstm_skip.lstm")


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


def test_the_comparison_with_hand_made_placements_is_that_of_its_run() -> None:
    assert between("peers") == peers_table()


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


def test_the_comparison_in_time_is_that_of_its_run() -> None:
    assert between("peers-time") == peers_time_table()


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


def test_the_comparison_with_other_planners_is_that_of_its_run() -> None:
    assert between("planners") == planners_table()


def test_the_share_of_time_predictions_that_hit_is_that_of_its_run() -> None:
    rows = [cells for cells in Run(PEERS_TIME).cells if cells["predicted_ratio"]]
    hits = sum(abs(cells["predicted_ratio"] / cells["step_ratio"] - 1) <= 0.05 for cells in rows)
    assert f"{hits} of {len(rows)} plans' step times were predicted within 5 %" in " ".join(README.split())


def test_the_tables_are_those_of_the_reference_run() -> None:
    assert between("table") == result_tables()
