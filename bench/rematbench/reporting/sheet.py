"""A table ready to be written: as text, Markdown, LaTeX, CSV or JSON. tabulate draws the first three."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tabulate import LATEX_ESCAPE_RULES, tabulate

from rematbench.records.columns import csv_lines, shielded
from rematbench.reporting.texts import one_line, visible

_LATEX = {
    "[": "{[}",  # at the start of a row it would be the optional argument of the `\\` before it
    "*": "{*}",  # and this its star
    "|": r"\textbar{}",
    "→": r"\ensuremath{\rightarrow}",
    "×": r"\ensuremath{\times}",
    "µ": r"\ensuremath{\mu}",
}
"""What tabulate leaves as it is and pdfLaTeX reads or sets as something else."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Attributes:
    rows: as many cells each as the header has; text only.
    notes: what a reader should know, below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Write it for a terminal."""
        header, *rows = [[one_line(cell) for cell in row] for row in (self.header, *self.rows)]
        table = tabulate(rows, headers=header, colalign=self._alignment(), disable_numparse=True)
        return "\n".join([one_line(self.title), table, *(f"  {one_line(note)}" for note in self.notes)])

    def to_markdown(self) -> str:
        """Write it as GitHub's Markdown; what a model's name could mean in it is escaped."""
        header, *rows = [[escaped(cell) for cell in row] for row in (self.header, *self.rows)]
        table = tabulate(rows, headers=header, tablefmt="pipe", colalign=self._alignment(), disable_numparse=True)
        return "\n\n".join([f"#### {escaped(self.title)}", table, *(escaped(note) for note in self.notes)])

    def to_latex(self) -> str:
        """Write it as a `table` of LaTeX for the package booktabs, its title the caption; every name is escaped.

        Letters outside ASCII, which only names can bring in, are for LaTeX to know.
        """
        header, *rows = [[" ".join(cell.split()) for cell in row] for row in (self.header, *self.rows)]
        table = tabulate(
            rows, headers=header, tablefmt="latex_booktabs", colalign=self._alignment(), disable_numparse=True
        )
        title, *notes = [
            "".join(LATEX_ESCAPE_RULES.get(one, one) for one in " ".join(text.split()))
            for text in (self.title, *self.notes)
        ]
        latex = "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{title}}}",
                *([table] if rows else []),  # without rows it would be a tabular of no columns, which is an error
                *(rf"\par\footnotesize {note}" for note in notes),
                r"\end{table}",
            ]
        )
        for text, command in _LATEX.items():
            latex = latex.replace(text, command)
        return re.sub("-(?=-)", "-{}", latex)  # two in a row would be set as a dash

    def _alignment(self) -> tuple[str, ...] | None:
        """Put columns of numbers to the right."""
        columns = zip(*self.rows, strict=True)
        return tuple("right" if all(map(_is_number, column)) else "left" for column in columns) or None


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or (cell[0] in "+-" and cell[1:2].isdigit())


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: no mention of a user or an issue in it, and no link.

    GitHub finds those in the text that Markdown comes to, after every escape; a space of no width keeps it from that.
    """
    text = visible(" ".join(text.split()))
    for character in "\\`*_[]|<>&~":
        text = text.replace(character, f"\\{character}")
    return _LIVE.sub(lambda found: f"{found[0]}&#8203;", text)


_LIVE = re.compile(r"@|#(?=\d)|\bGH(?=-\d)|:(?=//)|\bwww(?=\.)|\b(?:mailto|xmpp)(?=:)", re.IGNORECASE)
"""What GitHub makes a mention, a reference or a link of, up to where the space breaks it."""


def to_latex(sheets: Iterable[Sheet]) -> str:
    """Write sheets as tables of LaTeX; what they need stands above them as a comment."""
    return "\n\n".join([r"% \usepackage{booktabs}", *(sheet.to_latex() for sheet in sheets)]) + "\n"


def to_csv(sheets: Iterable[Sheet]) -> str:
    """Write sheets below each other, each line led by its sheet's title; a text is no formula, a number stays one."""
    rows = [row for sheet in sheets for row in (("table", *sheet.header), *((sheet.title, *row) for row in sheet.rows))]
    return csv_lines(map(_spread, row) for row in rows)


def _spread(cell: str) -> str:
    return cell if _NUMBER.fullmatch(cell) else shielded(cell)


_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?(?: ?[%×])?")


def to_json(sheets: Iterable[Sheet]) -> str:
    """Write sheets as a list of objects, a row by its header."""
    data = [
        {
            "title": sheet.title,
            "rows": [dict(zip(sheet.header, row, strict=True)) for row in sheet.rows],
            "notes": list(sheet.notes),
        }
        for sheet in sheets
    ]
    return json.dumps(data, indent=2) + "\n"
