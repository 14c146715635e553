"""A run's folder: rows that outlive whatever ends a run, and a CSV that can always be derived again."""

import csv
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records.making import CPU, equality, measurement, measurements, memory, timing

from rematbench.errors import StorageError
from rematbench.records.columns import COLUMNS
from rematbench.records.measurement import Measurement
from rematbench.records.store import RECORDS, Store, csv_text, new_folder, opened_to_append, read_measurements

SUITE = 'name = "mine"\n'
PLAIN = measurement(memory=memory(200), timing=timing(1.0))
EACH = measurement("each", memory=memory(50), timing=timing(1.25), message="zeit × 2, µs")
NOON = datetime(2030, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.begin(tmp_path / "run", SUITE)


def leftovers(folder: Path) -> list[str]:
    """Return what is in a run's folder that should not be."""
    known = {RECORDS, "results.csv", "environment.json", "suite.toml"}
    return sorted(file.name for file in folder.iterdir() if file.name not in known)


# Beginning and adding


def test_a_new_run_holds_the_suite_and_no_rows(store: Store) -> None:
    assert (store.folder / "suite.toml").read_text() == SUITE
    assert read_measurements(store.folder) == store.measurements == []


def test_rows_are_on_disk_the_moment_they_are_added(store: Store) -> None:
    for count, case in enumerate((PLAIN, EACH), start=1):
        store.add(case)
        assert len((store.folder / RECORDS).read_bytes().splitlines()) == count
        assert read_measurements(store.folder) == store.measurements == [PLAIN, EACH][:count]
        assert (store.folder / "results.csv").read_text() == csv_text(store.measurements)
    assert leftovers(store.folder) == []


def test_a_fuller_row_takes_the_place_of_the_first_and_both_are_kept_raw(store: Store) -> None:
    bare = PLAIN.model_copy(update={"timing": None})
    for case in (bare, EACH, PLAIN):
        store.add(case)
    assert read_measurements(store.folder) == store.measurements == [PLAIN, EACH]
    assert (store.folder / RECORDS).read_bytes().count(b"\n") == 3
    assert [line["placement"] for line in cells(store.folder)] == ["none", "each"]


@settings(deadline=None, max_examples=20)
@given(st.lists(measurements(st.text()), max_size=5))
def test_any_rows_come_back(tmp_path_factory: pytest.TempPathFactory, cases: list[Measurement]) -> None:
    """Text holds every separator that some reader takes for the end of a line."""
    store = Store.begin(tmp_path_factory.mktemp("store") / "run", SUITE)
    for case in cases:
        store.add(case)
    last = {case.key: case for case in cases}
    assert read_measurements(store.folder) == list(last.values())
    assert Store.resume(store.folder, SUITE).measurements == list(last.values())


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r", "\n"])
def test_a_message_cannot_end_its_line(store: Store, separator: str) -> None:
    case = measurement(message=f"before{separator}after")
    store.add(case)
    assert read_measurements(store.folder) == [case]


def test_a_folder_that_holds_a_run_is_not_begun_again(store: Store) -> None:
    store.add(PLAIN)
    with pytest.raises(
        StorageError, match=r"already holds a run: choose another folder, or go on with it by --resume$"
    ):
        Store.begin(store.folder, SUITE)
    assert read_measurements(store.folder) == [PLAIN]


def test_a_run_may_begin_in_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert Store.begin(tmp_path, SUITE).measurements == []


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError) as caught:
            Store.begin(folder, SUITE)
        assert str(caught.value).startswith(f"{folder}: ")
        assert str(caught.value).endswith("; is the disk full or the folder not writable?")
        with pytest.raises(StorageError):
            new_folder(folder, "mine")


# The CSV


def cells(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text(), newline="")))


