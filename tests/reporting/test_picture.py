from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.records.making import timing
from tests.reporting.samples import case, stored, toy

from rematbench.errors import StorageError
from rematbench.records.run import CannotJudgeError
from rematbench.reporting.gathering import Model, models_of
from rematbench.reporting.picture import trade, write_picture


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return models_of([stored(tmp_path / "run", toy())])[0]


def test_the_frontier_and_every_point_are_drawn(model: Model) -> None:
    axes = trade(model).axes[0]
    drawn = [np.asarray(artist.get_xydata()).tolist() for artist in axes.lines]
    line, *points = [places for places in drawn if places]
    assert line == [pytest.approx([10.1, 20]), pytest.approx([10, 100])]
    singles = [at[0] for at in points if len(at) == 1]
    assert [12.0, 58.0] in [pytest.approx(at) for at in singles]
    assert {text.get_text() for text in axes.texts} == {"none", "cheat"}


def test_the_axes_are_in_the_units_of_their_greatest_values(model: Model, tmp_path: Path) -> None:
    axes = trade(model).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step time (ms)", "peak above the step's start (MiB)")
    slow = [
        case("none", 1023, 1.0, timing=timing(1.0, step_s=2.0)),
        case("each", 2, 1.2, timing=timing(1.2, step_s=2.0)),
    ]
    axes = trade(models_of([stored(tmp_path / "slow", slow)])[0]).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step time (s)", "peak above the step's start (MiB)")
    line = next(np.asarray(artist.get_xydata()) for artist in axes.lines)
    assert line.tolist() == [pytest.approx([2.4, 2]), pytest.approx([2.0, 1023])]


def test_png_and_svg_are_whole_files(model: Model, tmp_path: Path) -> None:
    write_picture(model, tmp_path / "trade.png")
    write_picture(model, tmp_path / "trade.svg")
    assert (tmp_path / "trade.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "trade.svg").getroot().tag.endswith("svg")
    assert {file.name for file in tmp_path.iterdir()} == {"run", "trade.png", "trade.svg"}


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    cases = [case("none", 4, 1.0), case("$\\frac$", 2, 1.2)]
    write_picture(models_of([stored(tmp_path / "run", cases)])[0], tmp_path / "trade.png")


def test_what_cannot_be_drawn_or_written_is_one_sentence(model: Model, tmp_path: Path) -> None:
    untimed = models_of([stored(tmp_path / "untimed", [case("none", 4, None)])])[0]
    with pytest.raises(CannotJudgeError, match="nothing to draw"):
        trade(untimed)
    with pytest.raises(StorageError, match=r"gone/trade\.png: No such file"):
        write_picture(model, tmp_path / "gone" / "trade.png")
