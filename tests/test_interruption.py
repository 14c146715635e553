"""Ctrl-C at any time ends the command with 130 and no traceback, and so does a polite kill."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.reporting.samples import stored, toy

STRUCK = """
import os, signal, sys

def strike(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        os.kill(os.getpid(), signal.{name})

sys.addaudithook(strike)
sys.argv = ["rematbench", *{arguments!r}]
from rematbench.__main__ import main
main()
"""


def struck(folder: Path, module: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, which is interrupted as it begins to import a module."""
    script = STRUCK.format(module=module, name=name, arguments=arguments)
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", ["typer", "pydantic_core", "rematbench.records.store", "rematbench.commands.show"])
def test_an_interruption_while_it_is_imported_is_quiet(tmp_path: Path, module: str, name: str) -> None:
    ended = struck(tmp_path, module, name, "show", "gone")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", ["jinja2", "plotly"])
def test_so_is_one_in_a_verb_that_has_nothing_to_keep(tmp_path: Path, module: str, name: str) -> None:
    """What a verb imports late; standard output may have lines by then, but no verdict follows."""
    stored(tmp_path / "run", toy())
    ended = struck(tmp_path, module, name, "report", "run")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
    assert not (tmp_path / "report.html").exists()


def test_what_the_shell_has_ignored_stays_ignored(tmp_path: Path) -> None:
    """As for a command in the background of a script."""
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    script += STRUCK.format(module="typer", name="SIGINT", arguments=("--version",))
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