def test_the_csv_by_hand(store: Store) -> None:
    store.add(PLAIN)
    store.add(EACH)
    text = (store.folder / "results.csv").read_text()
    assert text.splitlines()[0] == ",".join(column.name for column in COLUMNS)
    assert text.splitlines()[2] == (
        'mine,toy,each,cpu,float32,ok,"zeit × 2, µs",,,0,50,0.25,0,backward,true,0.0125,0.0,1.25,1.25,1.25,9,'
        ",,,,,,,,,,,by hand,,,,,,2030-01-31,,,,,,,,,,,,,,,,,,"
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(measurements(), max_size=5))
def test_a_cell_is_empty_exactly_where_the_number_is_absent(cases: list[Measurement]) -> None:
    """Read by another parser, and compared with the raw records rather than with the columns' own functions."""
    table = list(csv.reader(io.StringIO(csv_text(cases), newline="")))
    assert [len(line) for line in table] == [len(COLUMNS)] * (len(cases) + 1)
    for case, line in zip(cases, table[1:], strict=True):
        raw, found = json.loads(case.model_dump_json()), dict(zip(table[0], line, strict=True))
        for part, name, column in [
            ("memory", "static_bytes", "static_bytes"),
            ("memory", "peak_bytes", "peak_bytes"),
            ("memory", "held_bytes", "held_bytes"),
            ("memory", "reserved_bytes", "reserved_bytes"),
            ("flops", "forward", "forward_flops"),
            ("flops", "recompute", "recompute_flops"),
            ("environment", "threads", "threads"),
        ]:
            value = (raw[part] or {}).get(name)
            assert found[column] == ("" if value is None else str(value))
        for column in ("checkpointed_blocks", "resident_bytes"):
            assert found[column] == ("" if raw[column] is None else str(raw[column]))
        for part, columns in {
            "equality": ["gradients", "gradients_max_abs_diff", "loss", "buffers", "rng_state"],
            "timing": ["step_median_s", "step_iqr_s", "rounds"],
            "memory": ["peak_phase", "repeatable"],
        }.items():
            assert all((found[column] == "") == (raw[part] is None) for column in columns)
        paired = raw["timing"] and raw["timing"]["plain_s"]
        assert (found["step_ratio"] == "") == (not paired)


def test_an_infinite_difference_stands_in_the_csv(store: Store) -> None:
    store.add(measurement("each", equality=equality("different", gradients_max_abs_diff=float("inf"))))
    assert cells(store.folder)[0]["gradients_max_abs_diff"] == "inf"


# What a crash leaves


def test_a_run_cut_short_at_any_byte_loses_the_last_row_at_most(store: Store) -> None:
    store.add(PLAIN)
    first = len((store.folder / RECORDS).read_bytes())
    store.add(EACH)
    whole = (store.folder / RECORDS).read_bytes()
    for length in range(first, len(whole) + 1):
        (store.folder / RECORDS).write_bytes(whole[:length])
        assert read_measurements(store.folder) == ([PLAIN, EACH] if length >= len(whole) - 1 else [PLAIN])


@pytest.mark.parametrize("kept", [1, 40, -1, None], ids=["a byte", "some", "all but the end of line", "all"])
def test_resuming_after_a_crash_appends_cleanly(store: Store, kept: int | None) -> None:
    store.add(PLAIN)
    first = (store.folder / RECORDS).read_bytes()
    store.add(EACH)
    last = (store.folder / RECORDS).read_bytes().removeprefix(first)
    (store.folder / RECORDS).write_bytes(first + last[:kept])
    again = Store.resume(store.folder, SUITE)
    third = measurement("sqrt", memory=memory(60))
    again.add(third)
    expected = [PLAIN, EACH, third] if kept in (-1, None) else [PLAIN, third]
    assert read_measurements(store.folder) == again.measurements == expected
    assert (store.folder / RECORDS).read_bytes().count(b"\n") == len(expected)
    assert leftovers(store.folder) == []


@pytest.mark.parametrize("damage", ["behind", "cut", "gone", "ahead"])
def test_resuming_derives_the_csv_again(store: Store, damage: str) -> None:
    """It was not written after a row: the disk was full, or the run was killed just before the rename."""
    table = store.folder / "results.csv"
    store.add(PLAIN)
    behind = table.read_text()
    store.add(EACH)
    whole = table.read_text()
    if damage == "gone":
        table.unlink()
    else:
        table.write_text({"behind": behind, "cut": whole[:-9], "ahead": whole + whole.splitlines()[-1] + "\n"}[damage])
    again = Store.resume(store.folder, SUITE)
    assert table.read_text() == csv_text(again.measurements) == whole


def test_a_row_whose_csv_cannot_be_written_is_in_both_once_the_run_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(PLAIN)
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="No space left on device"):
            store.add(EACH)
    assert Store.resume(store.folder, SUITE).measurements == [PLAIN, EACH]
    assert (store.folder / "results.csv").read_text() == csv_text([PLAIN, EACH])


def test_resuming_keeps_only_the_last_version_of_a_row(store: Store) -> None:
    for case in (PLAIN.model_copy(update={"timing": None}), PLAIN):
        store.add(case)
    assert Store.resume(store.folder, SUITE).measurements == [PLAIN]
    assert (store.folder / RECORDS).read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"suite": "mine"', b"[1, 2]"])
def test_a_damaged_line_in_the_midst_is_refused_with_its_number(store: Store, damage: bytes) -> None:
    store.add(PLAIN)
    store.add(EACH)
    first, second = (store.folder / RECORDS).read_bytes().splitlines(keepends=True)
    damaged = first + damage + b"\n" + second
    (store.folder / RECORDS).write_bytes(damaged)
    for read in (read_measurements, Store, lambda folder: Store.resume(folder, SUITE)):
        with pytest.raises(StorageError, match=r"measurements\.jsonl, line 2 is no measurement of this version of"):
            read(store.folder)
    assert (store.folder / RECORDS).read_bytes() == damaged


