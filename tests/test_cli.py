"""The command `rematbench`: what it takes and lists, and how it refuses. `tests/running` has whole runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import forked
from tests.reporting.samples import stored, toy

from rematbench import __version__
from rematbench.cli import app, main
from rematbench.loading import reference_models
from rematbench.placement.placement import Options
from rematbench.placement.registry import STRATEGIES
from rematbench.suite.suite import load_suite, shipped_suites

COMMAND = str(Path(sys.executable).parent / "rematbench")

Ended = subprocess.CompletedProcess[str]
Here = Callable[..., Ended]
Mistakes = dict[str, tuple[tuple[str, ...], *tuple[str, ...]]]
"""What a user gets wrong, and parts of the sentence that says so."""

OPTIONS = Options.model_fields

NET = """
import torch
from torch import nn

def build(depth=4):
    return nn.Sequential(*(nn.Linear(1, 1) for _ in range(depth))), (torch.randn(1),)

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


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Run the command in this process, for what needs no worker: a process takes half a second to start."""

    def run(*arguments: str) -> Ended:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["rematbench", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


OWN = ("--model", "net.py:build")

MISTAKES: Mistakes = {
    "unknown suite": (("smoek",), "unknown suite 'smoek': did you mean 'smoke'?", "ends in .toml"),
    "missing suite": (("mine.toml",), "suite mine.toml: No such file or directory"),
    "bad suite": (("bad.toml",), "bad.toml: placements[1].save", "matmuls"),
    "unknown model": (("--model", "plain.mpl"), "unknown model 'plain.mpl': did you mean 'plain.mlp'?"),
    "unknown model in a suite": (("long.toml",), "unknown model 'plain.mpl': did you mean 'plain.mlp'?"),
    "missing file": (("--model", "not.py:build"), "not.py: no such file in "),
    "unreadable arguments": (("--model", "net.py:build?depth"), "write arguments as ?depth=24"),
    "unknown placement": ((*OWN, "--placement", "eech"), "unknown placement 'eech': did you mean 'each'?"),
    "missing placement": ((*OWN, "--placement", "own.json"), "placement file own.json: No such file"),
    "unknown placement option": ((*OWN, "--placement", "each+sav=x"), "unknown option 'sav': did you mean 'save'?"),
    "unknown setting": ((*OWN, "--set", "treads=1"), "--set treads=1: ", "did you mean 'threads'?"),
    "setting without a value": ((*OWN, "--set", "threads"), "--set threads: ", "write key=value"),
    "bad setting": ((*OWN, "--set", "seed=-1"), "settings.seed: ", "greater than or equal to 0"),
    "bad option": ((*OWN, "--timeout", "0"), "settings.timeout_s: ", "greater than 0"),
    "no folder": ((*OWN, "--out", "net.py"), "net.py: File exists"),
    "unwritable folder": ((*OWN, "--out", "/proc/results"), "/proc/results: ", "writable"),
    "impossible folder": ((*OWN, "--out", "x" * 300), "File name too long"),
    "nothing to resume": ((*OWN, "--resume", "--out", "no"), "no holds no run"),
}
WORKERS_FIND: Mistakes = {
    "unimportable model": (("--model", "not_a.package:build"), "no module named 'not_a'; looked in "),
    "wrong arguments": (("--model", "net.py:build?dept=2"), "net.py:build(depth=4): ", "'dept'"),
    "wrong return value": (("--model", "net.py:alone"), "returned (Linear): expected (module, batch)"),
    "missing device": ((*OWN, "--device", "cuda:99"), "device 'cuda:99': ", "use --device cpu"),
}


def check_sentence(ended: Ended, parts: Iterable[str]) -> None:
    assert ended.returncode == 2
    assert ended.stdout == ""
    *before, sentence = ended.stderr.splitlines()
    assert sentence.startswith("rematbench: ")
    assert all(part in sentence for part in parts), sentence
    assert all(line.startswith("cpu: ") for line in before)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_that_says_what_to_try(here: Here, name: str) -> None:
    check_sentence(here("run", *MISTAKES[name][0]), MISTAKES[name][1:])


@pytest.fixture(scope="module")
def refused(folder: Path) -> dict[str, Ended]:
    """Make the mistakes that take workers to find."""
    return {name: forked.rematbench("run", *case[0], cwd=folder) for name, case in WORKERS_FIND.items()}


@pytest.mark.parametrize("name", WORKERS_FIND)
def test_so_is_one_that_only_a_worker_can_find(refused: dict[str, Ended], name: str) -> None:
    check_sentence(refused[name], WORKERS_FIND[name][1:])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--bogus"), "No such option: --bogus"),
        (("run", "--rounds", "many"), "Invalid value for '--rounds'"),
        (("ran",), "No such command 'ran'"),
    ],
)
def test_what_the_command_line_does_not_know_is_said(here: Here, arguments: tuple[str, ...], says: str) -> None:
    ended = here(*arguments)
    assert ended.returncode == 2
    assert says in ended.stderr


FAILING: dict[str, tuple[str, ...]] = {
    "run": ("run", "smoek"),
    "compare": ("compare", "nowhere"),
    "check": ("check", "nowhere", "--against", "nowhere"),
    "inspect": ("inspect", "plain.mpl"),
    "why": ("why", "plain.mpl"),
    "plan": ("plan", "net.py:build"),
    "report": ("report", "nowhere"),
    "show": ("show", "nowhere"),
    "baseline update": ("baseline", "update", "nowhere", "base.csv"),
}
"""Every verb that an error can end."""


def test_every_verb_that_an_error_can_end_is_known_here() -> None:
    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert verbs == {name for name in FAILING if " " not in name} | {"models", "placements", "suites"}


@pytest.mark.parametrize("name", FAILING)
def test_debug_shows_where_an_error_comes_from(here: Here, name: str) -> None:
    """Before the verb or behind it; the exit status is the error's."""
    plain = here(*FAILING[name])
    before, behind = here("--debug", *FAILING[name]), here(*FAILING[name], "--debug")
    assert "Traceback" not in plain.stderr
    sentence = plain.stderr.removeprefix("rematbench: ").strip()
    for debugged in (before, behind):
        assert debugged.returncode == plain.returncode
        assert debugged.stderr.startswith("Traceback")
        assert debugged.stderr.strip().endswith(f"Error: {sentence}")


