"""The command `rematbench`, as installed."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import __version__
from bench.loading import reference_models
from bench.placing.placement import Options
from bench.placing.strategies import known_strategies
from bench.results.columns import COLUMNS
from bench.results.store import Store, read_measurements
from bench.suite import shipped_suites

COMMAND = Path(sys.executable).parent / "rematbench"

Ended = subprocess.CompletedProcess[str]

NET = """
import torch
from torch import nn

class Sigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return torch.sigmoid(x * self.scale)

def build(depth=4, kib=1):
    return nn.Sequential(*(Sigmoid() for _ in range(depth))), (torch.randn(kib * 256),)

def alone():
    return nn.Linear(1, 1)
"""


def rematbench(*arguments: str, cwd: Path, **options: Any) -> Ended:
    """Run the command to its end."""
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=150,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(NET)
    (folder / "bad.toml").write_text(
        "models = ['net.py:build']\nplacements = ['each', {strategy = 'all', save = 'x'}]\n"
    )
    (folder / "long.toml").write_text("models = ['plain.mlp', 'plain.mpl']\n")
    return folder


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """What a user gets wrong, and what the sentence has to say."""

    arguments: tuple[str, ...]
    says: tuple[str, ...]


def mistake(*arguments: str, says: tuple[str, ...]) -> Mistake:
    return Mistake(arguments=("run", *arguments), says=says)


OWN = ("--model", "net.py:build")

MISTAKES = {
    "unknown suite": mistake("smoek", says=("unknown suite 'smoek'", "did you mean 'smoke'", "ends in .toml")),
    "missing suite": mistake("mine.toml", says=("suite mine.toml: No such file or directory",)),
    "bad suite": mistake("bad.toml", says=("bad.toml: placements[1].save", "matmuls")),
    "unknown model": mistake("--model", "plain.mpl", says=("unknown model 'plain.mpl'", "did you mean 'plain.mlp'")),
    "unknown model in a suite": mistake("long.toml", says=("unknown model 'plain.mpl'", "did you mean 'plain.mlp'")),
    "missing file": mistake("--model", "not.py:build", says=("not.py: no such file in ",)),
    "unimportable module": mistake("--model", "not_a.package:build", says=("no module named 'not_a'", "looked in ")),
    "wrong arguments": mistake("--model", "net.py:build?dept=2", says=("net.py:build(depth=4", "'dept'")),
    "unreadable arguments": mistake("--model", "net.py:build?depth", says=("write arguments as ?depth=24",)),
    "wrong return value": mistake("--model", "net.py:alone", says=("returned (Linear)", "expected (module, batch)")),
    "unknown placement": mistake(*OWN, "--placement", "eech", says=("unknown placement 'eech'", "did you mean 'each'")),
    "missing placement": mistake(*OWN, "--placement", "own.json", says=("placement file own.json: No such file",)),
    "unknown placement option": mistake(*OWN, "--placement", "each+sav=x", says=("unknown option 'sav'", "'save'")),
    "unknown setting": mistake(*OWN, "--set", "treads=1", says=("--set treads=1", "did you mean 'threads'")),
    "setting without a value": mistake(*OWN, "--set", "threads", says=("--set threads", "write key=value")),
    "bad setting": mistake(*OWN, "--set", "seed=-1", says=("settings.seed", "greater than or equal to 0")),
    "bad option": mistake(*OWN, "--timeout", "0", says=("settings.timeout_s", "greater than 0")),
    "missing device": mistake(*OWN, "--device", "cuda:99", says=("device 'cuda:99'", "use --device cpu")),
    "no folder": mistake(*OWN, "--out", "net.py", says=("net.py: File exists",)),
    "unwritable folder": mistake(*OWN, "--out", "/proc/results", says=("/proc/results: ", "writable")),
    "impossible folder": mistake(*OWN, "--out", "x" * 300, says=("File name too long",)),
    "nothing to resume": mistake(*OWN, "--resume", "--out", "no", says=("no holds no run",)),
}
"""What only a worker can find out is not all here: `tests/running/test_worker.py` has the rest."""


@pytest.fixture(scope="module")
def mended(folder: Path) -> Callable[[str], Ended]:
    """Make every mistake, as many at once as there are processors."""

    def make(name: str) -> Ended:
        return rematbench(*MISTAKES[name].arguments, cwd=folder)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = dict(zip(MISTAKES, pool.map(make, MISTAKES), strict=True))
    return ended.__getitem__


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_that_says_what_to_try(mended: Callable[[str], Ended], name: str) -> None:
    ended = mended(name)
    assert ended.returncode == 2
    assert ended.stdout == ""
    *before, sentence = ended.stderr.splitlines()
    assert sentence.startswith("rematbench: ")
    for part in MISTAKES[name].says:
        assert part in sentence
    assert all(line.startswith("cpu: ") for line in before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--bogus"), "No such option: --bogus"),
        (("run", "--rounds", "many"), "Invalid value for '--rounds'"),
        (("ran",), "No such command 'ran'"),
    ],
)
def test_what_the_command_line_does_not_know_is_said(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    ended = rematbench(*arguments, cwd=folder)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_debug_shows_where_an_error_comes_from(folder: Path) -> None:
    ended = rematbench("run", "smoek", "--debug", cwd=folder)
    assert ended.returncode != 0
    assert "Traceback" in ended.stderr
    assert "SuiteError: unknown suite 'smoek'" in ended.stderr


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("models", reference_models().items()),
        ("placements", known_strategies()),
        (
            "placements",
            [(name, f"default {str(option.default).lower()}") for name, option in Options.model_fields.items()],
        ),
        ("suites", [(name, "") for name in shipped_suites()]),
    ],
)
def test_what_there_is_is_listed_with_one_line_each(folder: Path, command: str, lines: list[tuple[str, str]]) -> None:
    ended = rematbench(command, cwd=folder)
    assert ended.returncode == 0
    printed = [line.split(maxsplit=1) for line in ended.stdout.splitlines()]
    for name, meaning in lines:
        assert [
            text for first, text in filter(lambda line: len(line) == 2, printed) if first == name and meaning in text
        ]


def test_the_version(folder: Path) -> None:
    assert rematbench("--version", cwd=folder).stdout == f"{__version__}\n"


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(folder: Path) -> None:
    ended = rematbench("placements", cwd=folder, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "each chain of n blocks in ?n regions" in ended.stdout


def test_a_reader_who_goes_away_is_no_reason_for_a_traceback(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as pipe:
        ended = subprocess.run(
            [COMMAND, "placements"], cwd=folder, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.stderr == ""


ODD = r"""
name = "odd, näme/of √"
placements = ["none"]

