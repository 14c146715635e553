"""What kernels choose, out of a tape and back into it."""

from collections.abc import Iterable, Mapping

import pytest

from rematbench.traces.calls import (
    Asked,
    Effect,
    Noted,
    Unanswered,
    abridged,
    choosy,
    completed,
    continued,
    effect_of,
    with_calls,
    with_kept,
)
from rematbench.traces.tape import NEVER, Label, Tape, tape_of
from rematbench.traces.trace import AllocationTrace, Event, Span

FORWARD = Span(name="forward", start=0, stop=100)


def mark(number: int, start: int, stop: int) -> Span:
    return Span(name=f"@{number}", start=start, stop=stop, is_block=True)


def step(*, watched: bool = False) -> Tape:
    """A kernel leaves 70 bytes, for which it needs 900, and something else is allocated and freed around it."""
    events = [
        Event(time=10, address=1, change=300),
        Event(time=21, address=2, change=900),
        Event(time=22, address=3, change=70),
        Event(time=23, address=2, change=-900),
        Event(time=60, address=1, change=-300),
        Event(time=80, address=3, change=-70),
    ]
    if watched:  # a number becomes a tensor, and a sum is made out of place
        events += [Event(time=11, address=7, change=8), Event(time=12, address=7, change=-8)]
        events += [Event(time=41, address=8, change=70), Event(time=70, address=8, change=-70)]
    marks = [mark(0, 9, 13), mark(1, 20, 30), mark(2, 40, 42)] if watched else []
    return tape_of(AllocationTrace(events, [FORWARD, *marks]), (), ())


NOTED = [Noted("fill|", (), 0), Noted("kernel|", (5, 7), 11), Noted("add|", (5,), 0, is_extra=True)]


def test_calls_are_found_in_the_step_that_nobody_watched() -> None:
    tape = with_calls(step(), step(watched=True), NOTED, "@")
    fill, kernel, add = tape.calls
    assert [tape.values[at] for at in fill.allocated] == [300]
    assert [tape.values[at] for at in kernel.allocated] == [900, 70]
    assert [tape.values[at] for at in kernel.scratch] == [900]
    assert not add.allocated
    assert choosy(tape) == {"kernel|"}
    assert effect_of(kernel, tape) == Effect((900, 70, ~0))


def answering(effect: Effect | str) -> object:
    def ask(calls: Iterable[Asked], /) -> Mapping[Asked, Effect | str]:
        return dict.fromkeys(calls, effect)

    return ask


def test_what_is_taken_out_and_put_back_is_the_same_step() -> None:
    tape = with_calls(step(), step(watched=True), NOTED, "@")
    short = abridged(tape, {"kernel|"})
    assert [label.kind for label in short.labels if label.call] == ["call", "number", "number"]
    assert 900 not in short.values
    kept, answers = with_kept(short, answering(Effect((900, 70, ~0))))  # type: ignore[arg-type]
    again = completed(kept, answers)
    assert (again.labels, again.values, again.ends) == (tape.labels, tape.values, tape.ends)


def test_another_algorithm_has_other_events() -> None:
    short = abridged(with_calls(step(), step(watched=True), NOTED, "@"), {"kernel|"})
    kept, answers = with_kept(short, answering(Effect((64, ~0, 80, 32, ~2))))  # type: ignore[arg-type]
    again = completed(kept, answers)
    assert [value for value in again.values if value] == [300, 64, -64, 80, 32, -32, -300, -80]


def test_a_kernel_that_leaves_something_else_or_is_not_asked_is_named() -> None:
    short = abridged(with_calls(step(), step(watched=True), NOTED, "@"), {"kernel|"})
    for effect in (Effect((70, 70)), Effect((900, ~0)), "too large"):
        with pytest.raises(Unanswered) as raised:
            with_kept(short, answering(effect))  # type: ignore[arg-type]
        assert raised.value.kinds == {"kernel|"}


def test_a_buffer_is_as_large_as_the_kernel_that_made_it_says() -> None:
    tape = Tape(
        labels=(
            *(Label("call", "", call="make|"), Label("number", "", call="make|"), Label("chosen", "")),
            *(Label("call", "", call="use|"), Label("number", "", call="use|"), Label("free", "")),
        ),
        values=(0, 6, 4096, 0, 4096, -4096),
        ends=(NEVER, NEVER, NEVER, NEVER, 2, 2),
        times=(0,) * 6,
    )
    asked: list[Asked] = []

    def ask(calls: Iterable[Asked], /) -> Mapping[Asked, Effect | str]:
        calls = list(calls)
        asked.extend(calls)
        return {call: Effect((8192,) if call.kind == "make|" else ()) for call in calls}

    kept, _ = with_kept(tape, ask)
    assert kept.values == (0, 6, 8192, 0, 8192, -8192)
    assert asked == [Asked("make|", (6,)), Asked("use|", (8192,))]


def test_equal_steps_of_a_kernel_are_continued_while_one_rule_holds() -> None:
    line = [Effect((7 * at**2 + 3, 40, ~0)) for at in range(6)]
    assert continued(line, 100) == Effect((70003, 40, ~0))
    assert continued([*line[:-1], Effect((999, 40, ~0))], 100) is None
    assert continued([*line[:-1], Effect((178, ~0, 40))], 100) is None
