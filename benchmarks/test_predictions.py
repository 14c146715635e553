"""How well plans are predicted, over the frontiers of every reference model: `make speed` prints it."""

from pathlib import Path

import torch

from rematbench.measuring.session import Session
from rematbench.planner.planner import Planner
from rematbench.suite.suite import Device, load_suite
from rematbench.workload.building import build

POINTS = 12


def test_predicted_peaks_against_measured(benchmark: object) -> None:
    """Some twelve points of each frontier: within 1 % of the measurement, and how many are low by more."""
    errors: list[float] = []
    for entry in load_suite("default").models:
        ref = entry.ref(Path.cwd(), Device(name="cpu"))
        session = Session(build(ref, torch.device("cpu"), dtype=torch.float32, seed=0), torch.device("cpu"))
        session.keep_plain()
        planner = Planner(session, torch.device("cpu"))
        _, schedules = planner.frontier("flops")
        errors += [
            planner.predicted_peak_bytes(schedule) / planner.measured_peak_bytes(schedule) - 1
            for schedule in schedules[:: max(1, len(schedules) // POINTS)]
        ]
    close = sum(abs(error) <= 0.01 for error in errors)
    low = sum(error < -0.01 for error in errors)
    print(f"\n{close} of {len(errors)} within 1 %, {low} low by more, from {min(errors):+.2%} to {max(errors):+.2%}")
    benchmark.pedantic(lambda: None)  # type: ignore[attr-defined]
