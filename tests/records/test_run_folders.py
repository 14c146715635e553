"""Runs beside each other: a folder for each, one writer to a folder, and files that are whole at every moment."""

import errno
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rematbench.errors import StorageError
from rematbench.records.store import latest, new_folder, point_latest, sole_writer, write_whole

NOON = datetime(2030, 1, 31, 12, 0, 0, tzinfo=UTC)


def test_a_new_folder_is_named_by_suite_and_second(tmp_path: Path) -> None:
    made = [new_folder(tmp_path / "results", "mine", NOON).name for _ in range(3)]
    assert made == ["mine-20300131-120000", "mine-20300131-120000-2", "mine-20300131-120000-3"]
    assert new_folder(tmp_path, "a/../b c", NOON).parent == tmp_path


def test_threads_never_get_the_same_folder(tmp_path: Path) -> None:
    count = 48
    ready = threading.Barrier(8)

    def make(index: int) -> Path:
        if index < 8:
            ready.wait()
        return new_folder(tmp_path, "mine", NOON)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(count)))
    assert len(set(made)) == len(list(tmp_path.iterdir())) == count


def test_a_hundred_folders_in_a_second_are_enough(tmp_path: Path) -> None:
    for _ in range(99):
        new_folder(tmp_path, "mine", NOON)
    with pytest.raises(StorageError, match="a hundred runs of mine began in the same second"):
        new_folder(tmp_path, "mine", NOON)


MANY_RUNS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any
from rematbench.records.store import Store, new_folder, point_latest
sys.stdin.readline()
for _ in range(8):
    folder = new_folder(Path(sys.argv[1]), "mine", datetime(2030, 1, 31, tzinfo=UTC))
    Store.begin(folder, "")
    point_latest(folder)
    print(folder)
"""


def test_processes_never_get_the_same_folder_and_latest_is_one_of_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY_RUNS, str(tmp_path)]
    runs = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for _ in range(3)
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    made = [line for run in runs for line in run.communicate()[0].splitlines()]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(set(made)) == 24
    assert str(latest(tmp_path)) in made
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*(Path(path).name for path in made), "latest"])


def test_latest_is_there_at_every_moment(tmp_path: Path) -> None:
    """Looked at between any two lines that run, not by chance from another thread."""
    first, second = (new_folder(tmp_path, "mine", NOON) for _ in range(2))
    point_latest(first)
    seen: list[Path] = []

    def look(_frame: FrameType, _event: str, _argument: object) -> Any:
        seen.append((tmp_path / "latest").readlink())
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        point_latest(second)
    finally:
        sys.settrace(before)
    assert set(seen) == {Path(first.name), Path(second.name)}
    assert latest(tmp_path) == second


def test_latest_moves_with_the_results_folder(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "results", "mine", NOON)
    point_latest(folder)
    (tmp_path / "results").rename(tmp_path / "moved")
    assert latest(tmp_path / "moved").is_dir()
    assert (tmp_path / "moved" / "latest").readlink() == Path(folder.name)


def test_a_folder_of_the_users_called_latest_is_let_be(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    point_latest(new_folder(tmp_path, "mine", NOON))
    assert (tmp_path / "latest").is_dir()
    assert not (tmp_path / "latest").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path),
        pytest.raises(StorageError, match="another run is writing to it"),
        sole_writer(tmp_path),
    ):
        pass
    with sole_writer(tmp_path):
        pass


def test_there_must_be_a_folder_to_write_alone_in(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="there holds no run: No such file or directory"),
        sole_writer(tmp_path / "there"),
    ):
        pass


# Whole files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.csv"
    write_whole(file, "before × \n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_whole(file, "after")
    assert file.read_text() == "before × \n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.csv"]


def test_half_of_a_surrogate_pair_is_written_out(tmp_path: Path) -> None:
    """A folder's name may have one, and stands in what is written of its run."""
    write_whole(tmp_path / "file", "a \udc80")
    assert (tmp_path / "file").read_text() == "a \\udc80"


def test_line_ends_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "a\nb\r\n")
    assert (tmp_path / "file").read_bytes() == b"a\nb\r\n"
