"""The sentences at the end of a run: each one reached, silent about what is not known, in agreement with the rows."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records.making import equality, measurement, memory, rows, timing

from rematbench.records.measurement import Measurement
from rematbench.reporting.summary import sentences

NONE = measurement(memory=memory(200, held=100), timing=timing(1.0), equality=equality())
EACH = measurement("each", memory=memory(50, held=20), timing=timing(1.184))
RELUS = measurement("modules:body.[13]", memory=memory(300, held=200), timing=timing(1.1))


def said(*cases: Measurement) -> list[str]:
    return sentences(rows(*cases))


# Nothing is said where nothing is known


def test_of_no_rows_nothing_is_said() -> None:
    assert said() == []


def test_of_the_plain_step_alone_nothing_is_said() -> None:
    assert said(NONE) == []


def test_of_rows_without_numbers_nothing_is_said() -> None:
    assert said(NONE, measurement("each"), measurement("all", timing=timing(1.0))) == []


def test_without_a_plain_step_no_saving_is_said() -> None:
    assert said(EACH, RELUS) == []
    assert said(measurement("none", status="out_of_memory", message="m"), EACH)[:-1] == []


# What saves most


def test_the_greatest_saving_with_its_price() -> None:
    cases = [NONE, measurement("all", memory=memory(120), timing=timing(1.5)), EACH]
    assert said(*cases) == ["`each` saves 75 % of the peak of toy for 1.18× the step time."]


def test_a_saving_without_a_price() -> None:
    for unknown in (None, timing(1.2, paired=False)):
        case = EACH.model_copy(update={"timing": unknown})
        assert said(NONE, case) == ["`each` saves 75 % of the peak of toy."]


def test_of_two_that_save_alike_the_cheaper_is_named() -> None:
    dear, cheap = (measurement(name, memory=memory(50), timing=timing(cost)) for name, cost in [("a", 1.5), ("b", 1.2)])
    for cases in ((dear, cheap), (cheap, dear)):
        assert said(NONE, *cases) == ["`b` saves 75 % of the peak of toy for 1.20× the step time."]


def test_what_changes_training_is_not_praised() -> None:
    wrong = measurement("wrong", memory=memory(1), timing=timing(1.0), equality=equality("different"))
    assert said(NONE, EACH, wrong) == [
        "`each` saves 75 % of the peak of toy for 1.18× the step time.",
        "Training changes: gradients are different under toy `wrong`.",
    ]


def test_what_saves_nothing_is_not_praised() -> None:
    assert said(NONE, measurement("all", memory=memory(200, held=100), timing=timing(1.5))) == []


# What costs memory


def test_the_placement_that_holds_more_than_the_plain_step() -> None:
    little = measurement("all", memory=memory(250, held=120))
    assert said(NONE, little, RELUS) == [
        "`modules:body.[13]` on toy costs memory: after forward it holds 2.00× what `none` does."
    ]


def test_a_hundredth_more_is_not_worth_a_sentence() -> None:
    assert said(NONE, measurement("all", memory=memory(250, held=101))) == []


def test_nothing_is_held_against_a_plain_step_that_holds_nothing() -> None:
    assert said(measurement(memory=memory(200, held=0)), RELUS) == []


# Whether training stays the same


def test_gradients_that_are_all_the_same() -> None:
    cases = [
        measurement(f"p{place}", equality=equality(found)) for place, found in enumerate(["bitwise", "noise", "close"])
    ]
    assert said(NONE, *cases) == [
        "Training stays the same: gradients are equal bit for bit to none's under 1 of 3 placements, within noise or "
        "tolerance under the others."
    ]
    assert said(NONE, cases[0]) == [
        "Training stays the same: gradients are equal bit for bit to none's under every placement."
    ]


def test_gradients_that_are_different() -> None:
    wrong = [measurement(f"p{place}", equality=equality("different")) for place in range(6)]
    four = "toy `p0`, toy `p1`, toy `p2`, toy `p3`"
    assert said(NONE, *wrong[:1]) == ["Training changes: gradients are different under toy `p0`."]
    assert said(NONE, *wrong[:4]) == [f"Training changes: gradients are different under {four}."]
    assert said(NONE, *wrong) == [f"Training changes: gradients are different under {four} and 2 more."]


def test_buffers_that_are_different() -> None:
    touched = measurement("each", equality=equality(buffers="different", buffer="bn.running_mean"))
    assert said(NONE, touched, measurement("all", equality=equality())) == [
        "Gradients stay the same: gradients are equal bit for bit to none's under every placement.",
        "Buffers end up different under toy `each`, as running statistics do where batch norm is recomputed; "
        "+batch_norm=once cures that.",
    ]


# What failed


def test_failures_are_counted_and_the_first_is_told() -> None:
    lost = [measurement(f"p{place}", status="killed", message=f"reason {place}") for place in range(2)]
    assert said(NONE, *lost) == ["2 of 3 rows failed, first toy `p0`: reason 0."]


def test_a_failed_row_saves_nothing_and_costs_nothing() -> None:
    lost = [case.model_copy(update={"status": "error", "message": "m"}) for case in (EACH, RELUS)]
    assert said(NONE, *lost) == ["2 of 3 rows failed, first toy `each`: m."]


# Agreement with the rows


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200), st.integers(1, 5)), min_size=1, max_size=6))
def test_the_numbers_are_those_of_the_rows(costs: list[tuple[int, int, int]]) -> None:
    cases = [
        measurement(f"p{place}", memory=memory(peak, held), timing=timing(float(ratio)))
        for place, (peak, held, ratio) in enumerate(costs)
    ]
    text = " ".join(said(NONE, *cases))
    least, greatest = min(peak for peak, _, _ in costs), max(held for _, held, _ in costs)
    praised = re.search(r"`p(\d+)` saves (\S+) % of the peak of toy for (\S+)× the step time\.", text)
    assert (praised is None) == (least >= 198)  # a percent is worth a sentence
    if praised:
        peak, _, ratio = costs[int(praised[1])]
        assert (peak, ratio) == min((peak, ratio) for peak, _, ratio in costs)
        assert abs(float(praised[2]) - 100 * (1 - peak / 200)) <= 0.5
        assert float(praised[3]) == ratio
    blamed = re.search(r"`p(\d+)` on toy costs memory: after forward it holds (\S+)× what `none` does\.", text)
    assert (blamed is None) == (greatest <= 101)
    if blamed:
        assert costs[int(blamed[1])][1] == greatest
        assert abs(float(blamed[2]) - greatest / 100) <= 0.005001
