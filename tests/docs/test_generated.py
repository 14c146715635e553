"""The lists that the documentation takes from the code name every thing that is declared."""

import re

import pytest
from tests.docs.blocks import PAGES, ROOT

from rematbench.loading import load_attribute, reference_models
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.placement.registry import STRATEGIES
from rematbench.records.columns import COLUMNS
from rematbench.suite.suite import shipped_suites

HOOKS = "docs/hooks.py"
GENERATED = load_attribute(f"{HOOKS}:GENERATED", ROOT)
on_page_markdown = load_attribute(f"{HOOKS}:on_page_markdown", ROOT)

DECLARED = {
    "columns": [column.name for column in COLUMNS],
    "strategies": [strategy.form for strategy in STRATEGIES.values()],
    "policies": list(SAVE_POLICIES),
    "models": list(reference_models()),
    "suites": list(shipped_suites()),
}


def test_every_list_stands_on_a_page_and_no_other_is_asked_for() -> None:
    asked = [
        name for page in PAGES for name in re.findall(r"^<!-- generated: (\S+) -->$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(asked) == sorted(GENERATED)


@pytest.mark.parametrize("name", DECLARED)
def test_a_list_names_what_is_declared(name: str) -> None:
    page = on_page_markdown(f"before\n\n<!-- generated: {name} -->\n\nafter", page=None)
    first = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert first == DECLARED[name]
    assert page.startswith("before")
    assert page.endswith("after")


def test_every_command_stands_with_its_options() -> None:
    page = on_page_markdown("<!-- generated: commands -->")
    sections = dict(zip(*[iter(re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert {"rematbench run", "rematbench plan", "rematbench check", "rematbench baseline update"} <= set(sections)
    assert "`--against`" in sections["rematbench check"]
    assert "`SUITE`" in sections["rematbench run"]
    assert r"results/\<suite>-\<timestamp>" in sections["rematbench run"], "Markdown would take it for a tag"


def test_a_list_that_there_is_not_ends_the_build() -> None:
    with pytest.raises(KeyError):
        on_page_markdown("<!-- generated: apples -->")
