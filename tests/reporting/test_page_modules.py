"""The modules of the page's script, each alone or with those it uses, in an empty page of a real browser."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.records.making import MIB, equality
from tests.reporting.browser import opened_browser
from tests.reporting.samples import EVIL, case, stored, toy

from rematbench.errors import RematbenchError
from rematbench.placement.goal import read_budget
from rematbench.reporting.figures import figures
from rematbench.reporting.gathering import models_of
from rematbench.reporting.page import SCRIPT, script_text
from rematbench.reporting.words import WORDS
from rematbench.units import BYTES, SECONDS, format_bytes, format_seconds, parse_bytes

Load = Callable[..., Page]

# In place of plotly: what would be drawn is kept beside the node, and nothing is.
DRAWING = """
window.Plotly = {
  purge: (node) => { delete node.data; },
  newPlot: (node, data, layout) => { node.data = data; node.layout = layout; node.on = () => undefined; },
};
Plotly.react = Plotly.newPlot;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        yield found


@pytest.fixture
def load(browser: Browser) -> Iterator[Load]:
    """Load modules into an empty page, in which nothing may go wrong."""
    page, complaints = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def loaded(*modules: str, body: str = "") -> Page:
        page.set_content(f"<!doctype html><body>{body}</body>")
        page.add_script_tag(content=DRAWING)
        for module in modules:
            page.add_script_tag(content=script_text(module))
        return page

    yield loaded
    assert complaints == []
    page.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the page holds of the toy, and of a row that is cheaper than `half` but touches buffers."""
    touched = case("touched", 57, 1.1, "blocks[0]", equality=equality(buffers="different"))
    return figures(models_of([stored(tmp_path_factory.mktemp("run"), [*toy(), touched])]))


@pytest.mark.parametrize("module", SCRIPT)
def test_each_is_one_constant_and_loads_alone(load: Load, module: str) -> None:
    exported = load(module).evaluate(f"Object.values({module}).length")
    assert exported > 0
    lines = script_text(module).splitlines()
    assert lines[0].startswith("// "), "says what it is"
    assert max(map(len, lines)) <= 120


def test_every_word_is_there_and_used() -> None:
    script = script_text(*SCRIPT)
    used = set(re.findall(r"\bwords\.(\w+)", script)) | set(re.findall(r'\badd\("(\w+)"', script))
    assert used == set(WORDS)


# text


@pytest.mark.parametrize(("scale", "show"), [(BYTES, format_bytes), (SECONDS, format_seconds)])
def test_numbers_read_as_python_writes_them(load: Load, scale: Any, show: Callable[[Any], str]) -> None:
    """Digits, units, and ties: 1.125 GiB is 1.12 GiB on both sides, 1023 MiB is never 1020 MiB."""
    chance = random.Random(0)
    if scale is BYTES:
        values: list[Any] = [0, 1, 999, 1000, 1023 * MIB, 1023 * MIB + 2**19, *(2**power for power in range(50))]
        values += [eighths * 2**power // 8 for eighths in range(1, 8192, 7) for power in (10, 20, 30, 33)]
        values += [chance.randrange(2 ** chance.randrange(1, 45)) for _ in range(4000)]
    else:
        values = [us / 1e6 for us in (0, 1, 999, 1000, 1125, 999_499, 999_500, 1_000_000, 10_125_000)]
        values += [chance.randrange(10 ** chance.randrange(1, 9)) / 1e6 for _ in range(4000)]
    page = load("text")
    steps = [{"factor": factor, "unit": unit} for factor, unit in scale]
    found = page.evaluate("([values, scale]) => values.map((value) => text.scaled(value, scale))", [values, steps])
    assert dict(zip(values, found, strict=True)) == {value: show(value) for value in values}


def test_a_place_is_filled_once(load: Load) -> None:
    page = load("text")
    assert page.evaluate("text.fill('{one} in {other}', {one: '{other}', other: '$&'})") == "{other} in $&"


# budget


@pytest.mark.parametrize("typed", ["61 MiB", "1.5GiB", "2.3 kB", "300", "0.29 MB", "1.0000001 TiB", " 7 B ", "1.1 GB"])
def test_a_size_is_read_as_python_reads_it(load: Load, data: Any, typed: str) -> None:
    parsed = load("text", "budget").evaluate("([typed, data]) => budget.parse(typed, data)", [typed, data])
    assert parsed == {"kind": "size", "amount": parse_bytes(typed), "text": format_bytes(parse_bytes(typed))}


def test_a_share_and_a_step(load: Load, data: Any) -> None:
    page = load("text", "budget")
    parse = "([typed, data]) => budget.parse(typed, data)"
    assert page.evaluate(parse, ["60 %", data]) == {"kind": "share", "amount": 0.6, "text": "60 %"}
    assert page.evaluate(parse, ["33.3% /step", data]) == {"kind": "share/step", "amount": 33.3 / 100, "text": "33.3 %"}
    assert page.evaluate(parse, ["2 GiB/step", data]) == {"kind": "size/step", "amount": 2**31, "text": "2 GiB"}


@pytest.mark.parametrize(
    "typed",
    ["", "0", "0 %", "0.2 B", "-3 MiB", "%", "5 %%", "12 MBanana", "12 constructor", "12 mib", "1e9", "5/steps"],
)
def test_what_is_no_budget(load: Load, data: Any, typed: str) -> None:
    assert load("text", "budget").evaluate("([typed, data]) => budget.parse(typed, data)", [typed, data]) is None
    if typed in ("12 MBanana", "12 mib", "1e9"):
        with pytest.raises(RematbenchError):
            parse_bytes(typed)


@pytest.mark.parametrize("typed", ["60%", "33.3%", "60%/step", "70 MiB", "70 MiB/step"])
def test_a_limit_is_that_of_a_plan(load: Load, data: Any, typed: str) -> None:
    goal, chance = read_budget(typed, "time"), random.Random(1)
    series = [
        {"static_bytes": chance.randrange(2**30), "plain_bytes": chance.randrange(2**36), "capacity_bytes": None}
        for _ in range(200)
    ]
    limits = load("text", "budget").evaluate(
        "([typed, data, series]) => series.map((one) => budget.limit(budget.parse(typed, data), one))",
        [typed, data, series],
    )
    assert limits == [goal.step_budget(one["static_bytes"] or 0, one["plain_bytes"]) for one in series]


def test_a_share_of_nothing_known_has_no_limit(load: Load) -> None:
    page = load("text", "budget")
    series = {"static_bytes": None, "plain_bytes": None, "capacity_bytes": 100}
    limit = "([asked, series]) => budget.limit(asked, series)"
    assert page.evaluate(limit, [{"kind": "share", "amount": 0.5}, series]) is None
    assert page.evaluate(limit, [{"kind": "size", "amount": 50}, series]) == 50
    assert page.evaluate("(series) => budget.capacity(series)", series) == 100
    assert page.evaluate("(series) => budget.capacity(series)", series | {"static_bytes": 30}) == 70
    assert page.evaluate("(series) => budget.capacity(series)", series | {"capacity_bytes": None}) is None


def test_the_cheapest_that_fit_come_first(load: Load, data: Any) -> None:
    names = """([rows, most, cost]) => budget.fitting(rows, most, cost).map((row) => row.name)"""
    page = load("text", "budget")
    assert page.evaluate(names, [data["rows"], 60 * MIB, "time"]) == ["touched", "half", "least"]
    assert page.evaluate(names, [data["rows"], 58 * MIB - 1, "time"]) == ["touched", "least"]
    assert page.evaluate(names, [data["rows"], 200 * MIB, "flops"]) == ["none", "touched", "half", "bad", "least"]
    assert page.evaluate(names, [data["rows"], None, "time"]) == []


@pytest.mark.parametrize(
    ("typed", "cost", "said"),
    [
        ("1 GiB", "time", "Within 1 GiB in all (1021 MiB above the start of the step), the cheapest placement is none: "
         "it peaks at 100 MiB for 10 ms a step, 1.00× none's step time. That is no checkpointing at all."),
        ("50 %/step", "flops", "Within 50 % of none's peak (50 MiB above the start of the step), the cheapest "
         "placement is least: it peaks at 30 MiB for 200 MFLOP recomputed. Training stays the same."),
        ("60 %/step", "flops", "Within 60 % of none's peak (60 MiB above the start of the step), the cheapest "
         "placement is touched: it peaks at 57 MiB for 100 MFLOP recomputed. Its gradients are none's, but buffers end "
         "up different; the cheapest that leaves them equal is half, 58 MiB for 100 MFLOP."),
        ("2 MiB", "time", "No placement measured fits 2 MiB in all (0 B above the start of the step); "
         "the least is cheat with 20 MiB."),
    ],
)  # fmt: skip
def test_an_answer_in_words(load: Load, data: Any, typed: str, cost: str, said: str) -> None:
    answer = """([data, typed, cost]) =>
        budget.answer(budget.parse(typed, data), data.models[0].series[0], data.rows, cost, data)"""
    assert load("text", "budget").evaluate(answer, [data, typed, cost]) == said


# state


def test_what_is_chosen(load: Load, data: Any) -> None:
    """The plain step and the answer, then what the reader chooses: six at most, the first chosen goes."""
    page = load("text", "budget", "state")
    names = """([data, typed, ids]) => {
        const page = state.create(data), model = page.models[0];
        page.budget = budget.parse(typed, page);
        ids.forEach((id) => state.toggle(page, id));
        return [...state.chosenOf(page, model)].map((id) => page.rows[id].name);
    }"""
    assert page.evaluate(names, [data, "58 MiB", []]) == ["none", "least"]
    assert page.evaluate(names, [data, "1 MiB", []]) == ["none", "least"], "of none that fits, the least peak"
    assert page.evaluate(names, [data, "58 MiB", [1]]) == ["none", "least", "half"]
    assert page.evaluate(names, [data, "58 MiB", [0]]) == ["least"]
    assert page.evaluate(names, [data, "58 MiB", [1, 3, 4, 5, 6]]) == [
        "least",
        "half",
        "bad",
        "cheat",
        "huge",
        "touched",
    ]


def test_without_times_the_cost_is_operations(load: Load, data: Any) -> None:
    page = load("state")
    assert page.evaluate("(data) => state.create(data).cost", data) == "time"
    untimed = [row | {"cost": row["cost"] | {"time": None}} for row in data["rows"]]
    assert page.evaluate("(data) => state.create(data).cost", data | {"rows": untimed}) == "flops"


# table

ROWS = """<style>.away { display: none }</style>
<table><thead><tr><th data-column="name">name</th><th data-column="run" class="away">run</th>
<th data-column="size" class="number">size</th></tr></thead>
<tbody>
<tr data-row="0"><td data-column="name" data-key="b"><button class="pick">b</button></td>
    <td class="away" data-column="run">r</td><td data-column="size" data-key="9">9 B</td></tr>
