"""`rematbench inspect` of a user's model."""

import subprocess
from pathlib import Path

import pytest
from tests import forked

from rematbench.records.inspection import Inspection

MODEL = """
import torch
from torch import nn

class Huge(nn.Module):
    def forward(self, x):
        return x.repeat(1 << 50, 1)

def huge():
    return nn.Sequential(nn.Linear(8, 8), Huge()), (torch.randn(16, 8),)

def build(fail=False):
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)))
    if fail:
        blocks[1].forward = None
    return nn.Sequential(nn.Linear(8, 8), blocks), (torch.randn(16, 8),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "net.py").write_text(MODEL)
    return folder


def inspect(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return forked.rematbench("inspect", *arguments, cwd=folder)


def test_a_user_s_model_is_shown_with_its_saved_tensors(folder: Path) -> None:
    done = inspect(folder, "net.py:build", "--saved", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "· · [0:3]" in done.stdout
    assert "Sequential × 3" in done.stdout
    assert "relu (result)" in done.stdout
    assert "chains: the model 2 ×" in done.stdout


def test_json_is_the_whole_inspection_and_adds_up(folder: Path) -> None:
    done = inspect(folder, "net.py:build", "--json", "--set", "dtype='bfloat16'")
    assert done.returncode == 0, done.stderr
    found = Inspection.model_validate_json(done.stdout)
    assert found.dtype == "bfloat16"
    own = sum(module.own_bytes or 0 for module in found.modules)
    assert own + (found.loss_bytes or 0) == found.held_bytes
    linear = next(module for module in found.modules if module.path == "1.0.0")
    assert (linear.parameters, linear.calls, linear.outputs) == (72, 1, ((16, 8),))
    assert linear.forward_flops == 2 * 16 * 8 * 8
    assert linear.forward_s > 0
    assert linear.backward_s is not None
    assert [saved.bytes for saved in found.saved if saved.operator == "relu (result)"] == [16 * 8 * 2] * 3


def test_a_model_that_raises_gets_its_sentence(folder: Path) -> None:
    done = inspect(folder, "net.py:build?fail=true")
    assert done.returncode == 2
    assert "net.py:build?fail=true: inspecting: TypeError" in done.stderr
    assert "rematbench: " in done.stderr


def test_a_model_that_does_not_fit_gets_its_sentence(folder: Path) -> None:
    done = inspect(folder, "net.py:huge", "--device", "cpu")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rematbench: net.py:huge: inspecting: RuntimeError: ")
    assert "allocate" in done.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("no.such",), "no.such"), (("plain.mlp", "--depth", "-1"), "depth"), (("plain.mlp", "--device", "tpu"), "tpu")],
)
def test_mistakes_exit_with_2(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = inspect(folder, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
