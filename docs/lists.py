"""Lists of what the code declares, as they stand on the pages between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

`python docs/lists.py` writes them anew; a test holds the pages to them. Nothing here imports torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from rematbench.cli import app
from rematbench.loading import reference_models
from rematbench.placement.placement import Options
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.placement.registry import STRATEGIES
from rematbench.records.causes import CAUSES
from rematbench.records.columns import COLUMNS
from rematbench.suite.suite import Settings, load_suite, shipped_suites

PAGES = Path(__file__).parent


def filled(page: str) -> str:
    """Return a page with every list in its place; a name that there is no list for is a KeyError."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{GENERATED[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- list-(\w+):begin -->)\n.*?(<!-- list-\2:end -->)", fill, page, flags=re.DOTALL)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Write a pipe, which would end the cell, and what would be taken for a tag or emphasis, as the sign itself."""
    parts = text.replace("|", "\\|").split("`")  # every second one is code, where the rest is a sign anyway
    return "`".join(part if index % 2 else re.sub(r"([<*])", r"\\\1", part) for index, part in enumerate(parts))


def _columns() -> str:
    rows = ([f"`{column.name}`", column.unit, column.meaning] for column in COLUMNS)
    return _table(["column", "unit", "meaning"], rows)


def _strategies() -> str:
    return _table(["strategy", "regions"], ([f"`{each.form}`", each.meaning] for each in STRATEGIES.values()))


def _policies() -> str:
    rows = ([f"`{policy.name}`", policy.meaning] for policy in SAVE_POLICIES.values())
    return _table(["save", "what a region keeps besides its inputs"], rows)


def _fields(declared: type[Any]) -> str:
    """Return the fields of a model with their defaults, as its docstring explains them."""
    text = inspect.getdoc(declared) or ""
    explained = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text[text.index("Attributes:") :], re.MULTILINE))
    rows = (
        [f"`{name}`", _default(field.default), " ".join(explained[name].split())]
        for name, field in declared.model_fields.items()
    )
    return _table(["name", "default", "meaning"], rows)


def _default(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def _causes() -> str:
    return _table(["cause", "what is so"], ([f"`{kind.name}`", kind.meaning] for kind in CAUSES.values()))


def _models() -> str:
    return _table(["model", "what it is"], ([f"`{name}`", about] for name, about in reference_models().items()))


def _suites() -> str:
    rows = ([f"`{name}`", load_suite(name).description] for name in shipped_suites())
    return _table(["suite", "what it measures"], rows)


def _commands() -> str:
    """Return every command with its help, its arguments and its options, as `--help` says them."""
    return "\n\n".join(_sections("rematbench", typer.main.get_command(app)))


def _sections(name: str, command: Any) -> Iterable[str]:
    if hasattr(command, "commands"):
        for below, inner in command.commands.items():
            yield from _sections(f"{name} {below}", inner)
        return
    # Docstrings are set in the code's width; a page has its own.
    about = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    rows = [[f"`{_written(each)}`", each.help or ""] for each in command.params if each.name != "help"]
    yield "\n\n".join([f"## {name}", about, *([_table(["", "meaning"], rows)] if rows else [])])


def _written(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return " ".join([*parameter.opts, *parameter.secondary_opts])


GENERATED: dict[str, Callable[[], str]] = {
    "columns": _columns,
    "strategies": _strategies,
    "policies": _policies,
    "causes": _causes,
    "models": _models,
    "suites": _suites,
    "commands": _commands,
    "settings": lambda: _fields(Settings),
    "options": lambda: _fields(Options),
}

if __name__ == "__main__":
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page.read_text()))
