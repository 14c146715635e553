"""What planning costs: its CPU seconds over those of a plain step, and how often units and whole steps are run.

    python benchmarks/planning.py [REFERENCE …] [--goal GOAL …]

A reference is a factory as `rematbench run --model` takes it; without one, GPT-2-like models of 12 and 24 blocks. Each
plan begins with a built model whose plain step has been metered, and ends with a placement accepted on what it peaks
and leaves behind.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from tests.planner.counting import counted  # noqa: E402

from rematbench.errors import PlacementError  # noqa: E402
from rematbench.loading import user_imports  # noqa: E402
from rematbench.measuring.session import Session  # noqa: E402
from rematbench.placement.registry import parse_goal  # noqa: E402
from rematbench.planner.planner import Planner  # noqa: E402
from rematbench.suite.model_ref import ModelRef  # noqa: E402
from rematbench.workload.building import build  # noqa: E402
from rematbench.workload.step import training_step  # noqa: E402

CPU = torch.device("cpu")
OWN = [f"tests/planner/counting.py:{name}" for name in ("gpt_12", "gpt_24", "gpt_12_small")]
GOALS = ["plan:60%/step", "plan-flops:60%/step", "frontier:1/2"]
STEPS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", metavar="REFERENCE", nargs="*", default=OWN)
    parser.add_argument("--goal", action="append", dest="goals")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':<20} {'goal':<20} {'plain step':>10} {'planning':>12}  what was run")
    for reference in asked.references:
        for goal in asked.goals or GOALS:
            print_cost(reference, goal)


def print_cost(reference: str, goal: str) -> None:
    """Plan once, from nothing but the plain step, and print what it took."""
    with user_imports(ROOT, reference):
        session = Session(build(ModelRef.parse(reference, ROOT), CPU, seed=0), CPU)
    session.keep_plain()
    assert session.plain_peak_bytes
    gc.collect()
    gc.freeze()  # as a worker does
    plain_s = median(step_s(session) for _ in range(STEPS))
    start = time.process_time()
    with counted() as runs:
        try:
            Planner(session, CPU).plan(parse_goal(goal))
        except PlacementError as error:
            print(error)
    took_s = time.process_time() - start
    ran = ", ".join(f"{count} {what}" for what, count in sorted(runs.items()))
    name = reference.rpartition(":")[2]
    print(f"{name:<20} {goal:<20} {1e3 * plain_s:>7.1f} ms {took_s / plain_s:>6.1f} steps  {ran}", flush=True)


def step_s(session: Session) -> float:
    """Return the CPU seconds of a plain step."""
    session.fresh()
    start = time.process_time()
    training_step(session.workload)
    return time.process_time() - start


if __name__ == "__main__":
    main()
