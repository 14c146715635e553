"""Rows of two versions of a model never stand side by side: its files are part of what a run goes on with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.running.machine import NAMES, Machine, run, suite

from rematbench.errors import StorageError
from rematbench.placement.placement import PLAIN
from rematbench.record import Record
from rematbench.records.measurement import Status
from rematbench.records.sources import content_of
from rematbench.records.store import RECORDS, Store, read_measurements
from rematbench.running.protocol import JobOrder, Measured


@dataclass
class FromFiles(Machine):
    """Stands in for workers that build a model from files; `edits` are made while its rows come, by the number of them.

    Attributes:
        files: of each model.
    """

    root: Path = Path()
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    edits: dict[int, str] = field(default_factory=dict)
    rows: int = 0

    def answer(self, order: Any) -> Iterator[Any]:
        for message in super().answer(order):
            yield self._with_sources(message, order)

    def _with_sources(self, message: Record, order: JobOrder) -> Record:
        if not isinstance(message, Measured):
            return message
        sources = {name: content_of(self.root / name) for name in self.files.get(order.job.model.name, ())}
        self.rows += 1
        if edited := self.edits.get(self.rows):
            (self.root / edited).write_text("edited")
        return Measured(measurement=message.measurement.model_copy(update={"sources": sources}))


@pytest.fixture
def machine(tmp_path: Path) -> FromFiles:
    for name in ("net.py", "helper.py", "other.py"):
        (tmp_path / name).write_text(name)
    return FromFiles(root=tmp_path, files={"m": ("net.py", "helper.py"), "n": ("other.py",)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.begin(tmp_path / "run", "")


def cut(store: Store, rows: int) -> Store:
    """Take the last rows out of the records, as if the run had ended before them."""
    lines = (store.folder / RECORDS).read_bytes().splitlines(keepends=True)
    kept = list(dict.fromkeys(row.placement for row in read_measurements(store.folder)))[:-rows]
    (store.folder / RECORDS).write_bytes(
        b"".join(line for line in lines if any(f'"placement":"{name}"'.encode() in line for name in kept))
    )
    return Store.resume(store.folder, "")


@pytest.mark.parametrize("edited", ["net.py", "helper.py"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_run_does_not_go_on_with_another_version_of_a_model(
    machine: FromFiles, store: Store, edited: str, gone: bool
) -> None:
    run(machine, suite(), store, machine.root)
    store = cut(store, 2)
    before = store.measurements
    (machine.root / edited).unlink() if gone else (machine.root / edited).write_text("edited")
    with pytest.raises(StorageError) as caught:
        run(machine, suite(), store, machine.root)
    assert str(caught.value) == (
        f"{store.folder}: m: its rows are of another {edited} than is there now: begin a new run"
    )
    assert read_measurements(store.folder) == before
    (machine.root / edited).write_text(edited)
    rows = run(machine, suite(), store, machine.root)
    assert [name for _, name in rows] == [PLAIN, *NAMES]


def test_what_only_times_or_has_its_resident_set_left_is_refused_too(machine: FromFiles, store: Store) -> None:
    run(machine, suite(rounds=0), store, machine.root)
    (machine.root / "net.py").write_text("edited")
    for settings in ({}, {"rounds": 0, "resident": True}):
        with pytest.raises(StorageError, match=r"another net\.py than is there now"):
            run(machine, suite(**settings), Store.resume(store.folder, ""), machine.root)


def test_another_models_file_or_one_of_rows_that_are_measured_anew_may_change(machine: FromFiles, store: Store) -> None:
    machine.fates = dict.fromkeys((PLAIN, *NAMES), "not a number")
    run(machine, suite(), store, machine.root)
    (machine.root / "net.py").write_text("mended")
    (machine.root / "other.py").write_text("edited")
    machine.fates = {}
    rows = run(machine, suite(), Store.resume(store.folder, ""), machine.root)
    assert all(row.status is Status.OK for row in rows.values())


def test_where_nothing_is_left_nothing_is_mixed(machine: FromFiles, store: Store) -> None:
    rows = run(machine, suite(), store, machine.root)
    (machine.root / "net.py").write_text("edited")
    assert run(machine, suite(), Store.resume(store.folder, ""), machine.root) == rows


def test_a_file_edited_during_a_run_ends_its_model_where_a_fresh_worker_would_mix(
    machine: FromFiles, store: Store
) -> None:
    """The worker that has the model goes on with what it has imported; the one after a failure would have another."""
    machine.fates = {("m", "all"): "measuring"}
    machine.edits = {2: "net.py"}
    rows = run(machine, suite("m", "n"), store, machine.root)
    change = "its rows are of another net.py than is there now: begin a new run"
    assert rows["m", "sqrt"].status is Status.ERROR
    assert rows["m", "sqrt"].message == change
    assert rows["m", "all"].message == "measuring: went wrong"
    assert rows["m", "each"].sources == {name: content_of(machine.root / name) for name in ("net.py", "helper.py")} | {
        "net.py": rows["m", PLAIN].sources["net.py"]  # type: ignore[index]
    }
    assert all(rows["n", name].status is Status.OK for name in (PLAIN, *NAMES))
