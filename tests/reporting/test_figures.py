import json
from itertools import accumulate
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.reporting.samples import EVIL, case, stored, toy

from rematbench.records.store import read_measurements
from rematbench.reporting.figures import figures
from rematbench.reporting.gathering import models_of
from rematbench.reporting.listing import HEADINGS, lines
from rematbench.reporting.page import as_script, page


def test_every_timeline_peaks_at_its_row(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", toy())
    rows = figures(models_of([folder]))["rows"]
    peaks = [record.memory.peak_bytes if record.memory else None for record in read_measurements(folder)]
    assert [row["peak_bytes"] for row in rows] == peaks
    assert [max(accumulate(row["timeline"]["bytes"])) for row in rows[:-1]] == peaks[:-1]
    assert list(accumulate(rows[1]["timeline"]["us"])) == [0, 1000, 2000, 3000, 4000]


def test_the_table_has_the_rows_of_the_figures_in_their_order(tmp_path: Path) -> None:
    models = models_of([stored(tmp_path / "run", toy())])
    listed = list(lines(models))
    assert [line.cells["placement"].text for line in listed] == [row["name"] for row in figures(models)["rows"]]
    assert [line.cells["placement"].text for line in listed if line.dominated] == ["half", "least", "bad"]
    assert [line.cells["placement"].text for line in listed if line.failed] == ["huge"]
    assert all(list(line.cells) == [heading.name for heading in HEADINGS] for line in listed)
    assert listed[3].cells["buffers"].text == "✗ different"
    assert listed[3].cells["buffers"].bad


@given(st.text())
def test_data_survives_being_inside_a_script(text: str) -> None:
    written = as_script({"name": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"name": text}


def test_the_page_is_self_contained_and_escapes_names(tmp_path: Path) -> None:
    cases = [case("none", 4, 1.0, model=EVIL), case("</script><b>", 2, 1.0, model=EVIL, message=EVIL)]
    text = page(models_of([stored(tmp_path / "run", cases)]))
    assert EVIL not in text
    assert text.count("</script>") == 3
    assert "<script src" not in text
    assert '<link rel="stylesheet' not in text
    assert "default-src 'none'" in text
