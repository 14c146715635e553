"""Calls as data: what goes from block to block, and what differs between two calls."""

from typing import Any

import pytest
import torch

from rematbench.placing.calls import (
    Arguments,
    Call,
    argument_with,
    carried,
    departure,
    first_difference,
    next_call,
    versions,
    written_since,
)

X, Y, Z = torch.ones(2), torch.ones(2), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "value", "onward"),
    [
        (((X,), {}), X, ((Z,), {})),
        (((X, Y), {"mask": None}), X, ((Z, Y), {"mask": None})),
        (((), {"hidden": X, "mask": Y}), X, ((), {"hidden": Z, "mask": Y})),
        (((), {}), None, ((Z,), {})),
    ],
)
def test_the_first_argument_is_what_goes_on(arguments: Arguments, value: Any, onward: Arguments) -> None:
    call = Call.of(arguments)
    assert call.value is value
    assert first_difference(call.onward(Z), onward) is None
    assert Call.of(onward, call.keyword).value is Z


def test_a_keyword_once_known_is_looked_for_wherever_it_stands() -> None:
    first = Call.of(((), {"hidden": X, "mask": Y}))
    assert Call.of(((), {"mask": Y, "hidden": Z}), first.keyword).value is Z
    assert Call.of(((), {"mask": Y}), first.keyword).value is None


@pytest.mark.parametrize(
    ("given", "result", "expected"),
    [
        (X, Y, Y),
        (X, (Y, Z), Y),
        (X, [Y], Y),
        (X, (Y, None, {"a": Z}), Y),
        ((X, X), (Y, Z), (Y, Z)),
        (X, ((Y, Z), Z), ((Y, Z), Z)),
        (X, {"x": Y}, {"x": Y}),
        (X, (), ()),
        ({"x": X}, ({"x": Y}, Z), {"x": Y}),
    ],
)
def test_what_a_loop_hands_on(given: Any, result: Any, expected: Any) -> None:
    found = torch.utils._pytree.tree_flatten(carried(given, result))
    wanted = torch.utils._pytree.tree_flatten(expected)
    assert found[1] == wanted[1]
    assert all(a is b for a, b in zip(found[0], wanted[0], strict=True))


@pytest.mark.parametrize(
    ("left", "right", "argument"),
    [
        (((X, 1.0), {"mask": Y}), ((X, 1.0), {"mask": Y}), None),
        (((X, 1.0), {}), ((X, 1), {}), "args[1]"),
        (((X,), {}), ((Y,), {}), "args[0]"),
        (((X,), {}), ((X, Y), {}), "args[1]"),
        (((X,), {"mask": Y}), ((X,), {"mask": None}), "mask"),
        (((X,), {"mask": [Y]}), ((X,), {}), "mask"),
        (((X,), {"shifts": [Y]}), ((X,), {"shifts": [Y, Z]}), "shifts"),
        (((X,), {"name": "a"}), ((X,), {"name": "".join(["a"])}), None),
        (((object(),), {}), ((object(),), {}), "args[0]"),
    ],
)
def test_the_first_argument_that_differs_is_named(left: Arguments, right: Arguments, argument: str | None) -> None:
    assert first_difference(left, right) == argument
    assert first_difference(right, left) == argument


@pytest.mark.parametrize(
    ("result", "sequential", "after", "argument"),
    [
        (Z, False, ((Z, Y), {"scale": 2.0}), ()),
        ((Z, Y), False, ((Z, Y), {"scale": 2.0}), ()),
        ((Z, Y), True, ((Z, Y), {"scale": 2.0}), (None,)),
        ((Z, Y), True, (((Z, Y), Y), {"scale": 2.0}), ()),
        (Z, False, ((X, Y), {"scale": 2.0}), (None,)),
        (Z, False, ((Z, X), {"scale": 2.0}), ("args[1]",)),
        (Z, False, ((Z, Y), {"scale": 3.0}), ("scale",)),
    ],
)
def test_one_rule_says_whether_a_call_goes_on(
    result: Any, sequential: bool, after: Arguments, argument: tuple[str | None, ...]
) -> None:
    expected = next_call(Call.of(((X, Y), {"scale": 2.0})), result, sequential=sequential)
    assert departure(expected, Call.of(after)) == (argument or None)


def test_the_argument_that_was_written_to_is_named() -> None:
    mask, further = torch.zeros(2), torch.zeros(2)
    arguments: Arguments = ((None, [mask]), {"further": {"deep": further}})
    before = versions(arguments)
    assert written_since(before) is None
    further.add_(1)
    assert written_since(before) is further
    mask.add_(1)
    assert written_since(before) is mask
    assert [argument_with(arguments, tensor) for tensor in (further, mask)] == ["further", "args[1]"]
