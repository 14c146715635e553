"""Calls of a model's blocks as data: which argument goes from block to block, and what must stay as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from rematbench.torch_internals import pytree, write_count

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Of one call: positional and keyword arguments."""


class Call(NamedTuple):
    """A call of a block in a loop.

    Attributes:
        value: the argument that the next block gets the result in place of: the first, by position or by keyword.
        rest: the arguments with that one left empty.
        keyword: the name of that argument, None where it stands by position.
    """

    value: Any
    rest: Arguments
    keyword: str | None

    @classmethod
    def of(cls, arguments: Arguments, keyword: str | None = None) -> Call:
        """Cut a call up; `keyword` says under which one the value is known to stand."""
        args, kwargs = arguments
        if args:
            return cls(args[0], ((None, *args[1:]), kwargs), None)
        keyword = keyword or next(iter(kwargs), None)
        if keyword is None:
            return cls(None, ((None,), {}), None)
        return cls(kwargs.get(keyword), ((), kwargs | {keyword: None}), keyword)

    def onward(self, value: Any) -> Arguments:
        """Return the arguments of the next block's call."""
        args, kwargs = self.rest
        return (args, kwargs | {self.keyword: value}) if self.keyword else ((value, *args[1:]), kwargs)


def carried(given: Any, result: Any) -> Any:
    """Return what a loop hands on of a block's result.

    All of it, but the first element where a block was given one thing and returns a tuple or list that begins with such
    a thing, as in `hidden, weights = block(hidden)`.
    """
    if isinstance(result, tuple | list) and result and _shape(result) != _shape(given) == _shape(result[0]):
        return result[0]
    return result


def next_call(call: Call, result: Any, *, sequential: bool) -> Call:
    """Return the call of the next block that makes both blocks fit for one region.

    Args:
        call: of a block; the block after it gets the same arguments but for the value.
        result: of that call.
        sequential: whether a `Sequential` hands it on, which hands on all of it.
    """
    return call._replace(value=result if sequential else carried(call.value, result))


class Departure(NamedTuple):
    """Where a call is another than it would have to be.

    Attributes:
        argument: the first further argument that differs, `args[1]` or a keyword; None where it is the value.
    """

    argument: str | None


def departure(expected: Call, found: Call) -> Departure | None:
    """Return where a call departs from what `next_call` expected of it; None where one region may hold both."""
    if not same(found.value, expected.value):
        return Departure(None)
    argument = first_difference(expected.rest, found.rest)
    return None if argument is None else Departure(argument)


def expected_next(call: Call, result: Any, *, sequential: bool) -> Call | None:
    """Return the call of the next block that lets a region, whichever block it begins at, go on over it.

    What a loop hands on goes by what a region's first block was given, and a region may begin at any block: None where
    that is of another structure than what this one was given.
    """
    expected = next_call(call, result, sequential=sequential)
    if not sequential and _shape(expected.value) != _shape(call.value):
        return None
    return expected


def continues(expected: Call, arguments: Arguments) -> bool:
    """Tell whether a call is the one that was expected, by the rule that regions hold to."""
    return departure(expected, Call.of(arguments, expected.keyword)) is None


def _shape(value: Any) -> pytree.TreeSpec:
    return pytree.tree_structure(value)


def same(left: Any, right: Any) -> bool:
    """Tell whether two structures are the same objects, leaf by leaf, or plain values that are equal."""
    left_leaves, left_spec = pytree.tree_flatten(left)
    right_leaves, right_spec = pytree.tree_flatten(right)
    return left_spec == right_spec and all(
        a is b or _equal_plain(a, b) for a, b in zip(left_leaves, right_leaves, strict=True)
    )


def _equal_plain(left: Any, right: Any) -> bool:
    return type(left) is type(right) and isinstance(left, int | float | str | bool) and left == right


def first_difference(left: Arguments, right: Arguments) -> str | None:
    """Return the first argument that two calls do not share: `args[1]`, or a keyword."""
    ours, theirs = dict(_named(left)), dict(_named(right))
    both = ours.keys() & theirs.keys()
    return next((name for name in ours | theirs if name not in both or not same(ours[name], theirs[name])), None)


Versions = list[tuple[torch.Tensor, int]]
"""Tensors, each with how often it had been written to."""


def versions(value: Any) -> Versions:
    """Take down how often each tensor of a structure was written to; where torch does not count, neither does this."""
    tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))
    return [(tensor, write_count(tensor)) for tensor in tensors if not tensor.is_inference()]


def written_since(before: Versions) -> torch.Tensor | None:
    """Return the first tensor that has been written to since."""
    return next((tensor for tensor, version in before if write_count(tensor) != version), None)


def argument_with(arguments: Arguments, tensor: torch.Tensor) -> str:
    """Return the argument that a tensor is in: `args[1]`, or a keyword."""
    return next(name for name, value in _named(arguments) if any(leaf is tensor for leaf in pytree.tree_leaves(value)))


def _named(arguments: Arguments) -> Iterator[tuple[str, Any]]:
    args, kwargs = arguments
    yield from ((f"args[{position}]", value) for position, value in enumerate(args))
    yield from kwargs.items()
