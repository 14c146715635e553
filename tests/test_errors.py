"""What a user is told: one family of errors, and a sentence for a name that is not known."""

import pytest

import rematbench.errors
from rematbench.errors import RematbenchError, unknown

KNOWN = ("sqrt", "each", "all")
ERRORS = [
    error
    for error in vars(rematbench.errors).values()
    if isinstance(error, type) and issubclass(error, RematbenchError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_ends_the_command_with_two(error: type[RematbenchError]) -> None:
    assert error.exit_code == 2
    assert str(error("what, where, what to try")) == "what, where, what to try"


def test_unknown_offers_the_closest_and_lists_all_in_order() -> None:
    assert unknown("placement", "eahc", KNOWN) == (
        "unknown placement 'eahc': did you mean 'each'? known are all, each, sqrt"
    )


def test_unknown_offers_nothing_where_nothing_is_close() -> None:
    assert unknown("placement", "xyzzy", KNOWN) == "unknown placement 'xyzzy': known are all, each, sqrt"


def test_unknown_among_none() -> None:
    assert unknown("chain", "blocks", ()) == "unknown chain 'blocks': known are none"


def test_unknown_takes_what_can_be_read_only_once() -> None:
    assert "did you mean 'all'?" in unknown("placement", "al", iter(KNOWN))


def test_unknown_among_a_thousand_lists_some_and_counts_the_rest() -> None:
    sentence = unknown("module", "x", (f"block{number:04}" for number in range(1000)))
    assert sentence.endswith("block0039 and 960 more")