def test_a_row_of_another_version_is_refused_even_at_the_end(store: Store) -> None:
    store.add(PLAIN)
    with (store.folder / RECORDS).open("ab") as file:
        file.write(b'{"from": "the future"}\n')
    with pytest.raises(StorageError, match="line 2"):
        Store.resume(store.folder, SUITE)


# Going on with a run


def test_there_must_be_a_run_to_go_on_with(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "there"):
        with pytest.raises(StorageError, match=rf"^{folder} holds no run: measurements\.jsonl: No such file"):
            Store.resume(folder, SUITE)


def test_another_suite_is_refused(store: Store) -> None:
    store.add(PLAIN)
    before = (store.folder / RECORDS).read_bytes()
    with pytest.raises(StorageError, match="ran another suite, or with other settings"):
        Store.resume(store.folder, SUITE + "[settings]\nrounds = 3\n")
    (store.folder / "suite.toml").unlink()
    with pytest.raises(StorageError, match="ran another suite, or with other settings"):
        Store.resume(store.folder, SUITE)
    assert (store.folder / RECORDS).read_bytes() == before


def test_the_environment_is_kept_by_device(store: Store) -> None:
    gpu = CPU.model_copy(update={"device_name": "A GPU"})
    store.keep_environment("cpu", CPU)
    store.keep_environment("cuda:0", gpu)
    assert json.loads((store.folder / "environment.json").read_text())["cuda:0"]["device_name"] == "A GPU"
    assert Store.resume(store.folder, SUITE).environments == {"cpu": CPU, "cuda:0": gpu}


@pytest.mark.parametrize("field", list(type(CPU).model_fields))
def test_rows_of_another_environment_are_refused_and_what_changed_is_named(store: Store, field: str) -> None:
    store.keep_environment("cpu", CPU)
    store.add(PLAIN)
    again = Store.resume(store.folder, SUITE)
    again.keep_environment("cpu", CPU)
    changed = CPU.model_copy(update={field: 99 if field == "threads" else "another"})
    with pytest.raises(StorageError) as caught:
        again.keep_environment("cpu", changed)
    was, now = getattr(CPU, field), getattr(changed, field)
    assert f"in another environment ({field} {was!r}, now {now!r}): begin a new run" in str(caught.value)
    assert Store(store.folder).environments == {"cpu": CPU}


def test_before_there_are_rows_the_environment_may_change(store: Store) -> None:
    changed = CPU.model_copy(update={"threads": 99})
    store.keep_environment("cpu", CPU)
    store.keep_environment("cpu", changed)
    assert store.environments == {"cpu": changed}


# What stands in a file's place


@pytest.mark.parametrize("name", [RECORDS, "output.log"])
def test_nothing_is_appended_through_a_link_or_a_pipe(store: Store, name: str, tmp_path: Path) -> None:
    """A folder from somebody else, gone on with: what it links to is no part of it."""
    store.add(PLAIN)
    victim, path = tmp_path / "victim", store.folder / name
    victim.write_text("as it was\n")
    for linked in (victim, tmp_path / "new", None):
        path.unlink(missing_ok=True)
        if linked is None:
            os.mkfifo(path)
        else:
            path.symlink_to(linked)
        with pytest.raises(
            StorageError, match=rf"{name} is a (link|device) or a pipe and no file: remove it, or begin"
        ):
            opened_to_append(path)
        if name == RECORDS:
            with pytest.raises(StorageError, match="no file: remove it"):
                store.add(EACH)
    assert victim.read_text() == "as it was\n"
    assert not (tmp_path / "new").exists()


def test_a_pipe_that_somebody_reads_from_is_none_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(StorageError, match="no file"):
        opened_to_append(tmp_path / "pipe")
    os.close(reader)


def test_going_on_in_a_folder_of_links_replaces_them(store: Store, tmp_path: Path) -> None:
    store.add(PLAIN)
    kept = {}
    for name in (RECORDS, "results.csv", "environment.json", "suite.toml"):
        path, victim = store.folder / name, tmp_path / f"victim-{name}"
        victim.write_bytes(path.read_bytes() if path.exists() else b"{}")
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
        kept[victim] = victim.read_bytes()
    again = Store.resume(store.folder, SUITE)
    again.keep_environment("cpu", CPU)
    again.add(EACH)
    assert {victim: victim.read_bytes() for victim in kept} == kept
    assert read_measurements(store.folder) == [PLAIN, EACH]
