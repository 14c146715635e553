"""The page in a real browser, opened from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from tests.records.making import CPU, MIB, equality
from tests.reporting.browser import Opened, open_page, opened_browser
from tests.reporting.samples import EVIL, case, stored, toy

from rematbench.placement.goal import read_budget
from rematbench.reporting.page import write_page

TOY = "#model-0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the toy and of a model, a placement and a message that are markup."""
    folder = tmp_path_factory.mktemp("report")
    evil = [case(name, peak, 1.0 + peak / 9, model=EVIL, message=EVIL) for name, peak in (("none", 9), (EVIL, 8))]
    write_page([stored(folder / "run", [*toy(), *evil])], folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Browser, report_file: Path) -> Iterator[Opened]:
    """The page anew; whatever a test does with it, nothing may go wrong and nothing may be asked of the network."""
    found = open_page(browser, report_file)
    yield found
    assert found.complaints == []
    assert found.requests == [report_file.as_uri()]
    found.page.close()


def answer(opened: Opened) -> str:
    return opened.page.inner_text(f"{TOY} .answer")


def cards(opened: Opened) -> list[str]:
    return [card.inner_text() for card in opened.page.query_selector_all(f"{TOY} .card h3")]


def names(opened: Opened) -> list[str]:
    return [row.inner_text() for row in opened.page.query_selector_all("tbody tr:not([hidden]) .pick")]


def drawn_at(opened: Opened, name: str) -> tuple[float, float]:
    """Return where a placement's point is on the screen, by plotly's own axes."""
    opened.page.wait_for_selector(f"{TOY} .trade .main-svg")
    place: Any = opened.page.evaluate(
        """name => {
            const node = document.querySelector("#model-0 .trade"), box = node.getBoundingClientRect();
            const data = JSON.parse(document.getElementById("data").textContent);
            const {xaxis, yaxis} = node._fullLayout, id = data.rows.find(row => row.name === name).id;
            for (const trace of node.data) {
                const at = (trace.customdata ?? []).indexOf(id);
                const x = xaxis._offset + xaxis.d2p(trace.x[at]), y = yaxis._offset + yaxis.d2p(trace.y[at]);
                if (at >= 0) return [box.x + x, box.y + y];
            }
        }""",
        name,
    )
    return place[0], place[1]


def test_the_answer_is_the_cheapest_that_fits_and_trains_the_same(opened: Opened) -> None:
    assert "cheapest placement is half: it peaks at 58 MiB" in answer(opened)
    assert "1.20× none's step time" in answer(opened)
    assert cards(opened) == ["none", "half"]


def test_memory_i_have(opened: Opened) -> None:
    """Sizes and shares are of everything: the 3 MiB that are there before the step come off; /step is without them."""
    within = {
        "50 %/step": "50 % of none's peak (50 MiB above the start of the step), the cheapest placement is least",
        "100%/step": "100 % of none's peak (100 MiB above the start of the step), the cheapest placement is none",
        "59 %": "59 % of all that none takes (57.8 MiB above the start of the step), the cheapest placement is least",
        "60 %": "60 % of all that none takes (58.8 MiB above the start of the step), the cheapest placement is half",
        "61 MiB": "Within 61 MiB in all (58 MiB above the start of the step), the cheapest placement is half",
        "60.9 MiB": "cheapest placement is least",
        "60.9 MiB/step": "Within 60.9 MiB above the start of the step, the cheapest placement is half",
        "29 %/step": "No placement measured fits 29 % of none's peak (29 MiB above the start of the step);",
    }
    for budget, said in within.items():
        opened.page.fill("#budget", budget)
        opened.page.press("#budget", "Tab")
        assert said in answer(opened), budget


@pytest.mark.parametrize("budget", ["60%", "58%", "60%/step", "61MiB", "58 MiB/step", "0.06GB"])
def test_a_budget_is_what_it_is_to_a_plan(opened: Opened, budget: str) -> None:
    goal = read_budget(budget, "time")
    opened.page.fill("#budget", budget)
    opened.page.press("#budget", "Tab")
    drawn = opened.page.evaluate("document.querySelector('#model-0 .trade').layout.shapes[0].y0")
    assert drawn == goal.step_budget(static_bytes=3 * MIB, plain_peak_bytes=100 * MIB) / MIB


def test_the_slider_is_of_the_step(opened: Opened) -> None:
    opened.page.focus("#slide")
    opened.page.keyboard.press("ArrowLeft")
    assert opened.page.input_value("#budget") == "59 %/step"
    assert "Within 59 % of none's peak (59 MiB" in answer(opened)
    opened.page.fill("#budget", "31 %/step")
    opened.page.press("#budget", "Tab")
    assert opened.page.input_value("#slide") == "31"


