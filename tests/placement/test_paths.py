"""Paths and patterns against Python's own slicing and a matcher that goes by regular expressions."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rematbench.errors import PlacementError
from rematbench.placement.paths import Index, Part, matches, parse_path

NUMBERS = st.none() | st.integers(-12, 12)
INDICES = st.builds(Index, start=st.integers(-12, 12), single=st.just(True))
SLICES = st.builds(Index, start=NUMBERS, stop=NUMBERS, step=st.none() | st.integers(1, 5))
NAMES = st.text(st.characters(exclude_characters=".[]"), min_size=1, max_size=4)


def printed(parts: tuple[Part, ...]) -> str:
    texts = [part if isinstance(part, str) else bracketed(part) for part in parts]
    return "".join(f".{text}" if at and text[0] != "[" else text for at, text in enumerate(texts))


def bracketed(index: Index) -> str:
    if index.single:
        return f"[{index.start}]"
    start, stop = ("" if bound is None else bound for bound in (index.start, index.stop))
    return f"[{start}:{stop}]" if index.step is None else f"[{start}:{stop}:{index.step}]"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("", ()),
        ("blocks", ("blocks",)),
        ("blocks[3]", ("blocks", Index(start=3, single=True))),
        ("blocks[-1]", ("blocks", Index(start=-1, single=True))),
        ("blocks.3", ("blocks", "3")),
        ("blocks[0:4]", ("blocks", Index(start=0, stop=4))),
        ("blocks[:]", ("blocks", Index(start=None))),
        ("transformer.h[::2]", ("transformer", "h", Index(start=None, step=2))),
        ("encoder.layers[2].mlp", ("encoder", "layers", Index(start=2, single=True), "mlp")),
        ("[0:2].mlp", (Index(start=0, stop=2), "mlp")),
        ("grid[1][-3:]", ("grid", Index(start=1, single=True), Index(start=-3))),
        ("a-b c.µ", ("a-b c", "µ")),
    ],
)
def test_a_path_is_names_and_indices(path: str, parts: tuple[Part, ...]) -> None:
    assert parse_path(path) == parts


@pytest.mark.parametrize(
    "path",
    """. .a a. a..b a.[0] a[0]b a[0].[1] a[ a[] a] a]b [0 a[x] a[+1] a[1.0] a[-] a[-:] a[:-] a[::] a[::0] a[::-1]
    a[1:2:3:4] a[[0]]""".split(),
)
def test_what_is_no_path_is_quoted_beside_what_is(path: str) -> None:
    with pytest.raises(PlacementError, match=re.escape(f"{path!r} cannot be read: write blocks[3]")):
        parse_path(path)


@given(st.lists(NAMES | INDICES | SLICES, max_size=5).map(tuple))
def test_a_printed_path_reads_back(parts: tuple[Part, ...]) -> None:
    assert parse_path(printed(parts)) == parts


@given(st.text("ab12.[]:-", max_size=9))
def test_any_text_is_read_in_full_or_refused(text: str) -> None:
    with suppress(PlacementError):
        assert printed(parse_path(text)) == text


@given(INDICES | SLICES, st.integers(0, 9))
def test_positions_are_those_of_a_list(index: Index, length: int) -> None:
    places = list(range(length))
    if index.single:
        assert index.start is not None
        expected = places[index.start :][:1] if -length <= index.start < length else []
    else:
        expected = places[index.start : index.stop : index.step]
    assert list(index.positions(length)) == expected


@given(INDICES | SLICES)
def test_only_a_plain_slice_is_a_run_of_neighbours(index: Index) -> None:
    assert index.is_run == (":" in bracketed(index) and bracketed(index).count(":") == 1)


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        ("blocks.*", "blocks.0", True),
        ("blocks.*", "blocks.0.attn", False),  # fnmatch's star would cross the dot
        ("blocks.**", "blocks.0.attn", True),
        ("blocks.**", "blocks", True),
        ("**.mlp", "mlp", True),
        ("**.mlp", "encoder.layers.2.mlp", True),
        ("**.mlp", "encoder.layers.2.mlp.up", False),
        ("h.*.mlp", "h.10.mlp", True),
        ("h.*.mlp", "h.mlp", False),
        ("h.[13]", "h.3", True),
        ("h.[13]", "h.13", False),
        ("h.[!13]", "h.2", True),
        ("h.?", "h.12", False),
        ("H", "h", False),
        ("a**", "a.b", False),  # two stars cross dots only as a part of their own
        ("**", "", True),
    ],
)
def test_a_pattern_goes_part_by_part(pattern: str, path: str, *, matched: bool) -> None:
    assert matches(pattern, path) == matched


def expression(pattern: str) -> str:
    """The pattern as one regular expression over a path whose every part ends in a dot."""
    parts = pattern.split(".")
    return "".join(r"(?:[^.]*\.)*" if part == "**" else f"{expression_of_part(part)}\\." for part in parts)


def expression_of_part(part: str) -> str:
    tokens = re.findall(r"\[!?[^\]]+\]|.", part)
    wild = {"*": "[^.]*", "?": "[^.]"}
    return "".join(
        wild.get(token) or (token.replace("!", "^") if token[0] == "[" else re.escape(token)) for token in tokens
    )


PATTERNS = st.lists(st.sampled_from("a ab * ** ? a* *b ?b [ab] [!a]* *a*b".split()), min_size=1, max_size=5)
PATHS = st.lists(st.sampled_from("a b ab ba abb 0".split()), min_size=1, max_size=5)


@given(PATTERNS.map(".".join), PATHS.map(".".join))
def test_patterns_match_as_their_regular_expressions_do(pattern: str, path: str) -> None:
    assert matches(pattern, path) == bool(re.fullmatch(expression(pattern), f"{path}."))
