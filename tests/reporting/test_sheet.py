"""Sheets written for other programs: nothing in a name means anything to them."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records.making import run_of
from tests.reporting.samples import stored, toy

from rematbench.commands.compare import compare
from rematbench.commands.show import show
from rematbench.reporting.compare import change_sheet, frontier_sheets
from rematbench.reporting.sheet import Sheet, to_csv, to_json, to_latex

RUN = run_of(*toy())
NASTY = r"a_b & 50 % of $x$ #1 {y} ~z^2 \\ [13] *|<> --save 2→1 3× 4 µs"
"""Everything that LaTeX reads as something else than itself, and what our own tables hold."""


def test_a_sheet_in_markdown_is_inert() -> None:
    sheet = Sheet(title="<img src=x onerror=alert(1)>", header=("a|b",), rows=(("`x`|*y*",),), notes=("_n_",))
    text = sheet.to_markdown()
    assert "<img" not in text.replace("\\<", "")
    assert all(mark not in text.replace(f"\\{mark}", "") for mark in "`*_")


def test_a_sheet_as_csv_and_json_is_what_it_holds() -> None:
    sheets = list(frontier_sheets(RUN))
    header, *lines = csv.reader(io.StringIO(to_csv(sheets)))
    assert header == ["table", *sheets[0].header]
    assert [tuple(line[1:]) for line in lines] == list(sheets[0].rows)
    (data,) = json.loads(to_json(sheets))
    assert [tuple(row.values()) for row in data["rows"]] == list(sheets[0].rows)


LIVE = ("@torvalds", "a@b.org", "see #12", "GH-7", "https://evil.example/x", "WWW.evil.example", "mailto:a", "ftp://x")


@pytest.mark.parametrize("text", LIVE)
def test_nothing_in_markdown_mentions_or_links(text: str) -> None:
    """GitHub looks for these in what Markdown comes to, so what stands there has to be broken, not escaped."""
    sheet = Sheet(title=text, header=(text,), rows=((text,),), notes=(text,))
    shown = re.sub(r"\\(.)", r"\1", sheet.to_markdown()).replace("&#8203;", "\u200b")
    found = re.findall(r"@\w|#\d|gh-\d|://|www\.|mailto:|xmpp:", shown, re.IGNORECASE)
    assert found == []
    assert shown.replace("\u200b", "").count(text) == 4


def test_a_cell_is_no_formula_to_a_spreadsheet_and_a_number_stays_one() -> None:
    texts = ("=1+1", "+1-1|cmd", "-x", "@a", "\t=1", "-12 %", "+1.5", "-3", "1.10×", "-2e-05", "")
    sheet = Sheet(title="=t", header=("a",), rows=tuple((text,) for text in texts))
    _, *lines = csv.reader(io.StringIO(to_csv([sheet])))
    assert {line[0] for line in lines} == {"'=t"}
    assert [line[1] for line in lines] == ["'=1+1", "'+1-1|cmd", "'-x", "'@a", "'\t=1", *texts[5:]]


def test_a_cell_is_one_line_that_steers_no_terminal() -> None:
    sheet = Sheet(title="a\x1b[2J", header=("h",), rows=(("x\n::error::y",),), notes=("\x9b1m\u202eb\rc",))
    text = sheet.to_text()
    assert text.splitlines()[0] == r"a\x1b[2J"
    assert "x ::error::y" in text
    assert text.splitlines()[-1] == r"  \x9b1m\u202eb c"


# LaTeX


def environments(latex: str) -> list[str]:
    """Return the environments of a text in the order they end; fails where they are not balanced."""
    around: list[str] = []
    ended: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if kind == "begin":
            around.append(name)
        else:
            assert around.pop() == name
            ended.append(name)
    assert not around
    return ended


def as_set(latex: str) -> str:
    """Read text of LaTeX back as it is set on paper; what would mean something else is refused."""
    commands = {"textasciitilde": "~", "textbackslash": "\\", "textbar": "|", "^": "^"}
    symbols = {"<": "<", ">": ">", r"\rightarrow": "→", r"\times": "×", r"\mu": "µ"}

    def read(found: re.Match[str]) -> str:
        if found["symbol"] is not None:
            return symbols[found["symbol"]]
        return found["quoted"] or found["braced"] or ("-" if found["dash"] else commands[found["command"]])

    pattern = (
        r"\\ensuremath\{(?P<symbol>[^}]*)\}|\\(?P<command>\^|[a-z]+)\{\}|\\(?P<quoted>[&%$#_{}])"
        r"|\{(?P<braced>[\[*])\}|(?P<dash>-)\{\}(?=-)|(?P<bare>--|[&%$#_{}~^\\|<>\[*→×µ])"
    )
    assert not [found.group() for found in re.finditer(pattern, latex) if found["bare"]]
    return re.sub(pattern, read, latex)


def parts(latex: str) -> tuple[str, list[list[str]], list[str]]:
    """Return a table's caption, its rows with the header first, and its notes, as they are set."""
    caption = re.search(r"\\caption\{(.*)\}\n", latex)
    body = re.search(r"\\toprule\n(.*)\\\\\n\\bottomrule", latex.replace("\\midrule\n", ""), re.DOTALL)
    assert caption
    rows = body[1].split("\\\\\n") if body else []
    cells = [[as_set(cell.strip()) for cell in re.split(r"(?<!\\)&", row)] for row in rows]
    return as_set(caption[1]), cells, [as_set(note) for note in re.findall(r"\\footnotesize (.*)\n", latex)]


NAMES = st.text(st.sampled_from("ab_%&$#{}~^\\[]*|<>-→×µ "), max_size=9).map(lambda text: " ".join(text.split()))


@settings(deadline=None)
@given(NAMES, st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=3), NAMES)
def test_every_text_is_set_as_it_is(title: str, rows: list[tuple[str, str]], note: str) -> None:
    latex = Sheet(title=title, header=("one", "2 %"), rows=tuple(rows), notes=(f"n {note}",)).to_latex()
    assert environments(latex) == ["tabular", "table"]
    found, cells, notes = parts(latex)
    assert (found, notes) == (title, [f"n {note}".strip()])
    assert cells == [["one", "2 %"], *map(list, rows)]


def test_a_sheet_without_rows_is_a_caption_with_notes() -> None:
    latex = Sheet(title="t", header=("a",), rows=(), notes=("nothing",)).to_latex()
    assert environments(latex) == ["table"]
    assert parts(latex) == ("t", [], ["nothing"])


def test_each_sheet_of_a_run_is_a_table(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", [*toy(model="my_model & co"), *toy(model="other")])
    compare([folder], latex=tmp_path / "compare.tex")
    show(folder, latex=tmp_path / "show.tex")
    for name in ("compare", "show"):
        text = (tmp_path / f"{name}.tex").read_text(encoding="utf-8")
        assert environments(text) == ["tabular", "table"] * 2
        assert r"\caption{my\_model \& co on cpu, float32}" in text


def test_pdflatex_takes_it(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex")
    sheets = [
        *frontier_sheets(RUN),
        change_sheet(RUN, RUN),
        Sheet(title=NASTY, header=(NASTY,), rows=((NASTY,), ("[13]",), ("*",)), notes=(NASTY,)),
        Sheet(title="nothing", header=("a",), rows=()),
    ]
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{to_latex(sheets)}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
