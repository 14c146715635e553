"""`rematbench report` and `rematbench show`, as typed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.reporting.samples import case, stored, toy

from rematbench import cli

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return stored(tmp_path / "run", [*toy(), case("none", 4, 1.0, model="other"), case("each", 2, 1.5, model="other")])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command line; return its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rematbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return typed


def test_a_page_is_written_whole(command: Command, run: Path, tmp_path: Path) -> None:
    assert command("report", run)[:2] == (0, "page in report.html\n")
    assert (tmp_path / "report.html").read_text().endswith("</html>")
    assert command("report", run, run, "--out", "two.html")[0] == 0
    assert {file.name for file in tmp_path.iterdir()} == {"run", "report.html", "two.html"}


def test_a_page_of_one_model(command: Command, run: Path, tmp_path: Path) -> None:
    assert command("report", run, "--model", "other")[0] == 0
    text = (tmp_path / "report.html").read_text()
    assert "<h2>other</h2>" in text
    assert "<h2>toy</h2>" not in text


def test_pictures_come_without_the_page(command: Command, run: Path, tmp_path: Path) -> None:
    status, said, _ = command("report", run, "--model", "toy", "--png", "a.png", "--svg", "a.svg")
    assert (status, said) == (0, "toy in a.png\ntoy in a.svg\n")
    assert {file.name for file in tmp_path.iterdir()} == {"run", "a.png", "a.svg"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--png", "a.png"], "--model: the run has 2 models, choose one of toy, other"),
        (["--png", "a.png", "--model", "othr"], "did you mean 'other'?"),
        (["--png", "a.jpg", "--model", "toy"], "has to end in .png"),
        (["--model", "othr"], "did you mean 'other'?"),
        (["--out", "gone/report.html"], "gone/report.html: No such file or directory"),
    ],
)
def test_mistakes_are_one_sentence(command: Command, run: Path, words: list[str], sentence: str) -> None:
    status, _, said = command("report", run, *words)
    assert status == 2
    assert sentence in " ".join(said.split())


def test_a_run_of_nothing(command: Command, tmp_path: Path) -> None:
    assert command("report", tmp_path / "gone")[0] == 2
    status, _, said = command("report", stored(tmp_path / "empty", []))
    assert status == 3
    assert "holds no rows" in said
    assert not (tmp_path / "report.html").exists()


def test_show(command: Command, run: Path) -> None:
    status, said, _ = command("show", run)
    assert status == 0
    assert "toy on cpu, float32" in said
    assert "dominated (3): half, least, bad" in said
    assert "a none  b (half)  c (least)  d (bad)" in said
    only = command("show", run, "--model", "other")[1]
    assert "toy" not in only
    assert "other on cpu" in only
    status, _, error = command("show", run, "--model", "othr")
    assert status == 2
    assert "did you mean 'other'?" in error
