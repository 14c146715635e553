"""How well plans are predicted over the frontiers of the reference models, and what a profile takes: `make speed`."""

from pathlib import Path

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from rematbench.measuring.session import Session
from rematbench.planner.planner import Planner
from rematbench.planner.profiling import profile
from rematbench.suite.suite import Device, load_suite
from rematbench.workload.building import build
from rematbench.workload.step import Workload

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
            schedule.peak_bytes / planner.measured_peak_bytes(schedule) - 1
            for schedule in schedules[:: max(1, len(schedules) // POINTS)]
        ]
    close = sum(abs(error) <= 0.01 for error in errors)
    low = sum(error < -0.01 for error in errors)
    print(f"\n{close} of {len(errors)} within 1 %, {low} low by more, from {min(errors):+.2%} to {max(errors):+.2%}")
    benchmark.pedantic(lambda: None)  # type: ignore[attr-defined]


def test_the_profile_of_24_equal_blocks(benchmark: BenchmarkFixture) -> None:
    """The first one's input requires no gradient: two of them are measured, and 22 recognised."""
    forwards = 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    blocks = [nn.TransformerEncoderLayer(64, 4, 256, batch_first=True) for _ in range(24)]
    for block in blocks:
        block.norm1.register_forward_hook(count)
    workload = Workload(module=nn.Sequential(*blocks), batch=(torch.randn(16, 64, 64),))
    benchmark.pedantic(profile, args=(workload, torch.device("cpu")), rounds=1)
    print(f"\n{forwards} forwards of a block for {len(blocks)} blocks")
