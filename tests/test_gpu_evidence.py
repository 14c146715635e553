"""The questions to a GPU run in miniature on a processor, so that they work at the first try on a card."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from benchmarks import gpu_evidence
from benchmarks.gpu_evidence import QUESTIONS, main


def answers(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "evidence.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", [name for name, question in QUESTIONS.items() if not question.needs_card])
def test_a_question_that_needs_no_card_is_answered(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_evidence, "SOME", ("plain.mlp",))
    assert main(["--device", "cpu", "--small", "--out", str(tmp_path), "--one", name]) == 0
    found = answers(tmp_path)
    assert not [answer for answer in found if answer["verdict"] in ("FAILS", "RAISED")]
    assert {answer["question"] for answer in found} == {name}
    assert len(found) >= 2
    assert found[-1]["what"] == "done"


def test_what_needs_a_card_is_skipped_and_each_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apart: list[str] = []

    def asked_here(name: str, _options: object, lines: Path, _limit_s: float) -> None:
        apart.append(name)
        gpu_evidence.write(lines, question=name, what="it", verdict="FAILS" if name == "plans" else "HOLDS")
        gpu_evidence.write(lines, question=name, what="done", verdict="TOLD", seconds=1)

    monkeypatch.setattr(gpu_evidence, "ask_apart", asked_here)
    for _ in range(2):
        assert main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert apart == [name for name, question in QUESTIONS.items() if not question.needs_card]
    assert {answer["question"] for answer in answers(tmp_path)} == {*QUESTIONS}
    with (tmp_path / "evidence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(answers(tmp_path)) == 2 * len(QUESTIONS)
    text = (tmp_path / "summary.txt").read_text()
    assert "plans: Do plans run in their budget" in text
    assert "1 FAILS" in text
    assert text in capsys.readouterr().out
    assert main(["--device", "cpu", "--out", str(tmp_path / "none"), "--limit", "0"]) == 0
    assert "no time was left for machine, self_test" in capsys.readouterr().out


def test_one_that_raises_or_takes_too_long_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--questions", "machine"]
    assert main(["--device", "cuda:7", "--out", str(tmp_path / "raised"), "--one", "self_test"]) == 0
    (raised, done) = answers(tmp_path / "raised")
    assert raised["verdict"] == "RAISED"
    assert "cuda:7" in str(raised["error"])
    assert done["what"] == "done"
    monkeypatch.setattr(gpu_evidence, "QUESTION_S", 0.01)
    assert main(["--device", "cpu", "--out", str(tmp_path / "late"), *names]) == 1
    assert "no end within" in str(answers(tmp_path / "late")[0]["error"])
    with pytest.raises(SystemExit, match="2"):
        main(["--questions", "what", "--out", str(tmp_path)])
    assert "unknown questions what: known are machine" in capsys.readouterr().err


def test_every_question_says_what_it_is_about() -> None:
    assert all(question.about.endswith(("?", ".")) for question in QUESTIONS.values())
