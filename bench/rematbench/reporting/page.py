"""The page: one HTML file that opens from disk with no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rematbench import __version__
from rematbench.records.columns import COLUMNS
from rematbench.records.store import write_whole
from rematbench.reporting.answers import answers
from rematbench.reporting.figures import figures
from rematbench.reporting.fitting import all_left_out, fitted, models_left_out, rows_left_out
from rematbench.reporting.gathering import Model, model_named, models_of
from rematbench.reporting.listing import HEADINGS, environments, lines

SCRIPT = (
    "dom",
    "text",
    "budget",
    "state",
    "chart",
    "trade",
    "timeline",
    "shares",
    "strip",
    "cards",
    "table",
    "main",
)
"""The modules of the page's script, each after those it uses; each is one constant that holds its functions."""

BUDGET_PERCENT = 60
"""What the page answers until its reader asks: a budget of so much of the plain step's peak."""

PAGE_BYTES = 7_900_000
"""What a page comes to at most, however large the run: more is slow to open, and too much for many a viewer."""

_TEMPLATE_BYTES = 120_000
"""What stands around the charts and the rows: style, script, headings, the fold beneath the table."""

_START = 'main.start(JSON.parse(document.getElementById("data").textContent));'
_NOT_IN_A_SCRIPT = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def write_page(sources: Sequence[Path], out: Path, model: str | None = None) -> None:
    """Write the page of one run, or of several laid over each other; nobody ever sees half of it.

    Args:
        model: the only one on it; None for all that there is room for.

    Raises:
        StorageError: a source is no run, or the page cannot be written.
        RematbenchError: there is no such model.
        CannotJudgeError: a source has no rows.
    """
    models = models_of(sources)
    write_whole(out, page(models if model is None else [model_named(models, model)]))


def page(models: Sequence[Model]) -> str:
    """Return the page; every name in it is escaped, and it says what it has no room for."""
    environment = Environment(
        loader=PackageLoader("rematbench.reporting", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    plotly, script = get_plotlyjs(), script_text(*SCRIPT)
    room_bytes = PAGE_BYTES - len(plotly.encode()) - _TEMPLATE_BYTES
    shown = fitted(models, room_bytes // 2)
    whole = {model.name: model for model in models}
    left_out = {model.name: rows_left_out(shown, model) for model in shown.models}
    return environment.get_template("page.html").render(
        title=", ".join(dict.fromkeys(str(row.cells["suite"]) for row in models[0].series[0].rows)),
        models=[
            {"name": model.name, "words": [*answers(whole[model.name]), *left_out[model.name]]}
            for model in shown.models
        ],
        headings=HEADINGS,
        lines=list(lines(shown.models)),
        left_out=[*models_left_out(shown), *(left_out[models[0].name] if len(models) == 1 else all_left_out(shown))],
        overlaid=any(len(model.series) > 1 for model in shown.models),
        environments=environments(shown.models),
        columns=COLUMNS,
        version=__version__,
        percent=BUDGET_PERCENT,
        data=as_script(figures(shown.models, room_bytes - shown.used_bytes)),
        plotly=Markup(plotly),
        # Within one function: a module's name is no name of the window, which has a `top` and a `status` of its own.
        script=Markup(f'(() => {{\n"use strict";\n{script}{_START}\n}})();'),
    )


def script_text(*modules: str) -> str:
    """Return modules of the page's script one after the other."""
    folder = files("rematbench.reporting") / "template" / "script"
    return "".join((folder / f"{module}.js").read_text(encoding="utf-8") for module in modules)


def as_script(value: Any) -> Markup:
    """Return JSON that can stand inside a script element, whatever names it holds."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.translate(_NOT_IN_A_SCRIPT))
