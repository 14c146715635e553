"""What models and files of others say reaches no terminal, spreadsheet or file as anything but text."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tests.records.making import measurement
from tests.reporting.samples import case, stored, toy

from rematbench.commands.console import err, out
from rematbench.records.run import rows_of
from rematbench.records.store import write_whole
from rematbench.reporting.table import model_tables, plain_table, rich_table

COMMAND = str(Path(sys.executable).parent / "rematbench")
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\u202e"
RAW = ("\x1b", "\x07", "\x9b", "\x7f", "\u202e")

VERBS: dict[str, tuple[str, ...]] = {
    "show": ("show", "run"),
    "compare": ("compare", "run"),
    "compare two": ("compare", "run", "other"),
    "by": ("compare", "run", "--by", "device"),
    "check": ("check", "run", "--against", "other"),
    "update": ("baseline", "update", "other", "base.csv"),
    "an error": ("report", "run", "--png", "x.png", "--model", "gone"),
    "a traceback": ("report", "run", "--png", "x.png", "--model", "gone", "--debug"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs whose every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    names = {"model": f"m{EVIL}", "message": f"{EVIL}\nall as in the baseline", "suite": EVIL}
    stored(folder / "run", [*toy(model=f"m{EVIL}"), case(f"p{EVIL}", 8, 1.2, **names), *toy(model="other")])
    stored(folder / "other", [case(f"p{EVIL}", 7, 1.2, **names), case("none", 7, 1.0, **names)])
    (folder / "base.csv").write_bytes((folder / "other" / "results.csv").read_bytes())
    return folder


@pytest.mark.parametrize("name", VERBS)
def test_no_verb_prints_what_steers_a_terminal(name: str, folder: Path) -> None:
    done = subprocess.run([COMMAND, *VERBS[name]], cwd=folder, capture_output=True, check=False)
    printed = (done.stdout + done.stderr).decode()
    assert printed
    assert done.returncode in (0, 1, 2, 3)
    assert not [mark for mark in RAW if mark in printed]
    assert "\r" not in printed
    assert "\nall as in the baseline" not in printed
    assert r"\x1b]0;owned" in printed


def test_nor_does_a_terminal_get_it_with_our_colours(folder: Path) -> None:
    """On a terminal our own styles are there, and nothing else begins a sequence."""
    main, other = pty.openpty()
    ended = subprocess.Popen([COMMAND, *VERBS["an error"]], cwd=folder, stdout=other, stderr=other)
    assert ended.wait() == 2
    os.close(other)
    printed = os.read(main, 65536).decode()
    os.close(main)
    assert r"\x1b]0;owned" in printed
    assert "\x1b]" not in printed
    assert "\x07" not in printed


def test_tables_of_a_run_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of([case(f"p{EVIL}", 8, 1.2, model=EVIL, message=f"{EVIL}\n[1/2] mine"), measurement("none")])
    for table in model_tables(rows):
        out.print(rich_table(table))
        out.print(plain_table(table), markup=False)
        for note in table.notes:
            err.print(f"  {note}", markup=False)
    printed = "".join(capsys.readouterr())
    assert r"p\x1b]0;owned" in printed
    assert not [mark for mark in RAW if mark in printed]
    assert "\n[1/2] mine" not in printed


# Files


def test_a_link_laid_where_a_temporary_file_would_be_is_not_written_through(tmp_path: Path) -> None:
    """Nor is any name taken that could be known before."""
    (tmp_path / "victim").write_text("mine")
    for name in (f".out.csv.{os.getpid()}", ".out.csv", ".out.csv.tmp"):
        (tmp_path / name).symlink_to("victim")
    before = {path.name for path in tmp_path.iterdir()}
    write_whole(tmp_path / "out.csv", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} - before == {"out.csv"}
    assert not (tmp_path / "out.csv").is_symlink()


def test_a_link_in_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out.csv").symlink_to("victim")
    write_whole(tmp_path / "out.csv", "new")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "out.csv").read_text()) == ("mine", "new")


def test_a_file_keeps_its_mode_and_a_new_one_has_the_usual(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_whole(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "secret").write_text("")
    (tmp_path / "secret").chmod(0o600)
    write_whole(tmp_path / "secret", "x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", [".", "/", "..", "folder"])
def test_a_folder_is_no_file_to_write(name: str, folder: Path) -> None:
    (folder / "folder").mkdir(exist_ok=True)
    done = subprocess.run(
        [COMMAND, "compare", "run", "--csv", name], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
