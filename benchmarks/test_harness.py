"""The harness's own speed and fairness, under pytest-benchmark: `make speed`.

Machines are noisy, so what counts stands in `extra_info` as paired ratios, and nothing here passes or fails by time.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from rematbench.measuring.session import Session
from rematbench.measuring.timing import schedule
from rematbench.placement.placement import Placement
from rematbench.placement.registry import parse_strategy
from rematbench.placing.apply import apply
from rematbench.placing.outline import outline
from rematbench.records.measurement import Measurement, Status, Timing
from rematbench.records.run import Run
from rematbench.records.statistics import step_ratio
from rematbench.records.store import csv_text
from rematbench.reporting.compare import frontier_sheets
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import Workload

MODELS = ("plain.mlp?depth=12&width=256&batch=1024", "residual.conv_bn?width=16&batch=16&size=32")
PLAIN = Placement(name="none")
REFERENCE_RUN = Path(__file__).parent.parent / "results" / "reference" / "cpu.csv"


def session_of(model: str) -> Session:
    ref = ModelRef.parse(model, Path.cwd())
    return Session(build(ref, torch.device("cpu"), dtype=torch.float32, seed=0), torch.device("cpu"))


def bare_step(workload: Workload) -> float:
    """Return the seconds of one step as anyone would write it."""
    workload.module.zero_grad(set_to_none=True)
    start = time.perf_counter()
    output = workload.module(*workload.batch)
    loss = output.square().mean()
    loss.backward()
    return time.perf_counter() - start


@pytest.mark.parametrize("model", MODELS)
def test_none_against_a_bare_loop(benchmark: BenchmarkFixture, model: str) -> None:
    """`ratio` is the harness's plain step over the bare one, paired within a round, in random order."""
    session = session_of(model)
    ours: list[float] = []
    bare: list[float] = []
    sides: list[Callable[[], None]] = [
        lambda: ours.append(session.timed_step(PLAIN)),
        lambda: bare.append(bare_step(session.workload)),
    ]

    def one_round() -> None:
        random.shuffle(sides)
        for side in sides:
            side()

    benchmark.pedantic(one_round, rounds=100, warmup_rounds=5)
    ratio = step_ratio(Timing(step_s=tuple(ours[5:]), plain_s=tuple(bare[5:])))
    benchmark.extra_info.update(ratio=ratio.median, low=ratio.low, high=ratio.high)
    print(f"\n{model}: none over a bare loop {ratio.median:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]")


@pytest.mark.parametrize("model", MODELS)
def test_identical_placements(benchmark: BenchmarkFixture, model: str) -> None:
    """`covered` of `repetitions` intervals between two names for the same placement contain 1.0."""
    session = session_of(model)
    each = parse_strategy("each").resolve(outline(session.workload.module))
    seeds = iter(range(100))
    intervals = []

    def repetition() -> None:
        samples: dict[str, list[float]] = {"one": [], "other": []}
        for name in schedule(list(samples), seed=next(seeds), budget_s=1, clock=time.perf_counter, rounds=15):
            samples[name].append(session.timed_step(each))
        intervals.append(step_ratio(Timing(step_s=tuple(samples["one"]), plain_s=tuple(samples["other"]))))

    benchmark.pedantic(repetition, rounds=20)
    covered = sum(1 for found in intervals if found.low is not None and found.high and found.low <= 1 <= found.high)
    benchmark.extra_info.update(covered=covered, repetitions=len(intervals))
    print(f"\n{model}: {covered} of {len(intervals)} intervals contain 1.0")


def test_apply_to_a_thousand_blocks(benchmark: BenchmarkFixture) -> None:
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()) for _ in range(1000)))
    placement = parse_strategy("nested:2").resolve(outline(model))
    benchmark(lambda: apply(model, placement).remove())


def test_write_the_csv_of_a_thousand_rows(benchmark: BenchmarkFixture) -> None:
    """As after every row of a long run: all intervals but the newest are known."""
    rows = [
        Measurement(
            suite="mine",
            model=f"model{number // 10}",
            placement=f"placement{number % 10}",
            device="cpu",
            dtype="float32",
            status=Status.OK,
            timing=Timing(step_s=(0.1 + number / 1e6,) * 10, plain_s=(0.1,) * 10),
            measured_at="2030-01-31T00:00:00+00:00",
        )
        for number in range(1000)
    ]
    benchmark(csv_text, rows)


def test_read_and_compare_the_reference_run(benchmark: BenchmarkFixture) -> None:
    benchmark(lambda: list(frontier_sheets(Run(REFERENCE_RUN))))
