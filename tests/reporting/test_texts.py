"""Every table shows the same figures of a row, whichever table it is."""

from typing import get_args

import pytest
from tests.records.making import MIB, equality, measurement, memory, rows, run_of
from tests.reporting.samples import case, toy

from rematbench.records.frontier import frontier
from rematbench.records.measurement import Measurement, Same, Timing, Verdict
from rematbench.reporting.compare import by_sheet, change_sheet, frontier_sheets
from rematbench.reporting.table import HEADER, model_tables
from rematbench.reporting.texts import TEXTS, marked, texts_of

DRIFTING = [
    # the plain step's own median is of slower rounds than each's: paired, each takes 3 times as long, not 4.5
    measurement(
        memory=memory(9 * MIB),
        timing=Timing(step_s=(0.01,) * 4 + (0.02,) * 6, plain_s=(0.01,) * 4 + (0.02,) * 6),
        equality=equality(),
    ),
    measurement(
        "each", memory=memory(3 * MIB), timing=Timing(step_s=(0.09,) * 10, plain_s=(0.03,) * 10), equality=equality()
    ),
]


@pytest.mark.parametrize("cases", [toy(), DRIFTING], ids=["toy", "drifting"])
def test_the_console_compare_and_show_agree(cases: list[Measurement]) -> None:
    (table,) = model_tables(rows(*cases))
    (sheet,) = frontier_sheets(run_of(*cases))
    console = {line.cells[0]: dict(zip(HEADER, line.cells, strict=True)) for line in table.lines}
    assert sheet.rows
    for line in sheet.rows:
        shown = dict(zip(sheet.header, line, strict=True))
        shown.pop("ms per MiB saved")
        assert shown == {heading: console[line[0]][heading] for heading in shown}
    kept = frontier(rows(*cases))
    assert {line.cells[0] for line in table.lines if not line.dominated and not line.failed} == kept
    assert {line[0] for line in sheet.rows} == kept | {"none"}


def test_the_step_is_paired_in_every_table() -> None:
    (table,) = model_tables(rows(*DRIFTING))
    assert [line.cells[3] for line in table.lines] == ["20 ms", "60 ms"]


def test_sheets_of_several_runs_show_the_same_cells() -> None:
    run = run_of(*toy())
    peaks = {row.name: (texts_of(row)["peak_mib"], texts_of(row)["ratio"]) for row in run.rows.values()}
    assert {line[1]: line[3:] for line in by_sheet(run, "device").rows[:-1]} == {
        name: cells for name, cells in peaks.items() if name != "huge"
    }
    other = run_of(case("none", 200, 2.0))
    before, now = (TEXTS["peak_mib"](one.rows["toy", "none", "cpu", "float32"]) for one in (run, other))
    assert change_sheet(run, other).rows[0][3] == f"{before} → {now}"


def test_what_is_absent_is_an_empty_text() -> None:
    (row,) = rows(measurement("each"))
    assert {name: text for name, text in texts_of(row).items() if text} == {"model": "toy", "placement": "each"}


def test_every_verdict_has_a_sign() -> None:
    verdicts = [*get_args(Verdict), *get_args(Same)]
    assert {marked(verdict) for verdict in verdicts} == {
        *("✓ bitwise", "≈ noise", "≈ close", "✗ different", "✓ equal"),
    }
    assert marked("") == ""


def test_what_is_no_verdict_stands_as_it_is() -> None:
    assert (marked("0"), marked(""), marked("bitwise")) == ("0", "", "✓ bitwise")
