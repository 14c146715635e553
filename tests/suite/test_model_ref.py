"""Model references: what stands behind the question mark becomes values, and odd text stays text."""

import datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from rematbench.errors import ModelError
from rematbench.loading import parse_value
from rematbench.suite.model_ref import ModelRef

ROOT = Path("/root-of-the-user")

scalars = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["C"]))
values = scalars | st.lists(scalars, max_size=3)


def arguments_of(text: str) -> dict[str, Any]:
    return ModelRef.parse(text, ROOT).arguments


@pytest.mark.parametrize(
    ("text", "reference", "arguments"),
    [
        ("plain.mlp", "plain.mlp", {}),
        ("plain.mlp?", "plain.mlp", {}),
        ("plain.mlp?depth=24&width=512", "plain.mlp", {"depth": 24, "width": 512}),
        ("net.py:build?depth=24", "net.py:build", {"depth": 24}),
        ("package.net:build?&depth=24&&", "package.net:build", {"depth": 24}),
        ("a/b c.py:build?lr=1e-3", "a/b c.py:build", {"lr": 0.001}),
    ],
)
def test_a_reference_and_its_arguments(text: str, reference: str, arguments: dict[str, Any]) -> None:
    ref = ModelRef.parse(text, ROOT)
    assert (ref.name, ref.reference, ref.arguments, ref.root) == (text, reference, arguments, ROOT)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24", 24),
        ("1_000", 1000),
        ("0x10", 16),
        ("-1.5", -1.5),
        ("true", True),
        ("True", "True"),
        ("None", "None"),
        ("", ""),
        ("relu", "relu"),
        ('"24"', "24"),
        ("[1, 2]", [1, 2]),
        ("{a = 1}", {"a": 1}),
        ("1, 2", "1, 2"),
        ("a=b", "a=b"),
        ("/data/x=1?", "/data/x=1?"),
        ("2024-01-31", datetime.date(2024, 1, 31)),
        ("1.2.3", "1.2.3"),
        ("9" * 5000, "9" * 5000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_are_toml_and_the_rest_is_text(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@settings(deadline=None)
@given(values)
def test_every_toml_value_is_read(value: object) -> None:
    """tomli_w writes, tomllib reads: two implementations agree on what stands between."""
    assert parse_value(tomli_w.dumps({"key": value}).removeprefix("key = ").removesuffix("\n")) == value


@settings(deadline=None)
@given(st.text())
def test_any_text_at_all_is_some_value(text: str) -> None:
    """Text is changed only by taking quotes off."""
    found = parse_value(text)
    assert found == text or not isinstance(found, str) or text.strip()[0] in "'\""


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.integers() | st.booleans(), max_size=4))
def test_arguments_come_back_as_they_were_written(arguments: dict[str, Any]) -> None:
    query = "&".join(f"{name}={str(value).lower()}" for name, value in arguments.items())
    assert arguments_of(f"net.py:build?{query}") == arguments


@pytest.mark.parametrize("query", ["depth", "=3", "depth=3&width", "?depth", "&depth&"])
def test_an_argument_without_name_or_value_is_refused(query: str) -> None:
    with pytest.raises(ModelError, match=r"model 'm\?.*': write arguments as \?depth=24&width=512"):
        ModelRef.parse(f"m?{query}", ROOT)


def test_the_text_beats_what_is_given_beside_it() -> None:
    assert ModelRef.parse("m?depth=3", ROOT, "deep", depth=1, width=2).arguments == {"depth": 3, "width": 2}


def test_a_name_given_is_kept_and_an_empty_one_is_the_text() -> None:
    assert ModelRef.parse("m?depth=3", ROOT, "deep").name == "deep"
    assert ModelRef.parse("m?depth=3", ROOT, "").name == "m?depth=3"


@pytest.mark.parametrize("name", ["name", "text", "root", "cls", "self", "reference", "arguments"])
def test_a_factory_may_call_its_argument_anything(name: str) -> None:
    assert ModelRef.parse("m", ROOT, "deep", **{name: "resnet18"}).arguments == {name: "resnet18"}
    assert arguments_of(f"m?{name}=resnet18") == {name: "resnet18"}
