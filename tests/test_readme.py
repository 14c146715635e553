"""What the README says is what the code does."""

import re
from pathlib import Path

from bench.placing.placement import Options
from bench.placing.strategies import parse_strategy
from bench.results.columns import COLUMNS
from bench.results.compare import frontier_sheets
from bench.results.reading import read_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = ROOT / "results" / "reference" / "cpu.csv"


def between(name: str) -> str:
    return README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def column_table() -> str:
    rows = [f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in COLUMNS]
    return "\n".join(["| column | unit | meaning |", "|---|---|---|", *rows])


def test_the_columns_are_those_of_the_csv() -> None:
    assert between("columns") == column_table()


def test_every_strategy_shown_is_one() -> None:
    shown = README.split("```\neach ")[1].split("```")[0].split()
    assert [parse_strategy(text).text for text in ["each", *shown]]


def test_every_option_is_named() -> None:
    paragraph = README.split("\nOptions: ")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", paragraph))
    assert set(Options.model_fields) <= named


SHOWN = ("residual.conv_bn", "concat_skip.unet", "lstm_skip.lstm")


def result_tables() -> str:
    """Return what `rematbench compare results/reference/cpu.csv --markdown` writes, for the models shown."""
    sheets = frontier_sheets(read_run(REFERENCE))
    return "\n\n".join(sheet.to_markdown() for sheet in sheets if sheet.title.startswith(SHOWN))


def test_the_tables_are_those_of_the_reference_run() -> None:
    assert between("table") == result_tables()