[settings]
threads = 1
rounds = 1

[[models]]
name = "net, \"quoted\"\n√"
model = "net.py:build"
arguments = { depth = 4, kib = 16384 }
"""


@pytest.fixture(scope="module")
def odd(folder: Path) -> Ended:
    """A run with `--json` and `--resident` under names that are hard to write, where the locale knows only ASCII."""
    (folder / "odd.toml").write_text(ODD, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return rematbench("run", "odd.toml", "--json", "--resident", cwd=folder, env=os.environ | ascii_only)


@pytest.fixture(scope="module")
def odd_rows(odd: Ended) -> list[dict[str, Any]]:
    assert odd.returncode == 0, odd.stderr
    rows: list[dict[str, Any]] = json.loads(odd.stdout, parse_constant=pytest.fail)
    return rows


def test_json_is_all_there_is_on_standard_output(odd: Ended, odd_rows: list[dict[str, Any]]) -> None:
    assert [list(row) for row in odd_rows] == [[column.name for column in COLUMNS]]
    assert "cpu: meter: 64 MiB asked, 64 MiB seen" in odd.stderr


def test_names_that_are_hard_to_write_come_back_as_they_were(folder: Path, odd_rows: list[dict[str, Any]]) -> None:
    (run,) = (folder / "results").glob("odd-n-me-of--2*")
    assert (folder / "results" / "latest").resolve() == run.resolve()
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        (cells,) = csv.DictReader(file)
    (row,) = odd_rows
    (measurement,) = read_measurements(run)
    names = ("odd, näme/of √", 'net, "quoted"\n√', "none")
    assert (measurement.suite, measurement.model, measurement.placement) == names
    assert (row["suite"], row["model"], row["placement"]) == names
    assert (cells["suite"], cells["model"], cells["placement"]) == names


def test_the_resident_set_follows_what_is_allocated(odd_rows: list[dict[str, Any]]) -> None:
    (row,) = odd_rows
    assert row["peak_bytes"] > 50 * 2**20
    assert row["resident_bytes"] == pytest.approx(row["peak_bytes"], rel=0.05)


def test_a_full_disk_ends_the_run_with_its_rows_intact(folder: Path) -> None:
    """By a limit on the size of every file, which the fourth row reaches."""
    limit = (4096, 4096)
    ended = rematbench(
        *("run", *OWN, "--rounds", "0", "--set", "threads=1", "--out", "full"),
        cwd=folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert ended.returncode == 2
    sentence = ended.stderr.splitlines()[-1]
    assert (
        sentence == "rematbench: full/measurements.jsonl: File too large; is the disk full or the folder not writable?"
    )
    assert (folder / "full" / "measurements.jsonl").read_bytes().endswith(b"}\n")
    rows = read_measurements(folder / "full")
    assert [row.placement for row in rows] == ["none", "each", "each-but-last"]
    with (folder / "full" / "results.csv").open(newline="") as file:
        assert [cells["placement"] for cells in csv.DictReader(file)] == ["none", "each", "each-but-last"]
    assert Store.resume(folder / "full", (folder / "full" / "suite.toml").read_text()).measurements == rows


def test_a_polite_kill_ends_a_run_as_ctrl_c_does(folder: Path) -> None:
    command, pipe = [COMMAND, "run", *OWN, "--out", "ended"], subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        parent = psutil.Process(process.pid)
        while not (workers := parent.children()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, error = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert error == "interrupted: 0 of 5 rows are in ended; go on with --resume --out ended\n"
    assert psutil.wait_procs(workers, timeout=10)[1] == []
