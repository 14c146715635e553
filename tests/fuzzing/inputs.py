"""Inputs that are wrong: odd values, trees with one put in, and texts that were cut, doubled or spoilt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import tomli_w
from hypothesis import strategies as st

DEPTHS = (60, 300, 1_000, 20_000)
"""Levels of nesting: what parsers take, what Python's own recursion does not, and what nothing does."""

ODD_TEXTS = (
    *("", " ", ".", "..", "/", "~", "-", "--", "0", "-1", "nan", "inf", "1e999", "9" * 5_000, "x" * 5_000, "٣", "²"),
    *("\ud800", "\udcff", "\x1b[31m", "a\nb", "a\r", "\u202e", "\ufeff", "\u0085", "é", "[bold]x[/]", "[/]", ":x:"),
    *("=1+1", "'=1", "@here", "<b>", "&amp;", "]]>", "{{x}}", "%s", "{0}", "$x", "\\", '"', "'", "|", ",", ";", "#"),
    *(
        "none",
        "None",
        "null",
        "true",
        "each",
        "plan:60%",
        "frontier:2",
        "cpu",
        "cuda",
        "auto",
        "net.py",
        "net.py:build",
    ),
    *("a" * 300, "a/" * 200, "/" * 300, "a.b.c", "a[0]", "a[0:2]", "../../x", "results", "/proc/x"),
)
ODD_NUMBERS = (
    *(0, -1, 1, 2, True, False, 2**31, 2**63 - 1, 2**63, 2**64, 10**12, 10**400, -(10**400), 10**4_000),
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0, 0.1),
)


def nested(depth: int, kind: str) -> Any:
    """Return lists or tables inside each other, made without recursion."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=12)
"""Texts that some place or other does not expect."""

numbers = st.sampled_from(ODD_NUMBERS) | st.integers() | st.floats()

values = st.one_of(
    st.none(),
    texts,
    numbers,
    st.sampled_from(([], {}, [[]], [{}], [None], {"": 0}, {"a": {}}, [""], [1, "a"])),
    st.sampled_from([nested(depth, kind) for depth in DEPTHS[:2] for kind in ("list", "table")]),
)
"""Values of every kind, most of them out of place wherever they are put."""


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a tree, its own first."""
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at, *(place for key, value in members for place in places(value, (*at, key)))]


def changed(tree: Any, at: tuple[Any, ...], change: Any) -> Any:
    """Return a tree in which `change` was made of the value at a place; `...` takes it out."""
    if not at:
        return change(tree)
    key, *rest = at
    value = changed(tree[key], tuple(rest), change)
    if isinstance(tree, dict):
        return {name: value if name == key else old for name, old in tree.items() if name != key or value is not ...}
    return [value if number == key else old for number, old in enumerate(tree) if number != key or value is not ...]


@st.composite
def trees(draw: st.DrawFn, whole: Any) -> Any:
    """Draw a tree with up to three places changed: another value, nothing, one more key, a member twice."""
    tree = whole
    for _ in range(draw(st.integers(1, 3))):
        every = places(tree)
        at = draw(st.sampled_from(every[1:] or every))
        kind = draw(st.sampled_from(("other", "other", "other", "out", "more", "double", "wrapped")))
        if kind == "other":
            value = draw(values)
            tree = changed(tree, at, lambda _, value=value: value)
        elif kind == "out" and at:
            tree = changed(tree, at, lambda _: ...)
        elif kind == "more":
            key, value = draw(texts), draw(values)
            tree = changed(tree, at, lambda old, key=key, value=value: more(old, key, value))
        elif kind == "double":
            tree = changed(tree, at, lambda old: [*old, *old] if isinstance(old, list) else [old, old])
        else:
            tree = changed(tree, at, lambda old: [old])
    return tree


def more(old: Any, key: str, value: Any) -> Any:
    """Return a table or a list with one member more; anything else as a list with it."""
    return {**old, key: value} if isinstance(old, dict) else [*old, value] if isinstance(old, list) else [old, value]


CHUNKS = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b'"', b"'", b"[", b"]", b"{", b"}"),
    *(b",", b"=", b"\\ud800", b"\\u0000", b"-1", b"1e999", b"NaN", b"Infinity", b"null", b"9" * 5_000, b"0" * 5_000),
    *(b"[" * depth for depth in DEPTHS),
    *(b'{"a":' * depth for depth in DEPTHS),
    *(b"{a=" * depth for depth in DEPTHS),
    *(b"a." * depth for depth in DEPTHS),
)


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw a file's bytes with something put in, cut out or doubled."""
    for _ in range(draw(st.integers(1, 2))):
        start, stop = sorted(draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
        kind = draw(st.sampled_from(("put in", "put in", "cut out", "cut off", "double", "random", "instead")))
        if kind == "put in":
            whole = whole[:start] + draw(st.sampled_from(CHUNKS)) + whole[start:]
        elif kind == "instead":
            whole = whole[:start] + draw(st.sampled_from(CHUNKS)) + whole[min(stop, start + 20) :]
        elif kind == "cut out":
            whole = whole[:start] + whole[min(stop, start + 20) :]
        elif kind == "cut off":
            whole = whole[:start]
        elif kind == "double":
            whole = whole[:stop] + whole[start:]
        else:
            whole = whole[:start] + draw(st.binary(max_size=8)) + whole[start:]
    return whole


def json_bytes(tree: Any) -> bytes:
    """Write a tree as JSON, halves of surrogate pairs as escapes."""
    return json.dumps(tree).encode()


def toml_bytes(tree: Mapping[str, Any]) -> bytes:
    """Write a tree as TOML, as far as it can be written; what cannot becomes text."""
    return tomli_w.dumps(_writable(tree) if isinstance(tree, Mapping) else {"tree": 0}).encode(errors="surrogatepass")


def _writable(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _writable(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_writable(value) for value in tree]
    return "null" if tree is None else tree


def json_files(whole: Any) -> st.SearchStrategy[bytes]:
    """Draw wrong JSON made of a whole tree."""
    return trees(whole).map(json_bytes) | spoilt(json_bytes(whole))


def toml_files(whole: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """Draw wrong TOML made of a whole tree."""
    return trees(whole).map(toml_bytes) | spoilt(toml_bytes(whole))
