"""What a user is told: one family of errors, and a sentence for a name that is not known."""

import importlib
import pkgutil
import signal
import sys

import pytest

import rematbench
from rematbench.cli import main
from rematbench.commands import listing
from rematbench.errors import RematbenchError, unknown

KNOWN = ("sqrt", "each", "all")
OTHER_CODES = {"CannotJudgeError": 3, "FigureError": 3}
"""What `rematbench check` says by its exit status besides; every other error is a usage error."""


def every_error() -> list[type[RematbenchError]]:
    """Return the family, wherever in the package its members are defined."""
    for module in pkgutil.walk_packages(rematbench.__path__, "rematbench."):
        if not module.name.endswith("__main__"):  # importing that runs the command
            importlib.import_module(module.name)

    def family(error: type[RematbenchError]) -> list[type[RematbenchError]]:
        return [error, *(further for own in error.__subclasses__() for further in family(own))]

    return [error for error in family(RematbenchError) if error.__module__.startswith("rematbench.")]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_every_error_ends_the_command_with_its_sentence_and_status(
    error: type[RematbenchError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raised = error.__new__(error)  # some take what their sentence is made of
        Exception.__init__(raised, "what, where, [what] to try")
        raise raised

    monkeypatch.setattr(listing, "reference_models", fails)
    monkeypatch.setattr(sys, "argv", ["rematbench", "models"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    signal.signal(signal.SIGTERM, before)
    assert ended.value.code == OTHER_CODES.get(error.__name__, 2)
    assert capsys.readouterr() == ("", "rematbench: what, where, [what] to try\n")


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
