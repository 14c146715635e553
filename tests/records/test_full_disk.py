"""A disk that fills up in the middle of a run: one sentence, every row whole, nothing half-written left behind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rematbench.records.store import RECORDS, Store, csv_text, read_measurements

CHECKOUT = Path(__file__).parents[2]

ADD_UNTIL_FULL = """
import json, resource, sys
from pathlib import Path
from rematbench.errors import StorageError
from rematbench.records.store import Store
from tests.records.making import measurement

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store, added = Store.begin(folder, ""), 0
try:
    while True:
        store.add(measurement(f"p{added}", message="x" * 700))
        added += 1
except StorageError as error:
    print(json.dumps({"added": added, "said": str(error)}))
"""
"""Adds rows until one cannot be written, under a limit in bytes on every file's size if it is not 0."""


def add_until_full(folder: Path, limit: int = 0) -> tuple[int, str]:
    command = [sys.executable, "-c", ADD_UNTIL_FULL, str(folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["added"], answer["said"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB, where that is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk takes rights that are not there")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def check_whole(folder: Path, added: int) -> None:
    """Check that the rows added are there, and at most the one whose CSV did not fit besides."""
    assert added > 3
    kept = read_measurements(folder)
    assert [row.placement for row in kept] == [f"p{index}" for index in range(len(kept))]
    assert len(kept) in (added, added + 1)
    assert (folder / RECORDS).read_bytes().endswith(b"\n")
    assert (folder / "results.csv").read_text() == csv_text(kept[:added])
    assert sorted(file.name for file in folder.iterdir()) == [RECORDS, "results.csv", "suite.toml"]


@pytest.mark.parametrize("limit", [10_000, 10_001, 10_500])
def test_a_file_that_may_not_grow(tmp_path: Path, limit: int) -> None:
    folder = tmp_path / "run"
    added, said = add_until_full(folder, limit)
    assert said.endswith(": File too large; is the disk full or the folder not writable?")
    assert "\n" not in said
    check_whole(folder, added)
    again = Store.resume(folder, "").measurements
    assert again == read_measurements(folder)
    assert (folder / "results.csv").read_text() == csv_text(again)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    folder = small_disk / "run"
    added, said = add_until_full(folder)
    assert said.endswith(": No space left on device; is the disk full or the folder not writable?")
    check_whole(folder, added)
