"""The gate, on runs of a model that a change makes hold more."""

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import forked

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x):
        return self.linear(x).relu()

def build():
    return nn.Sequential(nn.Linear(64, 64), nn.Sequential(*[Block() for _ in range(4)])), (torch.randn(256, 64),)
"""
ACTIVATION = 256 * 64 * 4
GREEDY = MODEL.replace(".relu()", ".sigmoid().relu()")  # sigmoid keeps its output, besides the relu's

Rematbench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def rematbench(folder: Path) -> Rematbench:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return forked.rematbench(*arguments, cwd=folder, env={"GITHUB_STEP_SUMMARY": str(folder / "summary.md")})

    return call


@pytest.fixture(scope="module")
def measured(folder: Path, rematbench: Rematbench) -> Path:
    """A run of the model as it is, and the baseline made of it."""
    (folder / "net.py").write_text(MODEL)
    done = rematbench("run", "--model", "net.py:build", "--placement", "each@1", "--rounds", 0, "--out", "plain")
    assert done.returncode == 0, done.stderr
    assert rematbench("baseline", "update", "plain", "base.csv").returncode == 0
    return folder / "base.csv"


def edited(source: Path, target: Path, **cells: str) -> Path:
    """Write a copy of a CSV whose last row has other cells."""
    with source.open(newline="") as file:
        header, *lines = csv.reader(file)
    for name, value in cells.items():
        lines[-1][header.index(name)] = value
    with target.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    return target


def test_a_block_that_saves_one_more_activation_turns_the_gate_red(
    folder: Path, measured: Path, rematbench: Rematbench
) -> None:
    """Red by both the first and the second measurement, where one is asked for; seed and threads change nothing."""
    (folder / "own.toml").write_text('models = ["net.py:build"]\nplacements = ["each@1"]\n')
    (folder / "net.py").write_text(GREEDY)
    again = ("--retry", "own.toml")
    suite = ("--model", "net.py:build", "--placement", "each@1", "--rounds", 0)
    assert rematbench("run", *suite, "--out", "greedy").returncode == 0
    red = rematbench("check", "greedy", "--against", measured, *again)
    assert red.returncode == 1
    (line,) = [line for line in red.stdout.splitlines() if "net.py:build · none" in line]
    assert f"{ACTIVATION * 4 >> 10} KiB" in line
    assert "in backward: held after forward" in line
    assert "; more is held by 1 +256 KiB" in line
    (folder / "net.py").write_text(MODEL)
    assert rematbench("check", "greedy", "--against", measured).returncode == 1  # read, not measured again
    calmed = rematbench(
        "check", "greedy", "--against", measured, *again
    )  # the second measurement is of the reverted model
    assert (calmed.returncode, calmed.stdout) == (0, "2 rows: all as in the baseline\n")
    other = ("--set", "seed=7", "--set", "threads=1")
    assert rematbench("run", *suite, *other, "--out", "other").returncode == 0
    assert rematbench("check", "other", "--against", measured).returncode == 0


def test_a_second_measurement_of_something_else_calms_nothing(
    folder: Path, measured: Path, rematbench: Rematbench, tmp_path: Path
) -> None:
    (folder / "small.toml").write_text(
        'models = [{ model = "net.py:small", name = "net.py:build" }]\nplacements = ["each@1"]\n'
    )
    (folder / "other.toml").write_text('models = ["net.py:small"]\n')
    (folder / "net.py").write_text(
        MODEL + MODEL.replace("build", "small").replace("Linear(64, 64)", "Linear(64, 64, False)")
    )
    now = edited(measured, tmp_path / "now.csv", peak_bytes="99000000")
    for suite, says in (
        ("small", "has other static bytes by it"),
        ("other", "is not measured again by the suite other"),
    ):
        done = rematbench("check", now, "--against", measured, "--retry", f"{suite}.toml")
        assert done.returncode == 1, done.stderr
        assert f"net.py:build · each@1 · cpu · float32 {says}" in done.stdout
    (folder / "net.py").write_text(MODEL)
    unknown = rematbench("check", measured, "--against", measured, "--retry", "mine")
    assert (unknown.returncode, "unknown suite 'mine'" in unknown.stderr) == (2, True)


CODES: dict[str, tuple[dict[str, str], tuple[str, ...], int, str]] = {
    "fine": ({}, (), 0, "all as in the baseline"),
    "regression": ({"peak_bytes": "99000000"}, (), 1, "regression: net.py:build · each@1 peaks at"),
    "allowed": ({"peak_bytes": "99000000"}, ("--allow", "net.py:build/each@1=100000%"), 0, "all as in the baseline"),
    "win": ({"peak_bytes": "1"}, (), 0, "win: net.py:build · each@1 peaks at"),
    "strict win": ({"peak_bytes": "1"}, ("--strict-wins",), 1, "win: net.py:build · each@1 peaks at"),
    "bad margin": ({}, ("--memory", "much"), 2, "'much' is not a percentage"),
    "unknown row": ({}, ("--allow", "x/y=1%"), 2, "the baseline has no such row"),
    "another torch": ({"torch": "2.9.1"}, (), 3, "comes from another environment than the baseline (torch"),
    "another row": ({"placement": "sqrt"}, (), 3, "is in the baseline but was not measured"),
    "gradients": ({"gradients": "different"}, (), 4, "has gradients different, bitwise in the baseline"),
    "loss": ({"loss": "different"}, (), 4, "has loss different, equal in the baseline"),
    "random state": ({"rng_state": "different"}, (), 4, "has rng_state different, equal in the baseline"),
    "a frozen buffer": ({"static_bytes": "268435456"}, (), 1, "starts from"),
    "an unknown verdict": ({"gradients": "fine"}, (), 3, "has the unknown verdict 'fine' on gradients"),
    "no verdict": ({"loss": ""}, (), 3, "has no verdict on loss"),
    "below zero": ({"peak_bytes": "-1"}, (), 3, "has peak_bytes -1: nothing can be judged by that"),
    "a margin of 400 digits": ({}, ("--memory", "9" * 400 + "%"), 2, "is beyond 1,000,000 %"),
    "buffers": ({"buffers": "different"}, (), 4, "has buffers different, equal in the baseline"),
}


@pytest.mark.parametrize("name", CODES)
def test_every_exit_code(name: str, measured: Path, rematbench: Rematbench, tmp_path: Path) -> None:
    cells, options, code, says = CODES[name]
    done = rematbench("check", edited(measured, tmp_path / "now.csv", **cells), "--against", measured, *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


BROKEN: dict[str, tuple[Callable[[str], str], int, str]] = {
    "empty": (lambda text: text[:0], 3, "holds no rows: nothing was measured"),
    "cut mid-row": (lambda text: text[:-25], 3, "was cut short in its last row"),
    "a column missing": (lambda text: text.replace("peak_bytes", "peak", 1), 2, "it has no column peak_bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("side", ["run", "baseline"])
def test_a_broken_file_is_one_sentence(
    name: str, side: str, measured: Path, rematbench: Rematbench, tmp_path: Path
) -> None:
    spoil, code, says = BROKEN[name]
    broken = tmp_path / "broken.csv"
    broken.write_text(spoil(measured.read_text()))
    run, against = (broken, measured) if side == "run" else (measured, broken)
    done = rematbench("check", run, "--against", against)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_baseline_cannot_be_judged(measured: Path, rematbench: Rematbench) -> None:
    done = rematbench("check", measured, "--against", "nowhere.csv")
    assert done.returncode == 3
    assert "there is no baseline nowhere.csv" in done.stderr


def test_an_update_shows_the_difference_and_keeps_the_margins(
    measured: Path, rematbench: Rematbench, tmp_path: Path
) -> None:
    baseline = edited(measured, tmp_path / "base.csv", margin="2%", peak_bytes="99000000")
    done = rematbench("baseline", "update", measured, baseline)
    assert done.returncode == 0
    assert "each@1" in done.stdout
    assert "better" in done.stdout
    with baseline.open(newline="") as file:
        assert [row["margin"] for row in csv.DictReader(file)] == ["", "2%"]


def test_the_files_for_other_tools_are_written(folder: Path, measured: Path, rematbench: Rematbench) -> None:
    done = rematbench("check", measured, "--against", measured, "--benchmark-json", "b.json", "--junit-xml", "j.xml")
    assert done.returncode == 0
    assert "net.py:build/each@1" in (folder / "b.json").read_text()
    assert 'failures="0"' in (folder / "j.xml").read_text()
    compared = rematbench("compare", measured, measured, "--markdown", "c.md", "--csv", "c.csv", "--json", "c.json")
    assert compared.returncode == 0
    assert (folder / "c.md").read_text() in (folder / "summary.md").read_text()
    assert "geometric mean" in (folder / "c.csv").read_text()
    assert "geometric mean" in (folder / "c.json").read_text()
