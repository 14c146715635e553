"""A run's CSV is read back as it was written, or refused with its sentence."""

from pathlib import Path

import pytest
from tests.records.making import measurement, memory, rows

from rematbench.errors import StorageError
from rematbench.records.baseline import baseline_csv
from rematbench.records.columns import cell_text
from rematbench.records.run import CannotJudgeError, Run

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
    "a word for a number": (TEXT.replace(",100,", ",much,", 1), StorageError, "peak_bytes is 'much'"),
    "a row twice": (TEXT.replace(",each,", ",none,", 1), StorageError, "two rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    text, error, says = REFUSED[name]
    (tmp_path / "run.csv").write_bytes(text.encode())
    with pytest.raises(error, match=says):
        Run(tmp_path / "run.csv")
