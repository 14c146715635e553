"""What is said of a prediction."""

import pytest

from rematbench.predicting.prediction import sentence_of
from rematbench.records.measurement import PredictionFacts

MIB = 2**20


@pytest.mark.parametrize(
    ("low", "high", "checked", "broken", "sentence"),
    [
        (8, 8, 4, (), "predicted from 3 small steps; one more, at batch=4, came out to the byte"),
        (8, 8, None, (), "predicted from 3 small steps, none of which checks it"),
        (
            7,
            9,
            4,
            (),
            "between 7 MiB and 9 MiB, from 3 small steps: one more, at batch=4, came out to the byte, but kernels that "
            "choose by size were not asked at this one",
        ),
        (
            7,
            9,
            4,
            ("blocks.0", ""),
            "between 7 MiB and 9 MiB, from 3 small steps: one more, at batch=4, came out otherwise (most in blocks.0, "
            "the model itself)",
        ),
    ],
)
def test_a_prediction_says_from_what_it_is_and_how_far_it_is_to_be_believed(
    low: int, high: int, checked: int | None, broken: tuple[str, ...], sentence: str
) -> None:
    facts = PredictionFacts(
        at={"batch": 64},
        runs=3,
        largest={"batch": 4},
        checked_at=None if checked is None else {"batch": checked},
        low_bytes=low * MIB,
        high_bytes=high * MIB,
        broken=broken,
    )
    assert sentence_of(facts) == sentence