def test_an_answer_that_touches_buffers_names_the_cheapest_that_does_not(browser: Browser, tmp_path: Path) -> None:
    touched = case("touched", 58, 1.1, "blocks[0:2]", equality=equality(buffers="different"))
    write_page([stored(tmp_path / "run", [*toy(), touched])], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    text = "but buffers end up different; the cheapest that leaves them equal is half, 58 MiB for 12 ms."
    assert text in answer(opened)
    opened.page.close()


def test_an_unreadable_budget_is_marked_and_changes_nothing(opened: Opened) -> None:
    before = answer(opened)
    opened.page.fill("#budget", "12 MBanana")
    opened.page.press("#budget", "Tab")
    assert opened.page.get_attribute("#budget", "aria-invalid") == "true"
    assert answer(opened) == before


def test_hovering_tells_all_and_clicking_selects_everywhere(opened: Opened) -> None:
    x, y = drawn_at(opened, "least")
    opened.page.mouse.move(x, y)
    opened.page.wait_for_selector(f"{TOY} .hoverlayer text")
    told = opened.page.text_content(f"{TOY} .hoverlayer") or ""
    assert "least" in told
    assert "blocks[0:4]" in told
    assert "30 MiB" in told
    opened.page.mouse.click(x, y)
    opened.page.wait_for_selector(f"{TOY} .card:nth-child(3)")
    assert cards(opened) == ["none", "half", "least"]
    assert opened.page.get_attribute("tbody tr:has-text('least') .pick", "aria-pressed") == "true"


def test_a_row_is_chosen_by_keyboard_and_put_away(opened: Opened) -> None:
    opened.page.focus("tbody tr:nth-child(4) .pick")
    opened.page.keyboard.press("Enter")
    assert cards(opened) == ["none", "half", "bad"]
    opened.page.click(f"{TOY} .card:nth-child(1) .close")
    assert cards(opened) == ["half", "bad"]


def test_the_table_sorts_both_ways_with_nothing_last(opened: Opened) -> None:
    opened.page.click("th:has-text('peak') button")
    assert names(opened) == [EVIL, "none", "cheat", "least", "half", "none", "bad", "huge"]
    opened.page.click("th:has-text('peak') button")
    assert names(opened) == ["bad", "none", "half", "least", "cheat", "none", EVIL, "huge"]
    assert opened.page.get_attribute("th:has-text('peak')", "aria-sort") == "descending"


def test_filter_and_copy(opened: Opened) -> None:
    opened.page.fill("#filter", "toy ha")
    assert names(opened) == ["half"]
    assert opened.page.inner_text("#count") == "1 of 8 rows"
    opened.page.click("#copy")
    header, rule, row = opened.page.input_value("#markdown").splitlines()
    assert header.startswith("| model | placement | peak |")
    assert rule.startswith("| --- | --- | ---: |")
    assert row.startswith("| toy | half | 58 MiB | 42 % |")


def test_cost_switch(opened: Opened) -> None:
    opened.page.check("[name=cost][value=flops]")
    assert "100 MFLOP recomputed" in answer(opened)
    title = opened.page.evaluate("document.querySelector('#model-0 .trade').layout.xaxis.title.text")
    assert title == "recomputed (MFLOP)"


def test_theme(opened: Opened) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate(paper) == "rgb(255, 255, 255)"
    opened.page.click("#theme")
    assert opened.page.evaluate(paper) == "rgb(20, 23, 27)"
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate(paper) == "rgb(255, 255, 255)", "a dark page is printed on white"


def test_a_link_leads_to_its_model_though_others_are_drawn_on_the_way(browser: Browser, tmp_path: Path) -> None:
    """A narrow page, where each model is far longer drawn than it was before."""
    cases = [one for at in range(5) for one in toy(model=f"toy {at}")]
    write_page([stored(tmp_path / "run", cases)], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html", width=390)
    opened.page.click("nav a:nth-child(4)")
    opened.page.wait_for_selector("#model-3 .card")
    top = "document.querySelector('#model-3').getBoundingClientRect().top"
    assert opened.page.evaluate(top) == pytest.approx(88, abs=1)
    opened.page.mouse.wheel(0, 2000)
    opened.page.wait_for_selector("#model-4 .card")
    assert opened.page.evaluate(top) < -1000, "what the reader scrolls to is left to them"
    opened.page.close()


def test_what_is_drawn_is_what_was_measured(opened: Opened) -> None:
    """The frontier, the timeline and the strip, as plotly holds them."""
    found: Any = opened.page.evaluate(
        """() => {
            const of = selector => document.querySelector(`#model-0 ${selector}`);
            const strip = of(".card:nth-child(2) .strip"), timeline = of(".card:nth-child(2) .timeline");
            return {
                line: [of(".trade").data[0].x, of(".trade").data[0].y],
                times: timeline.data[0].x, bytes: timeline.data[0].y,
                rects: timeline.layout.shapes.length, held: strip.data[0].z[0], shapes: strip.layout.shapes.length,
                lines: of(".trade").layout.shapes.map(shape => shape.y0),
            };
        }"""
    )
    assert found["line"][0] == pytest.approx([10.1, 10])
    assert found["line"][1] == [20, 100]
    assert found["times"] == [0, 1, 2, 3, 4]
    assert max(found["bytes"]) == 58
    assert found["rects"] == 3, "forward, backward and one recomputation"
    assert found["held"] == [58 * 2**20 // 8] * 4
    assert found["shapes"] == 2, "one region, one skip"
    assert found["lines"] == pytest.approx([60, 1.18 * 110]), "the memory at hand, and where memory ran out"


def test_names_are_inert(opened: Opened) -> None:
    opened.page.evaluate("document.querySelector('#model-1').scrollIntoView()")
    opened.page.wait_for_selector("#model-1 .trade .main-svg")
    opened.page.wait_for_selector("#model-1 .card")
    assert opened.page.query_selector_all("img") == []
    assert opened.page.inner_text("#model-1 h2") == EVIL
    assert EVIL in (opened.page.text_content("#model-1 .trade .textpoint:last-child") or "")
    assert opened.page.inner_text("#model-1 .card:nth-child(2) h3") == EVIL


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, report_file: Path) -> None:
    opened = open_page(browser, report_file, width=390, height=844)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([case("none", 9, None), case("each", 5, None, "blocks[0]")], "100 MFLOP recomputed"),
        ([case("none", 9, 1.0)], "No placement measured fits"),
        ([case("none", 9, 1.0, memory=None, timeline=None, status="error", message="no")], "there is no peak of none"),
    ],
    ids=["never timed", "one placement", "nothing but a failure"],
)
def test_a_page_of_little(browser: Browser, tmp_path: Path, cases: list[Any], said: str) -> None:
    write_page([stored(tmp_path / "run", cases)], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    assert said in answer(opened)
    assert opened.complaints == []
    opened.page.close()


def test_runs_laid_over_each_other(browser: Browser, tmp_path: Path) -> None:
    """A folder and the CSV of another run: both are drawn, and the CSV's rows say what they lack."""
    first, other = stored(tmp_path / "before", toy()), stored(tmp_path / "after", toy())
    write_page([first, other / "results.csv"], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    assert "before · cpu, float32: Within" in answer(opened)
    assert "results · cpu, float32: Within" in answer(opened)
    opened.page.click("tbody tr:nth-child(7) .pick")
    opened.page.wait_for_selector(f"{TOY} .card:nth-child(3)")
    assert "were not recorded" in opened.page.inner_text(f"{TOY} .card:nth-child(3)")
    assert len(names(opened)) == 12
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize(
    ("capacity_mib", "drawn"),
    [
        (118, {60: "60 % of none", 115: "all of the device's memory", 1.18 * 110: "ran out of memory"}),
        (153, {60: "60 % of none", 150: "ran out of memory"}),
        (10_003, {60: "60 % of none", 1.18 * 110: "ran out of memory"}),
    ],
    ids=["some went beyond", "where memory ran out", "far above all of them"],
)
def test_the_device_s_memory_is_a_line_less_what_is_there_before_the_step(
    browser: Browser, tmp_path: Path, capacity_mib: int, drawn: dict[float, str]
) -> None:
    environment = CPU.model_copy(update={"capacity_bytes": capacity_mib * 2**20})
    write_page([stored(tmp_path / "run", toy(environment=environment))], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    opened.page.wait_for_selector(f"{TOY} .trade .main-svg")
    notes: Any = opened.page.evaluate(
        "document.querySelector('#model-0 .trade').layout.annotations.map((note) => [note.y, note.text])"
    )
    assert {text: y for y, text in notes} == {text: pytest.approx(y) for y, text in drawn.items()}
    assert opened.complaints == []
    opened.page.close()
