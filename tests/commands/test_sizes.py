"""`rematbench predict`, `fit` and `plan --at`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests import forked
from tests.forked import Ended

from rematbench.records.run import Run

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.narrow(torch.relu(self.wide(x)))

def build(batch=32, width=16, depth=3):
    return nn.Sequential(*(Block(width) for _ in range(depth))), (torch.randn(batch, width),)
"""
AT = ("--at", "batch=512", "--at", "depth=12")

Rematbench = Callable[..., Ended]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "net.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def rematbench(folder: Path) -> Rematbench:
    return partial(forked.rematbench, cwd=folder)


def test_predicted_rows_are_those_of_a_run_at_that_size(rematbench: Rematbench, folder: Path) -> None:
    told = rematbench("predict", "net.py:build", *AT, "--placement", "each", "--run", "told", "--device", "cpu")
    assert told.returncode == 0, told.stderr
    assert "not run at this size" in told.stdout
    assert "came out to the byte" in told.stdout
    model = "net.py:build?batch=512&depth=12"
    really = rematbench("run", "--model", model, "--placement", "each", "--rounds", "0", "--out", "really")
    assert really.returncode == 0, really.stderr
    columns = ("model", "static_bytes", "peak_bytes", "held_bytes", "peak_phase", "forward_flops", "recompute_flops")
    rows = [
        {row.name: {name: row.cells[name] for name in columns} for row in Run(folder / at).rows.values()}
        for at in ("told", "really")
    ]
    assert rows[0] == rows[1]
    assert {row.cells["status"] for row in Run(folder / "told").rows.values()} == {"predicted"}
    compared = rematbench("compare", "told", "really")
    assert compared.returncode == 0, compared.stderr


def test_the_answer_of_a_fit_is_said_kept_and_gone_on_with(rematbench: Rematbench, folder: Path) -> None:
    asked = ("fit", "net.py:build", "--vary", "batch", "--memory", "4MiB", "--run", "fit", "--device", "cpu")
    done = rematbench(*asked, "--placement", "each", "--png", "fit.png")
    assert done.returncode == 0, done.stderr
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((folder / "fit" / "fit.json").read_text())
    by_name = {fitted["placement"]: fitted for fitted in kept["placements"]}
    assert set(by_name) == {"none", "each"}
    assert f"none {by_name['none']['value']}; each {by_name['each']['value']} for" in done.stdout
    assert all(fitted["bytes"] <= 4 * 2**20 < fitted["next_bytes"] for fitted in by_name.values())
    assert all(fitted["measured_bytes"] == fitted["bytes"] for fitted in by_name.values())
    again = rematbench(*asked, "--placement", "each", "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "fit" / "fit.json").read_text()) == kept
    other = rematbench(*(part.replace("4MiB", "5MiB") for part in asked), "--placement", "each", "--resume")
    assert (other.returncode, "another question" in other.stderr) == (2, True)


def test_a_plan_for_a_size_that_is_not_run(rematbench: Rematbench, folder: Path) -> None:
    done = rematbench(
        "plan", "net.py:build", *AT, "--budget", "50%", "--of", "step", "--out", "plan.json", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert "plan-flops:50%/step" in done.stdout
    assert json.loads((folder / "plan.json").read_text())["regions"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("predict", "net.py:build", "--at", "heads=4"), "unexpected keyword argument"),
        (("fit", "net.py:build", "--vary", "batch", "--at", "batch=4", "--memory", "1GiB"), "leave one of them out"),
        (("plan", "net.py:build", "--at", "batch=512", "--budget", "50%", "--minimise", "time"), "are not known"),
    ],
)
def test_bad_input_gets_a_sentence(rematbench: Rematbench, arguments: tuple[str, ...], sentence: str) -> None:
    done = rematbench(*arguments)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
