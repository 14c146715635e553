"""The code blocks of the documentation, and how each is run as it stands.

A block whose first line is a comment with a file's name is that file. A block below `<!-- not run: why -->` is only
held to the command line. Every other one is run: `python` in this process, `console` line by line in a shell.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from tests import forked

from rematbench.cli import app
from rematbench.suite.suite import custom_suite, load_suite, select

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"```(\S*)$")
_FILE = re.compile(r"# ([\w./-]+\.\w+)(, at the end(?: of (\w+))?)?$")
_SHELL = re.compile(r"[|&;<>()$`*?\[\]~{}]")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->$")
_NUMBER = re.compile(r"-?\d[\d,.]*(?:e[-+]?\d+)?")
_UNIT = re.compile(r"# (?:ns|µs|ms|s|B|KiB|MiB|GiB|FLOP|kFLOP|MFLOP|GFLOP|TFLOP)\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        line: where its fence opens, from 1.
        not_run: why it is not run; None where it is.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def file(self) -> re.Match[str] | None:
        """The name in its first line, and where in that file it goes."""
        return _FILE.match(self.text.partition("\n")[0])

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command of a console block with the output lines shown below it."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    found: list[Block] = []
    start, language, lines = 0, "", page.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        if not start and (fence := _FENCE.match(line)):
            start, language = number, fence[1]
        elif start and line == "```":
            text = "\n".join(lines[start : number - 1]) + "\n"
            reason = _NOT_RUN.match(lines[start - 2])
            not_run = reason[1] if reason else None
            found.append(Block(page=page, line=start, language=language, text=text, not_run=not_run))
            start = 0
    return found


def write_file(block: Block, folder: Path) -> None:
    """Write the file that a block is, or put it at the end of a file, or of a table in it, if it says so."""
    name = block.file
    assert name
    path, table, text = folder / name[1], name[3], block.text
    if name[2]:
        source, text = path.read_text(), text.partition("\n")[2]
        head, opening, rest = source.partition(f"\n{table} = (\n")
        inside, closing, behind = rest.partition("\n)\n")
        assert opening or not table, f"{block}: no {table} in {path}"
        text = f"{head}{opening}{inside}\n{text.rstrip()},{closing}{behind}" if table else f"{source}\n\n{text}"
    path.write_text(text)


def run_block(block: Block, folder: Path, environment: dict[str, str] | None = None, *, real: bool = True) -> None:
    """Run a console block in a folder, and hold what it prints to what the block shows.

    Args:
        real: start the installed command; otherwise a fork of this process is it, where a line is nothing else.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider", **(environment or {})}
    for command, shown in block.commands:
        program, *arguments = shlex.split(command, comments=True)
        if program == "rematbench" and not real and not _SHELL.search(command):
            done = forked.rematbench(*arguments, cwd=folder)
        else:
            call = ["bash", "-o", "pipefail", "-c", command]
            done = subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}: {command}\n{done.stdout}{done.stderr}"
        assert not (missing := not_printed(shown, done.stdout)), (
            f"{block}: {command} does not print\n{missing}\nbut\n{done.stdout}{done.stderr}"
        )


def not_printed(shown: list[str], printed: str) -> str:
    """Return the first line shown that is not printed in its turn, empty if all are.

    `…` stands for any lines. Numbers, their units and spaces may differ, but for a line that is nothing but a whole
    number, as an exit code is.
    """
    lines: Iterator[str] = iter([alike(line) for line in printed.splitlines()])
    return next((line for line in shown if line != "…" and alike(line) not in lines), "")


def alike(line: str) -> str:
    """Return a line without what differs from run to run."""
    if line.strip().isdecimal():
        return line.strip()
    return _UNIT.sub("#", " ".join(_NUMBER.sub("#", re.sub("-{2,}", "-", line)).split()))


def run_python(blocks: list[Block], folder: Path) -> None:
    """Run the Python blocks of a page, one after the other as a notebook does, in the folder they speak of."""
    names: dict[str, object] = {"__name__": "__main__"}
    with working_in(folder), contextlib.redirect_stdout(None):
        for block in blocks:
            try:
                exec(compile(block.text, str(block), "exec"), names)
            except Exception as error:  # pytest would show the whole page as the source of the error
                pytest.fail(f"{block}: {type(error).__name__}: {error}", pytrace=False)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Be in a folder, with the modules in it importable, and forget them afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def check_command(text: str) -> None:
    """Hold a command that is not run to what there is: its options, its suite, its settings, its make target."""
    program, *arguments = shlex.split(text, comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {argument for argument in arguments if "=" not in argument} <= set(targets), text
    elif program == "rematbench":
        check_rematbench(arguments)
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), text
    else:
        assert program in ("pip", "git", "pytest", "source"), text


def check_rematbench(arguments: list[str]) -> None:
    """Parse a command line as the command does, and of `run` the suite with what it is narrowed by."""
    command, path = typer.main.get_command(app), ["rematbench"]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        name, *arguments = arguments
        command = command.commands[name]  # type: ignore[attr-defined]
        path.append(name)
    if len(path) == 1:
        assert arguments in (["--help"], ["--version"]), arguments
        return
    given = command.make_context(" ".join(path), arguments).params
    if path == ["rematbench", "run"]:
        models, placements = given["model"] or (), given["placement"] or ()
        suite = load_suite(given["suite"] or "default") if given["suite"] or not models else custom_suite(models)
        select(suite, models, placements, given["settings"] or ())
