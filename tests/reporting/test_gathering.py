from pathlib import Path

import pytest
from tests.reporting.samples import case, stored, toy

from rematbench.errors import RematbenchError, StorageError
from rematbench.records.store import RECORDS
from rematbench.reporting.gathering import Series, models_of


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return models_of([stored(tmp_path / "run", toy())])[0].series[0]


def test_the_frontier_is_what_no_other_beats(series: Series) -> None:
    assert series.frontier("time") == {"none", "cheat"}
    assert series.frontier("flops") == {"none", "cheat"}


def test_step_times_are_the_plain_median_times_the_paired_ratio(series: Series) -> None:
    steps = {row.name: row.step_s for row in series.rows}
    half = steps["half"]
    assert half is not None
    assert (half.median, half.low, half.high) == pytest.approx((0.012, 0.012, 0.012))
    assert steps["huge"] is None


def test_a_folder_and_its_csv_say_the_same(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", toy())
    whole, alone = (models_of([source])[0].series[0] for source in (folder, folder / "results.csv"))
    assert [row.name for row in alone.rows] == [one.placement for one in toy()]
    assert [row.step_s for row in alone.rows] == [row.step_s for row in whole.rows]
    assert alone.frontier("time") == whole.frontier("time")
    assert all(row.measurement for row in whole.rows)
    assert not any(row.measurement for row in alone.rows)


def test_series_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    one = stored(tmp_path / "one" / "run", [*toy(), *toy(device="cuda:0")])
    two = stored(tmp_path / "two" / "run", [*toy(), case("none", 1, 1.0, model="other")])
    assert [series.label for series in models_of([one])[0].series] == ["cpu, float32", "cuda:0, float32"]
    both = models_of([one, two])
    assert [model.name for model in both] == ["toy", "other"]
    assert [series.label for series in both[0].series] == [
        "run (1) · cpu, float32",
        "run (1) · cuda:0, float32",
        "run (2) · cpu, float32",
    ]
    assert [series.label for series in both[1].series] == ["cpu, float32"]


def test_a_folder_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", toy())
    records = folder / RECORDS
    records.write_bytes(records.read_bytes()[:-40])
    assert len(models_of([folder])[0].series[0].rows) == len(toy()) - 1


def test_nothing_to_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RematbenchError, match="holds no rows"):
        models_of([stored(tmp_path / "empty", [])])
    with pytest.raises(StorageError, match="No such file"):
        models_of([tmp_path / "gone"])
