from pathlib import Path

import pytest
from tests.reporting.samples import case, stored, toy

from rematbench.records.measurement import Measurement
from rematbench.reporting.gathering import models_of
from rematbench.reporting.terminal import plot


def drawn(folder: Path, cases: list[Measurement]) -> list[str]:
    return plot(models_of([stored(folder / "run", cases)])[0].series[0]).splitlines()


def test_points_are_where_their_numbers_are(tmp_path: Path) -> None:
    """The greatest peak is on top, the dearest at the right; dominated ones are in brackets."""
    text = drawn(tmp_path, toy())
    grid = {
        letter: (line, text[line].index(letter)) for letter in "abcde" for line in range(1, 15) if letter in text[line]
    }
    assert text[1].startswith("110 MiB │")
    assert grid["d"][0] == 1
    assert grid["e"][0] == 14
    assert grid["c"][1] == max(column for _, column in grid.values())
    assert grid["a"][1] == min(column for _, column in grid.values())
    assert text[16].split() == ["10", "ms", "step", "time", "15", "ms"]
    assert " ".join(text[17:]).split("  ")[:2] == ["a none", "b (half)"]


def test_without_times_it_is_against_what_is_recomputed(tmp_path: Path) -> None:
    text = "\n".join(drawn(tmp_path, [case("none", 4, None), case("each", 2, None, "blocks[0]")]))
    assert "recomputed" in text
    assert "100 MFLOP" in text


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_draw(tmp_path: Path, count: int) -> None:
    cases = [*toy()[:count], toy()[-1]]
    assert drawn(tmp_path, cases) == ["there are no two placements with a peak and a cost: nothing to draw"]
