"""Tapes made longer, against tapes of that many blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rematbench.traces.tape import NEVER, Label, Tape
from rematbench.traces.unrolling import are_alike, unrolling_of


def step(blocks: int, sizes: tuple[int, ...], each: bool = False) -> Tape:
    """A step by hand: blocks that each keep some tensors until their backward, or make them again there."""
    labels: list[Label] = [Label("static", f"blocks.{block}.weight") for block in range(blocks)]
    values: list[int] = [sizes[0]] * blocks
    ends = [NEVER] * blocks
    kept: dict[tuple[int, int], int] = {}

    def write(kind: str, name: str, value: int, end: int = NEVER) -> int:
        labels.append(Label(kind, name, "forward" if not ends or phase == "forward" else "backward"))  # type: ignore[arg-type]
        values.append(value)
        ends.append(end)
        return len(labels) - 1

    phase = "forward"
    head = write("allocate", "", 11)
    for block in range(blocks):
        for which, size in enumerate(sizes):
            kept[block, which] = write("allocate", f"blocks.{block}", size)
        if each:
            for which, size in list(enumerate(sizes))[1:]:
                write("free", f"blocks.{block}", -size, kept[block, which])
    phase = "backward"
    for block in reversed(range(blocks)):
        for which, size in reversed(list(enumerate(sizes))):
            if each and which:
                kept[block, which] = write("allocate", f"blocks.{block}", size)
            write("free", f"blocks.{block}", -size, kept[block, which])
    write("free", "", -11, head)
    return Tape(labels=tuple(labels), values=tuple(values), ends=tuple(ends), times=tuple(range(len(labels))))


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(sizes=SIZES, each=st.booleans(), start=st.integers(2, 4), period=st.integers(1, 3), more=st.integers(0, 9))
def test_a_step_of_more_blocks_is_told_from_two_of_fewer(
    sizes: tuple[int, ...], each: bool, start: int, period: int, more: int
) -> None:
    shallow = step(start * period, sizes, each)
    unrolling = unrolling_of(shallow, step((start + 1) * period, sizes, each))
    assert unrolling is not None
    told, really = unrolling.unrolled(shallow, more), step((start + more) * period, sizes, each)
    assert are_alike(told, really)
    assert told.trace().sums == really.trace().sums


def test_every_free_ends_a_life_of_its_size_once() -> None:
    shallow = step(2, (3, 5))
    unrolling = unrolling_of(shallow, step(3, (3, 5)))
    assert unrolling is not None
    told = unrolling.unrolled(shallow, 5)
    ended = [end for end in told.ends if end != NEVER]
    assert len(ended) == len(set(ended)) == sum(label.kind == "free" for label in told.labels)
    assert all(told.values[end] == -value for end, value in zip(told.ends, told.values, strict=True) if end != NEVER)


@pytest.mark.parametrize(
    ("shallow", "deeper"),
    [
        (step(3, (3, 5)), step(3, (3, 5))),  # no longer
        (step(3, (3, 5)), step(2, (3, 5))),  # shorter
        (step(2, (3, 5)), step(3, (3, 4))),  # of other blocks
        (step(2, (3, 5)), step(3, (3, 5), each=True)),
    ],
)
def test_what_does_not_repeat_is_told_so(shallow: Tape, deeper: Tape) -> None:
    assert unrolling_of(shallow, deeper) is None
