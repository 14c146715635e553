from pathlib import Path

from tests.records.making import equality, memory
from tests.reporting.samples import case, stored, toy

from rematbench.reporting.answers import answers
from rematbench.reporting.gathering import models_of
from rematbench.traces.timeline import Share


def test_what_holds_the_peak_and_whether_training_stays_the_same(tmp_path: Path) -> None:
    peak, lowest, training, buffers, failed = answers(models_of([stored(tmp_path / "run", toy())])[0])
    assert peak == (
        "Under none the step peaks 100 MiB above its start, in backward; 50 % of that is kept since forward for "
        "backward, most in blocks.0 (50 MiB) and 50 % of that is transients, freed before their phase ends. On "
        "top come 3 MiB that are there before it: parameters, buffers, batch and optimizer state."
    )
    assert lowest == (
        "The lowest peak, 30 MiB in backward, has least; 50 % of that is kept since forward for backward, most in "
        "blocks.0 (15 MiB) and 50 % of that is transients, freed before their phase ends. rematbench why says what "
        "lowers it further."
    )
    assert training == "Training changes: gradients are different under cheat."
    assert buffers.startswith("Buffers end up different under bad, as")
    assert failed == "1 of 6 rows failed, first huge: allocating 9 GiB."


def test_blocks_that_hold_alike_are_counted(tmp_path: Path) -> None:
    shares = [Share(kind="kept", block=f"blocks.{at}", bytes=2**20) for at in range(3)]
    alike = case("none", 4, 1.0, memory=memory(4 * 2**20, at_peak=(*shares, Share(kind="kept", block="", bytes=5))))
    said = answers(models_of([stored(tmp_path / "run", [alike])])[0])[0]
    assert "most in 3 blocks alike (1 MiB in each of them)" in said


def test_training_that_stays_the_same_says_how_far(tmp_path: Path) -> None:
    same = [case("none", 4, 1.0), case("each", 2, 1.2)]
    assert (
        "equal bit for bit to none's under every placement."
        in answers(models_of([stored(tmp_path / "same", same)])[0])[2]
    )
    touched = [*same, case("twice", 2, 1.2, equality=equality(buffers="different"))]
    assert answers(models_of([stored(tmp_path / "touched", touched)])[0])[2].startswith("Gradients stay the same:")
    near = [*same, case("other", 2, 1.2, equality=equality("noise"))]
    assert (
        "under 1 of 2 placements, within noise or tolerance under the others."
        in answers(models_of([stored(tmp_path / "near", near)])[0])[2]
    )


def test_what_all_series_share_is_said_once(tmp_path: Path) -> None:
    first = stored(tmp_path / "first", [case("none", 4, 1.0), case("each", 2, 1.2)])
    other = stored(tmp_path / "other", [case("none", 8, 1.0), case("each", 2, 1.2)])
    said = answers(models_of([first, other])[0])
    assert [sentence.partition(" Under")[0] for sentence in said[:1]] == ["first · cpu, float32:"]
    assert len(said) == 4, "two peaks, one sentence on the lowest and one on training"


def test_a_csv_alone_says_nothing_of_the_peak(tmp_path: Path) -> None:
    said = answers(
        models_of([stored(tmp_path / "run", [case("none", 4, 1.0), case("each", 2, 1.2)]) / "results.csv"])[0]
    )
    assert said == ["Training stays the same: gradients are equal bit for bit to none's under every placement."]


def test_the_plain_step_alone_is_no_placement_that_could_change_training(tmp_path: Path) -> None:
    alone = models_of([stored(tmp_path / "run", [case("none", 4, 1.0, equality=equality("noise"))])])[0]
    assert not [sentence for sentence in answers(alone) if "raining" in sentence]
