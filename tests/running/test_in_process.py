"""A step that somebody else times, built in this process: as a worker builds it, and leaving nothing behind."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rematbench.running.in_process import ready_step
from rematbench.running.protocol import JobOrder
from rematbench.running.worker import carry_out
from rematbench.suite.suite import Device, Job, Suite

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        from late_neighbour import at_root, SEEN  # in the step, as torch's own code does
        SEEN.append((at_root(), torch.get_num_threads()))
        return torch.tanh(self.linear(x))

def build():
    import late_neighbour
    return nn.Sequential(*(Block() for _ in range(2))), (torch.randn(2, 8),)
"""
NEIGHBOUR = "SEEN = []\ndef at_root():\n    import late_root\n    return late_root.VALUE\n"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A model in a folder of its own, whose blocks import what is beside it, and that what is in the root."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.py").write_text(NET)
    (tmp_path / "nets" / "late_neighbour.py").write_text(NEIGHBOUR)
    (tmp_path / "late_root.py").write_text("VALUE = 7")
    for name in ("late_neighbour", "late_root"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    settings = {"rounds": 0, "threads": 2}
    data: dict[str, Any] = {"name": "s", "models": ["nets/net.py:build"], "placements": ["each"], "settings": settings}
    (made,) = Suite.model_validate(data).jobs(tmp_path, [Device(name="cpu")])
    return made


def run_in_process(job: Job) -> None:
    with ready_step(job) as step:
        step.prepare()
        step.run()


def run_as_a_worker(job: Job) -> None:
    carry_out(JobOrder(job=job, measure=("each",), time=(), plain=False), lambda _message: None)
    gc.unfreeze()  # a worker tells the collector to leave alone what is there; this process goes on


@pytest.mark.parametrize("run", [run_in_process, run_as_a_worker])
def test_both_build_and_run_a_model_on_the_same_import_path(job: Job, run: Callable[[Job], None]) -> None:
    threads, path = torch.get_num_threads(), list(sys.path)
    try:
        run(job)
    finally:
        torch.set_num_threads(threads)
    assert set(sys.modules["late_neighbour"].SEEN) == {(7, 2)}
    assert sys.path == path


def test_random_state_and_threads_are_put_back(job: Job) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run_in_process(job)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads != job.settings.threads
