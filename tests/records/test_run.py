"""A run is read back as it was written, or refused with its sentence; what a row says beside its cells."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records.making import CPU, equality, measurement, measurements, memory, rows, run_of, timing

import rematbench
from rematbench.errors import StorageError
from rematbench.records.baseline import baseline_csv
from rematbench.records.columns import COLUMNS, cell_text, unshielded
from rematbench.records.measurement import Measurement, Status, Timing
from rematbench.records.run import CannotJudgeError, Run
from rematbench.records.statistics import Interval
from rematbench.records.store import RECORDS, Store, read_measurements

CASES = rows(measurement(memory=memory(100)), measurement("each", memory=memory(60), message="a\u2028b\x0cc\nd"))
CELLS = [row.cells for row in CASES]
KEYS = [("toy", name, "cpu", "float32") for name in ("none", "each")]
TEXT = baseline_csv(Run("none", CASES), None)


def test_rows_come_back_whatever_is_in_their_text(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_bytes(TEXT.encode())
    found = Run(tmp_path).rows
    assert list(found) == KEYS
    for key, cells in zip(KEYS, CELLS, strict=True):
        assert {name: cell_text(value) for name, value in found[key].cells.items()} == {
            name: cell_text(value) for name, value in cells.items()
        }


REFUSED = {
    "empty": ("", CannotJudgeError, "no rows"),
    "only a header": (TEXT.partition("\n")[0] + "\n", CannotJudgeError, "no rows"),
    "cut mid-row": (TEXT[:-20], CannotJudgeError, "cut short"),
    "a column missing": (TEXT.replace("peak_bytes", "peak", 1), StorageError, "no column peak_bytes"),
    "a column twice": (
        "".join(f"peak_bytes,{line}" for line in TEXT.splitlines(keepends=True)),
        CannotJudgeError,
        "the column 'peak_bytes' twice",
    ),
    "a word for a number": (TEXT.replace(",100,", ",much,", 1), StorageError, "peak_bytes is 'much'"),
    "a row twice": (TEXT.replace(",each,", ",none,", 1), StorageError, "two rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    text, error, says = REFUSED[name]
    (tmp_path / "run.csv").write_bytes(text.encode())
    with pytest.raises(error, match=says):
        Run(tmp_path / "run.csv")


# A folder


def stored(folder: Path, *cases: Measurement) -> Path:
    store = Store.begin(folder, "")
    for case in cases:
        store.add(case)
    return folder


FULL = measurement("each", memory=memory(60), timing=timing(1.2), equality=equality(), message="odd", environment=CPU)


def test_a_folder_is_read_from_its_records_and_says_what_its_csv_says(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", measurement(memory=memory(100), timing=timing(1.0)), FULL)
    whole, alone = Run(folder), Run(str(folder / "results.csv"))
    assert [row.measurement for row in whole.rows.values()] == read_measurements(folder)
    assert {row.measurement for row in alone.rows.values()} == {None}
    assert [[value or None for value in cells.values()] for cells in whole.cells] == [
        [value or None for value in cells.values()] for cells in alone.cells
    ]
    assert [row.step_s for row in whole.rows.values()] == [row.step_s for row in alone.rows.values()]


def test_records_that_cannot_be_read_are_refused_and_their_csv_is_named(tmp_path: Path) -> None:
    """Damaged, or of another version: the CSV beside them may be older, so it is taken only by its own name."""
    folder = stored(tmp_path / "run", FULL)
    (folder / RECORDS).write_text('{"from": "the past"}\n')
    with pytest.raises(StorageError, match=r"line 1 is no measurement .*results\.csv may still be read"):
        Run(folder)
    assert [row.name for row in Run(folder / "results.csv").rows.values()] == ["each"]


def test_a_folder_without_rows_has_nothing_to_judge_by(tmp_path: Path) -> None:
    with pytest.raises(CannotJudgeError, match="holds no rows"):
        Run(stored(tmp_path / "run"))
    with pytest.raises(StorageError, match="No such file"):
        Run(tmp_path / "gone")


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x", "'quoted'", "'", "-", "plain", "a=1")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_is_no_formula_to_a_spreadsheet_and_is_read_back(text: str, tmp_path: Path) -> None:
    odd = measurement("each", suite=text, message=text, memory=memory(5), measured_at=text)
    folder = stored(tmp_path / "run", odd)
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        header, line = csv.reader(file)
    assert not [cell for cell in line if cell[:1] in tuple("=+-@\t\r\n")]
    assert dict(zip(header, line, strict=True))["peak_bytes"] == "5"
    (cells,) = Run(folder / "results.csv").cells
    assert (cells["suite"], cells["message"], cells["measured_at"]) == (text, text, text)
    (tmp_path / "base.csv").write_text(baseline_csv(Run(folder), None), encoding="utf-8", newline="")
    assert Run(tmp_path / "base.csv").cells == [{**cells}]


def test_what_older_versions_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", measurement("each", message="HERE"))
    for text in ("=1", "-x", "'quoted'", "plain"):
        (tmp_path / "old.csv").write_text((folder / "results.csv").read_text().replace("HERE", text))
        assert Run(tmp_path / "old.csv").cells[0]["message"] == text


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("'=+-@\t\r\n1a"), max_size=6))
def test_every_text_comes_back_from_its_cell(text: str) -> None:
    cell = cell_text(text)
    assert unshielded(cell) == text
    assert cell[:1] not in tuple("=+-@\t\r\n")


# What a row says


def test_a_step_is_the_plain_median_times_the_paired_ratio() -> None:
    """The machine ran the first half at half the speed: the row's own median is of another day than the plain one's."""
    plain = measurement(timing=Timing(step_s=(1.0,) * 5 + (2.0,) * 5, plain_s=(1.0,) * 5 + (2.0,) * 5))
    each = measurement("each", timing=Timing(step_s=(6.0,) * 10, plain_s=(2.0,) * 10))
    _, row = rows(plain, each)
    assert row.step_s == Interval(median=4.5, low=4.5, high=4.5)
    assert row.cost("time") == 4.5
    assert row.step_ratio == Interval(median=3.0, low=3.0, high=3.0)


def test_a_step_without_a_pair_is_its_own_median_within_its_quartiles() -> None:
    (row,) = rows(measurement("each", timing=Timing(step_s=(1.0, 2.0, 3.0, 4.0, 5.0), plain_s=())))
    assert row.step_s == Interval(median=3.0, low=2.0, high=4.0)
    assert row.step_ratio is None


@pytest.mark.parametrize("status", [status for status in Status if not status.is_ok])
def test_a_row_that_failed_has_no_step_and_fits_no_plot(status: Status) -> None:
    (row,) = rows(measurement("each", status=status, memory=memory(5), timing=timing(1.0)))
    assert (row.is_ok, row.step_s, row.fits_a_plot) == (False, None, False)


# In a notebook


@settings(deadline=None, max_examples=25)
@given(st.lists(measurements(), min_size=1, max_size=4, unique_by=lambda case: case.key))
def test_a_data_frame_has_every_cell_typed_by_its_unit(cases: list[Measurement]) -> None:
    run = run_of(*cases)
    frame = run.dataframe()
    assert list(frame.columns) == [column.name for column in COLUMNS]
    kinds = {"": "string", "s": "float64", "×": "float64", "difference": "float64", "yes/no": "boolean"}
    for column in COLUMNS:
        usual = "object" if column.unit == "bytes by block" else "Int64"
        assert str(frame[column.name].dtype) == kinds.get(column.unit, usual)
        for cells, value in zip(run.cells, frame[column.name], strict=True):
            absent = cells[column.name] in (None, "")
            assert (value is None or pd.isna(value)) if absent else value == cells[column.name]


def test_a_notebook_groups_and_joins(tmp_path: Path) -> None:
    folder = stored(
        tmp_path / "run", *(measurement(name, memory=memory(peak)) for name, peak in [("none", 8), ("each", 2)])
    )
    frame = rematbench.Run(folder).dataframe()
    assert frame.set_index("placement")["peak_ratio"].to_dict() == {"none": 1.0, "each": 0.25}
    assert frame.groupby("model")["peak_bytes"].min().to_dict() == {"toy": 2}
