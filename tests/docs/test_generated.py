"""The lists that the documentation takes from the code name every thing that is declared, and are up to date."""

import re
from pathlib import Path

import pytest
from tests.docs.blocks import PAGES, ROOT

from rematbench.loading import load_attribute, reference_models
from rematbench.placement.placement import Options
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.placement.registry import STRATEGIES
from rematbench.records.causes import CAUSES
from rematbench.records.columns import COLUMNS
from rematbench.suite.suite import Settings, shipped_suites

GENERATED = load_attribute("docs/lists.py:GENERATED", ROOT)
filled = load_attribute("docs/lists.py:filled", ROOT)

DECLARED = {
    "columns": [column.name for column in COLUMNS],
    "strategies": [strategy.form for strategy in STRATEGIES.values()],
    "policies": list(SAVE_POLICIES),
    "causes": list(CAUSES),
    "models": list(reference_models()),
    "suites": list(shipped_suites()),
    "settings": list(Settings.model_fields),
    "options": list(Options.model_fields),
}


def place(name: str) -> str:
    return f"before\n\n<!-- list-{name}:begin -->\nold\n<!-- list-{name}:end -->\n\nafter"


def test_every_list_stands_on_a_page_and_no_other_is_asked_for() -> None:
    asked = [name for page in PAGES for name in re.findall(r"^<!-- list-(\w+):begin -->$", page.read_text(), re.M)]
    assert sorted(asked) == sorted(GENERATED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_lists_of_today(page: Path) -> None:
    text = page.read_text()
    assert filled(text) == text, "`python docs/lists.py` writes the lists anew"


@pytest.mark.parametrize("name", DECLARED)
def test_a_list_names_what_is_declared(name: str) -> None:
    page = filled(place(name))
    first = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert first == DECLARED[name]
    assert page.startswith("before")
    assert page.endswith("after")
    assert "old" not in page.splitlines()


def test_every_command_stands_with_its_options() -> None:
    page = filled(place("commands"))
    sections = dict(zip(*[iter(re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert {"rematbench run", "rematbench plan", "rematbench check", "rematbench baseline update"} <= set(sections)
    assert "`--against`" in sections["rematbench check"]
    assert "`SUITE`" in sections["rematbench run"]
    assert r"results/\<suite>-\<timestamp>" in sections["rematbench run"], "Markdown would take it for a tag"


def test_a_list_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError):
        filled(place("apples"))
