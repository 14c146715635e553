"""A pytest plugin: the memory of checkpointed models, held inside a user's own tests.

    @pytest.mark.checkpoint_memory(limit="1.2 GiB")
    def test_memory(remat):
        case = remat("net.py:build", placement="each")
        assert case.gradients == "bitwise"
        remat.check(case)

Every pytest in an environment that rematbench is installed in loads this file, by its entry point. So it imports pytest
and the standard library alone; what measures (`fixture`) is imported when a test first asks for it. The plugin is
switched off by `-p no:rematbench.pytest_plugin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from rematbench.pytest_plugin.fixture import Remat
    from rematbench.running.single import MeasuredCase

MARKER = "checkpoint_memory"

CASES: pytest.StashKey[list[MeasuredCase]] = pytest.StashKey()
"""What a test has measured."""

NOTES: pytest.StashKey[list[str]] = pytest.StashKey()
"""Lines for the end of the session."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--remat-update` and the ini option `remat_baseline`."""
    group = parser.getgroup("remat", "memory of activation checkpointing (rematbench)")
    group.addoption("--remat-update", action="store_true", help="write what remat.check checks to the baseline")
    parser.addini("remat_baseline", "the baseline's CSV, from the rootdir", default="remat-baseline.csv")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{MARKER}(limit): the most that any case measured in the test may peak at")


@pytest.fixture
def remat(request: pytest.FixtureRequest) -> Remat:
    """Measure a model under a placement: `case = remat("net.py:build", placement="each")`."""
    from rematbench.pytest_plugin.fixture import Remat

    return Remat(request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that passed but measured a case above its limit, or none at all."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        yield
        return
    from rematbench.pytest_plugin.fixture import limit_of, over_limit

    limit_bytes = limit_of(marker)
    yield
    cases = item.stash.get(CASES, [])
    if not cases:
        fail(f"{MARKER} limits what remat(...) measures, and this test measured nothing")
    if over := [over_limit(case, limit_bytes) for case in cases if case.memory.peak_bytes > limit_bytes]:
        fail("\n".join(over))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which rows of the baseline were written, and which are better than it."""
    if notes := config.stash.get(NOTES, []):
        terminalreporter.section("remat")
        from rematbench.reporting.texts import visible

        for note in notes:
            terminalreporter.line(visible(note))


def fail(text: str) -> NoReturn:
    """Fail the test with a text alone: its traceback would say no more."""
    __tracebackhide__ = True
    from rematbench.reporting.texts import visible

    pytest.fail(visible(text), pytrace=False)
