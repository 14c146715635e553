"""`rematbench why` of a user's model."""

import subprocess
from pathlib import Path

import pytest
from tests import forked

from rematbench.records.diagnosis import Diagnosis

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.narrow(self.wide(x).relu())

def build(words=4096):
    model = nn.Sequential(nn.Sequential(*(Block(32) for _ in range(4))), nn.Linear(32, words))
    return model, (torch.randn(256, 32),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("why")
    (folder / "net.py").write_text(MODEL)
    return folder


def why(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return forked.rematbench("why", *arguments, "--device", "cpu", cwd=folder)


def test_the_verdict_is_printed_with_what_to_try(folder: Path) -> None:
    done = why(folder, "net.py:build")
    assert done.returncode == 0, done.stderr
    first, totals, parts, *rest = done.stdout.splitlines()
    assert first == "net.py:build under each on cpu, float32"
    assert "before the step and a peak of" in totals
    assert parts.startswith("at the peak: logits and loss 16 MiB")
    assert any(line.startswith("1. loss (16 MiB") for line in rest)


def test_json_is_the_whole_diagnosis_and_a_plan_can_be_explained(folder: Path) -> None:
    arguments = ("--json", "--accumulate", "2", "--set", "optimizer='adamw'", "--placement", "plan:90%")
    done = why(folder, "net.py:build?words=64", *arguments)
    assert done.returncode == 0, done.stderr
    found = Diagnosis.model_validate_json(done.stdout)
    assert (found.placement, found.accumulate, len(found.steps_peak_bytes)) == ("plan:90%", 2, 3)
    assert found.static_bytes + found.peak_bytes <= 0.9 * (found.static_bytes + found.plain_peak_bytes)
    assert found.environment is not None
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no.such",), "no.such"),
        (("net.py:build", "--placement", "eahc"), "did you mean 'each'"),
        (("net.py:build", "--placement", "modules:nothing"), "no module matches"),
        (("net.py:build", "--accumulate", "0"), "accumulate"),
    ],
)
def test_mistakes_exit_with_2(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = why(folder, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