<tr data-row="1"><td data-column="name" data-key="a|*"><button class="pick">a|*</button></td>
    <td class="away" data-column="run">r</td><td data-column="size" data-key="10">10 B</td></tr>
<tr data-row="2"><td data-column="name" data-key="&lt;i&gt;"><button class="pick">&lt;i&gt;  \\</button></td>
    <td class="away" data-column="run">r</td><td data-column="size"></td></tr>
</tbody></table>"""


def test_a_column_sorts_by_its_keys(load: Load) -> None:
    page = load("dom", "table", body=ROWS)
    sort = """(column) => {
        table.sortBy(document.querySelector("table"), document.querySelector(`th[data-column=${column}]`));
        return [...document.querySelectorAll("tbody tr")].map((row) => row.dataset.row).join("");
    }"""
    assert page.evaluate(sort, "size") == "012", "as numbers, what is absent last"
    assert page.evaluate(sort, "size") == "102", "and last downwards too"
    assert page.get_attribute("th[data-column=size]", "aria-sort") == "descending"
    assert page.evaluate(sort, "name") == "210"
    assert page.get_attribute("th[data-column=size]", "aria-sort") is None


def test_rows_are_filtered_copied_and_marked(load: Load) -> None:
    page = load("dom", "table", body=ROWS)
    node = "document.querySelector('table')"
    assert page.evaluate(f"table.markdown({node})").splitlines() == [
        "| name | size |",
        "| --- | ---: |",
        "| b | 9 B |",
        r"| a\|\* | 10 B |",
        r"| &lt;i&gt; \\ |  |",
    ]
    assert page.evaluate(f"table.filter({node}, ' 9  B ')") == 1
    assert page.evaluate(f"table.markdown({node})").splitlines()[2:] == ["| b | 9 B |"]
    assert page.evaluate(f"table.filter({node}, '')") == 3
    page.evaluate(f"table.mark({node}, new Set([1]))")
    marks = "[...document.querySelectorAll('.pick')].map((pick) => pick.getAttribute('aria-pressed'))"
    assert page.evaluate(marks) == ["false", "true", "false"]
    assert page.get_attribute("tr[data-row='1']", "class") == "chosen"


@pytest.mark.parametrize(
    ("name", "written"),
    [(EVIL, "&lt;img src=x onerror=alert(1)&gt;"), ("a_b[0]`c`", r"a\_b\[0\]\`c\`"), ("two\n lines", "two lines")],
)
def test_markdown_reads_no_markup_in_names(load: Load, name: str, written: str) -> None:
    assert load("table").evaluate("(name) => table.escaped(name)", name) == written


# charts


def test_plotly_gets_no_markup_and_no_endless_line(load: Load) -> None:
    page = load("chart")
    assert page.evaluate("(name) => chart.plain(name)", "<b>&") == "&lt;b&gt;&amp;"
    first, second = page.evaluate("(lines) => chart.hover(lines)", [EVIL, "x" * 200]).split("<br>")
    assert first == "&lt;img src=x onerror=alert(1)&gt;"
    assert second == "x" * 119 + "…"


def test_a_moment_of_the_step(load: Load, data: Any) -> None:
    page = load("text", "timeline")
    assert page.evaluate("timeline.sums([5, 1, -6])") == [5, 6, 0]
    recomputed = data["rows"][1]["timeline"]["recomputed"]
    moment = "([at, bytes, recomputed, data]) => timeline.moment(at, bytes, recomputed, data)"
    assert page.evaluate(moment, [2200, 1023 * MIB, recomputed, data]) == [
        "1023 MiB at 2.2 ms",
        "recomputing blocks.1",
    ]
    assert page.evaluate(moment, [2000, 5 * 2**10, recomputed, data]) == ["5 KiB at 2 ms"]


def test_no_line_strikes_a_label_through(load: Load, data: Any) -> None:
    page = load("dom", "text", "budget", "state", "chart", "trade", body="<div></div>")
    trade = """([data, typed]) => {
        const page = state.create(data), node = document.querySelector("div");
        page.budget = budget.parse(typed, page);
        trade.draw(page, page.models[0], node, () => undefined);
        const kept = node.data.find((trace) => trace.opacity === 1), layout = node.layout;
        return {
            labels: kept.text.map((name, at) => `${name} at the ${kept.textposition[at]}`),
            lines: layout.annotations.map((note) => note.text),
            titles: [layout.xaxis.title.text, layout.yaxis.title.text],
        };
    }"""
    drawn = page.evaluate(trade, [data, "60 %/step"])
    assert drawn["labels"] == ["none at the top right", "cheat at the top right"]
    assert drawn["lines"] == ["60 % of none", "ran out of memory"]
    assert drawn["titles"] == ["step time (ms)", "peak above the step's start (MiB)"]
    struck = page.evaluate(trade, [data, "24 MiB"])
    assert struck["labels"] == ["none at the top right", "cheat at the bottom left"], "the line is 1 MiB above cheat"


def test_a_scale_is_common_to_cards_side_by_side(load: Load, data: Any) -> None:
    page = load("dom", "text", "budget", "state", "chart", "timeline", "shares", "strip", "cards", body="<div></div>")
    drawn = page.evaluate(
        """(data) => {
            const page = state.create(data), place = document.querySelector("div");
            page.budget = budget.parse("60 %/step", page);
            page.chosen.set(0, new Set([0, 2, 5]));
            cards.draw(page, page.models[0], place, () => undefined);
            const charts = (name) => [...place.querySelectorAll(`.${name}`)].map((node) => node.layout);
            return {
                heads: [...place.querySelectorAll("h3")].map((node) => node.textContent),
                timelines: charts("timeline").map((layout) => layout.yaxis.range[1]),
                bars: charts("shares").map((layout) => layout.xaxis.range[1]),
                words: place.textContent,
            };
        }""",
        data,
    )
    assert drawn["heads"] == ["none", "least", "huge"]
    assert drawn["timelines"] == [pytest.approx(118)] * 2
    assert drawn["bars"] == [pytest.approx(102)] * 2
    assert "kept 15 MiB" in drawn["words"]
    assert "there before 3 MiB" in drawn["words"]
    assert "allocating 9 GiB" in drawn["words"]


def test_a_strip_names_its_blocks_regions_and_skips(load: Load, data: Any) -> None:
    page = load("dom", "text", "chart", "strip", body="<div></div>")
    blocks, marks = page.evaluate(
        """(data) => {
            const node = document.querySelector("div"), row = data.rows[1];
            strip.draw(data, row.strip, data.models[0].series[0], node, 100);
            return node.data.map((trace) => trace.hovertext);
        }""",
        data,
    )
    assert blocks[0][0] == "blocks.0<br>keeps 7.25 MiB"
    assert marks == ["region blocks[0:2]", "skip blocks.0 → blocks.3<br>1 MiB, 2×3"]


def test_data_holds_no_names_by_place(data: Any) -> None:
    """What crosses to the script are objects with names, and lists of one kind of thing."""

    def kinds(value: Any) -> Iterator[set[type]]:
        if isinstance(value, dict):
            for member in value.values():
                yield from kinds(member)
        elif isinstance(value, list):
            yield {type(member) for member in value} - {type(None)}
            for member in value:
                yield from kinds(member)

    assert all(len(found) <= 1 for found in kinds(data))
