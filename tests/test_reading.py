"""Files and texts of anyone's: whatever is wrong with one is an `OSError` or a `ValueError`, and nothing waits."""

import os
import threading
from pathlib import Path

import pytest

from rematbench import reading
from rematbench.errors import StorageError
from rematbench.reading import LEVELS, parse_json, parse_toml, read_bytes, read_text
from rematbench.records.store import check_writable, write_whole


@pytest.mark.parametrize("levels", [LEVELS, LEVELS + 1, 1_000, 100_000])
def test_nesting_has_an_end(levels: int) -> None:
    """Of lists, tables and dotted keys alike, far before recursion has."""
    texts = [
        (parse_json, "[" * levels + "]" * levels),
        (parse_json, '{"a":' * levels + "0" + "}" * levels),
        (parse_toml, "a = " + "[" * (levels - 1) + "]" * (levels - 1)),
        (parse_toml, "a." * (levels - 1) + "a = 0"),
        (parse_toml, "[" + "a." * (levels - 2) + "a]"),
    ]
    for parse, text in texts:
        if levels <= LEVELS:
            assert parse(text)
        else:
            with pytest.raises(ValueError, match="nests deeper than"):
                parse(text)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[NaN]", "[-Infinity]", '["\\ud800"]', '{"\\udfff": 0}', "9" * 5_000]
)
def test_json_is_what_the_standard_has(text: str) -> None:
    with pytest.raises(ValueError, match=r"twice|is no number|surrogate|digits"):
        parse_json(text)


def test_a_mark_before_a_text_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_text(tmp_path / "file") == "a = 1"


@pytest.mark.parametrize("path", ["/", ".", "/dev/null", "/dev/zero", "gone", "a\0b", "x" * 300])
def test_what_is_no_file_is_an_error_of_the_system(path: str) -> None:
    with pytest.raises(OSError, match=r"."):
        read_bytes(Path(path))


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WRITER_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody writes to"):
        read_bytes(tmp_path / "pipe")


def test_a_pipe_is_read_to_its_end_however_late_its_writer_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = bytes(range(256)) * 1_000
    writer = threading.Timer(0.1, (tmp_path / "pipe").write_bytes, [content])
    writer.start()
    assert read_bytes(tmp_path / "pipe") == content
    writer.join()


def test_a_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    """Nor is a device: as root that would make a file of `/dev/null`, for everyone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_bytes(pipe)))
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that there is a reader, whichever thread is first
    reader.start()
    write_whole(pipe, "whole")
    reader.join()
    content = found[0] or os.read(descriptor, 99)
    os.close(descriptor)
    assert (content, pipe.is_fifo()) == (b"whole", True)


@pytest.mark.parametrize("path", ["", ".", "/", "..", "folder", "file/below", "gone/file", "x" * 300, "/proc/x"])
def test_where_nothing_can_be_written_is_found_out_before_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("before")
    for write in (check_writable, lambda path: write_whole(path, "after")):
        with pytest.raises(StorageError):
            write(Path(path))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    assert (tmp_path / "file").read_text() == "before"