@pytest.mark.parametrize("verb", [(), *((name,) for name in FAILING if " " not in name), ("baseline", "update")])
def test_help_has_a_short_form(here: Here, verb: tuple[str, ...]) -> None:
    short, long = here(*verb, "-h"), here(*verb, "--help")
    assert short.returncode == long.returncode == 0
    assert short.stdout == long.stdout
    assert "--help" in short.stdout


def test_the_package_runs_as_the_command(folder: Path) -> None:
    command = [sys.executable, "-m", "rematbench", "--version"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{__version__}\n", "")


HEAVY = ("torch", "scipy", "pandas", "plotly", "matplotlib", "jinja2")


def test_help_waits_for_nothing_heavy(folder: Path) -> None:
    listed = "import atexit, sys; atexit.register(lambda: print('imported', *sys.modules))"
    command = [sys.executable, "-c", f"{listed}; from rematbench.cli import main; main()", "--help"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(ended.stdout.rpartition("imported ")[2].split())


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("models", reference_models().items()),
        ("placements", [(known.form, known.meaning) for known in STRATEGIES.values()]),
        ("placements", [(name, f"default {str(option.default).lower()}") for name, option in OPTIONS.items()]),
        ("suites", [(name, load_suite(name).description) for name in shipped_suites()]),
    ],
)
def test_what_there_is_is_listed_with_one_line_each(here: Here, command: str, lines: list[tuple[str, str]]) -> None:
    ended = here(command)
    assert ended.returncode == 0
    printed = {tuple(line.split(maxsplit=1)) for line in ended.stdout.splitlines()}
    assert printed >= {*lines}


def test_the_version(here: Here) -> None:
    assert here("--version").stdout == f"{__version__}\n"


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(folder: Path) -> None:
    ended = rematbench("placements", cwd=folder, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "each chain of n blocks in ?n regions" in ended.stdout


PRINTING: dict[str, tuple[str, ...]] = {
    "a list": ("placements",),
    "help": ("run", "--help"),
    "the version": ("--version",),
    "a table": ("show", "run"),
    "findings": ("check", "run", "--against", "run"),
}
"""Commands that end well and print, each in another way."""


@pytest.fixture(scope="module")
def with_run(folder: Path) -> Path:
    stored(folder / "run", toy()[:4])
    return folder


@pytest.mark.parametrize("name", PRINTING)
def test_a_reader_who_goes_away_ends_it_quietly_as_shells_expect(with_run: Path, name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as pipe:
        ended = subprocess.run(
            [COMMAND, *PRINTING[name]], cwd=with_run, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("name", PRINTING)
def test_a_full_standard_output_is_a_sentence_and_no_verdict(with_run: Path, name: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [COMMAND, *PRINTING[name]], cwd=with_run, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "rematbench: standard output: No space left on device; is the disk full?\n"


def test_a_full_standard_error_is_not_worth_the_answer(with_run: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [COMMAND, "show", "gone"], cwd=with_run, stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (ended.returncode, ended.stdout) == (2, "")


BUG = "from rematbench import cli\nfrom rematbench.commands import baseline, show\n"
UNFORESEEN = ("ValueError('odd\\nnews')", "EOFError('odd')", "BrokenPipeError(32, 'odd')", "RecursionError('odd')")


@pytest.mark.parametrize("options", [(), ("--debug",)])
@pytest.mark.parametrize("error", UNFORESEEN)
def test_an_error_that_nobody_foresaw_has_a_code_of_its_own(
    with_run: Path, error: str, options: tuple[str, ...]
) -> None:
    """Also one that the command line's library would end with 1, by itself: that means a regression."""
    for verb, name in (("show", "show.models_of"), ("baseline", "baseline.Run")):
        script = f"{BUG}\n\ndef bug(*_):\n    raise {error}\n\n{name} = bug\n"
        arguments = (verb, "update", "run", "o.csv") if verb == "baseline" else (verb, "run")
        command = [sys.executable, "-c", f"{script}cli.main()", *arguments, *options]
        ended = subprocess.run(command, cwd=with_run, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (70, "")
        *trace, sentence = ended.stderr.splitlines()
        assert sentence.startswith(f"rematbench: {error.partition('(')[0]}: ")
        assert "this is a bug of ours, please report it with its traceback" in sentence
        assert bool(trace) == bool(options)
        assert trace[:1] == ["Traceback (most recent call last):"][: len(trace)]
