"""Large runs: work in proportion to their size, and a page that holds what matters and says what it leaves out."""

from __future__ import annotations

import itertools
import random
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from tests.records.making import MIB, equality, memory, rows, timing
from tests.reporting.samples import case

from rematbench.placement.placement import Placement, Region
from rematbench.records.frontier import dominated, frontier
from rematbench.records.measurement import Measurement, Skip, Structure
from rematbench.reporting.budgets import COSTS
from rematbench.reporting.compare import frontier_sheet
from rematbench.reporting.figures import figures
from rematbench.reporting.fitting import by_importance, evenly, fitted
from rematbench.reporting.gathering import Model, Series
from rematbench.reporting.page import PAGE_BYTES, page
from rematbench.reporting.strip import CELLS, DRAWN, brackets, drawn_arcs, drawn_brackets
from rematbench.reporting.terminal import plot
from rematbench.traces.timeline import Share, Timeline


def calls(work: Callable[[], object]) -> int:
    """Count the calls that some work makes, those into C included."""
    count = 0

    def notice(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def many(count: int, name: str = "toy") -> Model:
    """Return a model of so many placements, a fifth of them worse than none in nothing but their place."""
    draw = random.Random(count)
    cases = [case("none", 1000, 1.0, model=name)]
    for at in range(1, count):
        peak, gradients = draw.randrange(100, 1000), "different" if at % 7 == 0 else "bitwise"
        times = timing(1 + (1000 - peak) // 20 / 50 + draw.randrange(5) / 20)  # few: each has its bootstrap once
        same = equality(gradients, buffers="different" if at % 5 == 0 else "equal")
        cases.append(case(f"p{at}", peak, None, f"blocks[{at % 4}]", model=name, timing=times, equality=same))
    return Model(name=name, series=(Series(label="cpu, float32", rows=tuple(rows(*cases))),))


def each(count: int) -> Measurement:
    names = tuple(f"blocks.{at}" for at in range(count))
    held = dict.fromkeys(names, MIB)
    return case(
        "each",
        100,
        1.3,
        *(f"blocks[{at}]" for at in range(count)),
        memory=memory(
            100 * MIB,
            held_by_block=held,
            at_peak=tuple(Share(kind="kept", block=block, bytes=MIB) for block in names),
        ),
        timeline=Timeline(
            time_s=(0.0, 1.0),
            live_bytes=(0, 100 * MIB),
            phases={"forward": (0.0, 0.5), "backward": (0.5, 1.0)},
            recomputed=tuple(
                (block, 0.5 + at / count / 2, 0.5 + (at + 1) / count / 2) for at, block in enumerate(names)
            ),
        ),
        structure=Structure(
            blocks=names,
            skips=tuple(
                Skip(source=names[at], target=names[-1 - at], bytes=at, shape=(2,)) for at in range(count // 2)
            ),
        ),
    )


def of_blocks(count: int) -> Model:
    return Model(name="toy", series=(Series(label="cpu, float32", rows=tuple(rows(each(count)))),))


SCALED: dict[str, tuple[Callable[[int], Any], Callable[[Any], object]]] = {
    "the frontier": (many, lambda model: [frontier(model.series[0].rows), dominated(model.series[0].rows)]),
    "the sheet of show": (many, lambda model: frontier_sheet("", model.series[0].rows, most=60)),
    "the plot of show": (many, lambda model: plot(model.series[0])),
    "a page of rows": (many, lambda model: page([model])),
    "a page of models": (lambda count: [many(3, f"m{at}") for at in range(count // 3)], page),
    "a page of blocks": (of_blocks, lambda model: page([model])),
}


@pytest.mark.parametrize("what", SCALED)
def test_twice_the_size_is_twice_the_work(what: str) -> None:
    make, work = SCALED[what]
    work(make(6))  # what is imported, and made once
    few, more = (calls(lambda made=made: work(made)) for made in map(make, (120, 240)))  # type: ignore[misc]
    assert more < 2.3 * few


def test_brackets_take_what_they_find() -> None:
    def spans(count: int) -> Callable[[], object]:
        placement = Placement(name="each", regions=tuple(Region(path=f"blocks[{at}]") for at in range(count)))
        return lambda: brackets(placement, [f"blocks.{at}" for at in range(count)])

    assert calls(spans(1000)) < 2.3 * calls(spans(500))


def test_a_page_of_5000_rows_is_no_larger_than_others_and_says_what_is_missing() -> None:
    text = page([many(5000)])
    listed = text.count('<tr data-row="')
    assert len(text.encode()) < 8_000_000
    assert 400 < listed < 5000
    said = f"{listed:,} of this model&#39;s 5,000 rows are drawn and listed here"
    assert text.count(said) == 2, "with the model and with the table"
    assert f"The other {5000 - listed:,} are in the run&#39;s results.csv" in text


def test_the_rows_that_matter_most_have_their_charts() -> None:
    told = figures([many(60)], cards_bytes=6000)["rows"]
    assert "timeline" in told[0]
    assert {"timeline" in row for row in told} == {True, False}
    assert all(row.get("left_out", False) != ("timeline" in row) for row in told)
    assert not any("left_out" in row for row in figures([many(60)])["rows"])


def test_every_budget_has_the_answer_that_all_rows_would_give() -> None:
    model = many(800)
    shown = fitted([model], 600_000).models[0]

    def answers(series: Series, budget: int) -> list[Any]:
        """Return the least cost and peak that fit: of all rows, and of those that training allows."""
        fitting = [row for row in series.rows if row.cells["peak_bytes"] <= budget * MIB]
        same = [row for row in fitting if row.cells["gradients"] != "different"]
        untouched = [row for row in same if row.cells["buffers"] == "equal"]
        kinds = (fitting, same, untouched)
        return [
            min(((row.cost(cost), row.cells["peak_bytes"]) for row in some), default=None)
            for some in kinds
            for cost in COSTS
        ]

    assert len(shown.series[0].rows) < 400
    for budget in range(90, 1010, 30):
        assert answers(shown.series[0], budget) == answers(model.series[0], budget)


def test_rows_of_any_length_and_models_of_any_number_fit() -> None:
    long = [case(f"{'<é>' * 900}{at}", 10, 1.0, message="&" * 50_000, model="<m>" * 300) for at in range(60)]
    models = [Model(name="<m>" * 300, series=(Series(label="cpu", rows=tuple(rows(*long))),))]
    assert len(page(models).encode()) < PAGE_BYTES
    crowd = [many(2, f"model {at}") for at in range(1000)]
    text = page(crowd)
    assert len(text.encode()) < PAGE_BYTES
    shown = len(re.findall('<section class="model"', text))
    assert 100 < shown < 1000
    assert f"{shown:,} of 1,000 models are on this page; left out are model {shown}," in text
    assert "`rematbench report --model NAME` makes the page of one." in text


def test_little_is_left_as_it_is() -> None:
    models = [many(30)]
    found = fitted(models, 1_000_000)
    assert found.models == tuple(models)
    assert found.left_out == ()
    assert 'left_out":true' not in page(models)


def test_what_matters_comes_first_and_the_rest_evenly() -> None:
    model = many(400)
    series = model.series[0]
    ordered = list(by_importance([model]))
    assert sorted(map(id, ordered)) == sorted(map(id, series.rows))
    best = frontier(series.rows)
    assert ordered[0].is_plain
    assert {row.name for row in ordered[: len(best) + 60]} >= best
    places = sorted(int(row.name[1:]) for row in ordered[-300:][:75])
    assert max(later - at for at, later in itertools.pairwise(places)) < 20
    assert evenly(range(10), 4) == [0, 3, 6, 9]


def test_thousands_of_blocks_are_drawn_as_hundreds() -> None:
    one = each(2000)
    assert one.regions is not None
    assert one.structure is not None
    drawn, notes = drawn_brackets(one.regions, one.structure.blocks)
    assert len(drawn) <= CELLS
    assert drawn[0].text == "9 regions, first blocks[0]"
    assert notes == ["2,000 blocks, 9 neighbours drawn as one"]
    assert len(drawn_arcs(one.structure)) == DRAWN
    assert len(page([of_blocks(2000)]).encode()) < 5_100_000
    nested = Placement(name="deep", regions=tuple(Region(path=f"blocks[{at}:200]") for at in range(50)))
    drawn, notes = drawn_brackets(nested, [f"blocks.{at}" for at in range(200)])
    assert len(drawn) == 12
    assert notes == ["38 of 50 regions are not drawn, those deepest inside others"]


def test_show_says_what_it_does_not_show() -> None:
    cases = [case("none", 3000, 1.0), *(case(f"p{at}", 3000 - at, 1 + at / 1000) for at in range(1, 500))]
    series = Series(label="cpu, float32", rows=tuple(rows(*cases)))
    sheet = frontier_sheet("toy", series.rows, most=60)
    assert [line[0] for line in sheet.rows][:1] == ["none"]
    assert len(sheet.rows) == 60
    assert sheet.notes[0] == "60 of the 500 on the frontier are shown; `rematbench compare` lists all of them"
    drawn = plot(series)
    assert "a none" in drawn
    assert "b p499" in drawn, "the leanest, and not the first 52 that were measured"
    assert drawn.endswith("52 of 500 placements are drawn: those that no other beats, then an even choice")
