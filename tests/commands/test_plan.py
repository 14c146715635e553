"""`rematbench plan` on a model that nobody here prepared."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import forked

from rematbench import Placement
from rematbench.records.run import Run

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x):
        return x + self.narrow(torch.relu(self.wide(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

def build():
    return Net(), (torch.randn(4096, 16),)
"""

Rematbench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "net.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def rematbench(folder: Path) -> Rematbench:
    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return forked.rematbench(*arguments, cwd=folder)

    return call


QUICK = ("--set", "rounds=1", "--device", "cpu", "--minimise", "flops")


def test_a_plan_is_measured_explained_and_written(folder: Path, rematbench: Rematbench) -> None:
    done = rematbench("plan", "net.py:build", "--budget", "50%", *QUICK, "--run", "half", "--out", "plan.json")
    assert done.returncode == 0, done.stderr
    for said in (
        "of a budget of",
        "next point with more memory",
        "no schedule of these units goes below",
        "written to",
    ):
        assert said in done.stdout
    row = next(cells for cells in Run(folder / "half").cells if cells["placement"] != "none")
    plain = next(cells for cells in Run(folder / "half").cells if cells["placement"] == "none")
    assert row["peak_bytes"] + row["static_bytes"] <= (plain["peak_bytes"] + plain["static_bytes"]) / 2
    assert (row["gradients"], row["buffers"], row["rng_state"]) == ("bitwise", "equal", "equal")
    saved = Placement.load(folder / "plan.json")
    assert saved.regions
    assert saved.fingerprint
    again = rematbench("run", "--model", "net.py:build", "--placement", "plan.json", "--rounds", "0", "--out", "again")
    assert again.returncode == 0, again.stderr
    rerun = [cells for cells in Run(folder / "again").cells if cells["placement"] != "none"]
    assert [cells["peak_bytes"] for cells in rerun] == [row["peak_bytes"]]


def test_a_frontier_is_a_run_like_any_other(folder: Path, rematbench: Rematbench) -> None:
    done = rematbench("plan", "net.py:build", "--frontier", "--points", 4, "--set", "rounds=1", "--run", "curve")
    assert done.returncode == 0, done.stderr
    assert [cells["placement"] for cells in Run(folder / "curve").cells] == [
        "none", "frontier:1/4", "frontier:2/4", "frontier:3/4", "frontier:4/4",
    ]  # fmt: skip
    records = [json.loads(line) for line in (folder / "curve" / "measurements.jsonl").read_text().splitlines()]
    assert all("plan" in record for record in records if record["placement"] != "none")


def test_an_infeasible_budget_says_what_can_be_reached(rematbench: Rematbench) -> None:
    done = rematbench("plan", "net.py:build", "--budget", "20KiB", *QUICK, "--run", "never")
    assert done.returncode == 1
    assert "no placement fits; the least peak of the step is" in done.stdout
    assert "set by layers." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--budget or --frontier"),
        (("--budget", "1GiB", "--frontier"), "--budget or --frontier"),
        (("--budget", "much"), "a budget is 6GiB, 60% or 2GiB/step"),
        (("--budget", "1GiB", "--of", "all"), "--of is total or step"),
        (("--frontier", "--out", "plan.json"), "leave out --out and --minimise"),
        (("--frontier", "--minimise", "time"), "leave out --out and --minimise"),
    ],
)
def test_mistakes_get_one_sentence(rematbench: Rematbench, arguments: tuple[str, ...], sentence: str) -> None:
    done = rematbench("plan", "net.py:build", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
