"""Sizes as people type them."""

import pytest

from rematbench.errors import SuiteError
from rematbench.suite.sizes import parse_sizes
from rematbench.suite.suite import predicted_suite


def test_sizes_are_read_in_order() -> None:
    assert parse_sizes(["batch=64", "length=4096"]) == {"batch": 64, "length": 4096}


@pytest.mark.parametrize(
    "pair", ["batch", "batch=", "=4", "batch=0", "batch=-3", "batch=1.5", "batch=true", "batch=many"]
)
def test_what_is_no_size_is_refused(pair: str) -> None:
    with pytest.raises(SuiteError, match="a size is an argument of the model's factory"):
        parse_sizes([pair])


def test_a_size_stands_once() -> None:
    with pytest.raises(SuiteError, match="batch stands twice"):
        parse_sizes(["batch=2", "batch=3"])


@pytest.mark.parametrize(
    ("model", "name"),
    [("net.py:build", "net.py:build?batch=64"), ("net.py:build?depth=4", "net.py:build?depth=4&batch=64")],
)
def test_rows_have_the_name_of_a_run_at_that_size(model: str, name: str) -> None:
    assert predicted_suite(model, {"batch": 64}).models[0].name == name
