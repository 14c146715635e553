"""Lists of what the code declares, for the pages: `<!-- generated: NAME -->` on a line of its own becomes list NAME.

mkdocs calls `on_page_markdown`. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import typer

from rematbench.cli import app
from rematbench.loading import reference_models
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.placement.registry import STRATEGIES
from rematbench.records.columns import COLUMNS
from rematbench.suite.suite import load_suite, shipped_suites


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every generated list in its place; a name that there is no list for is a KeyError, and ends the build."""
    return re.sub(r"^<!-- generated: (\S+) -->$", lambda match: GENERATED[match[1]](), markdown, flags=re.MULTILINE)


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
    "models": _models,
    "suites": _suites,
    "commands": _commands,
}
