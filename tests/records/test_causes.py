"""Causes and the parts of a peak in a step that is written by hand, without a model: every byte is known."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from rematbench.records.causes import CAUSES, causes_of
from rematbench.records.evidence import Evidence, LossInput, ParameterFacts, RegionFacts, Static, StepEnd
from rematbench.records.peak import CHUNKS, chunked_peak_bytes, loss_lifetimes, peak_of
from rematbench.traces.trace import AllocationTrace, Event, Span

LOGITS = LossInput(path="head", shape=(8, 100), dtype="float32", bytes=800, gradient_bytes=40)
REGION = RegionFacts(
    title="blocks.0", members=("blocks.0",), kind="Block", saves=False, border_bytes=80, passes_gradient=True
)


def trace(pieces: Iterable[tuple[int, int | None, int]], calls: Iterable[tuple[str, int, int]]) -> AllocationTrace:
    """Return a step from pieces of memory (allocated, freed, bytes): forward is 0 to 99, backward to 199, then more."""
    phases = [("forward", 0, 99), ("backward", 100, 199), ("optimizer", 200, 299)]
    spans = [Span(name=name, start=start, stop=stop) for name, start, stop in phases]
    spans += [Span(name=name, start=start, stop=stop, is_block=True) for name, start, stop in calls]
    events: list[Event] = []
    for address, (start, stop, size) in enumerate(pieces, 1):
        events.append(Event(time=start, address=address, change=size))
        if stop is not None:
            events.append(Event(time=stop, address=address, change=-size))
    return AllocationTrace(events, spans)


CALLS = [("blocks.0", 10, 20), ("blocks.1", 21, 30), ("head", 31, 40), ("blocks.0", 150, 160)]
PIECES: list[tuple[int, int | None, int]] = [
    (11, 19, 70),  # gone before forward ends
    (12, 180, 80),  # the region's output
    (22, 140, 300),  # what no region covers
    (32, None, 800),  # logits, which the loop keeps
    (45, 120, 800),  # their softmax's logarithm
    (110, 115, 800),  # its gradient
    (112, 130, 800),  # theirs
    (118, None, 40),  # the head's gradient: of another size, and it stays
    (151, 170, 250),  # recomputed
    (155, None, 60),  # recomputed, and never freed
]
STEP = trace(PIECES, CALLS)
EVIDENCE = Evidence(
    plain=STEP,
    placed=STEP,
    regions=(REGION,),
    parts=("blocks.0", "blocks.1", "head"),
    static=Static(parameter_bytes=100, sizes=(100,)),
    parameters=(ParameterFacts(path="w", bytes=100, is_trained=True, is_reached=True, is_reached_in_regions=True),),
    loss_input=LOGITS,
)


def test_the_peak_is_taken_apart_to_the_byte() -> None:
    peak = peak_of(EVIDENCE)
    assert (peak.bytes, peak.phase) == (3580, "backward")
    assert peak.parts == {"logits and loss": 3200, "kept by regions": 80, "kept outside regions": 300}
    assert peak.outside == {"blocks.1": 300}


def test_the_loss_s_own_are_those_of_its_size_before_the_first_block_s_turn() -> None:
    assert [STEP.lifetimes[index].size_bytes for index in loss_lifetimes(STEP, LOGITS)] == [800] * 4
    later = trace([*PIECES, (145, 148, 800)], CALLS)  # as large, but blocks.1 has had its turn by then
    assert len(list(loss_lifetimes(later, LOGITS))) == 4
    assert not list(loss_lifetimes(STEP, replace(LOGITS, path="elsewhere")))


def test_in_chunks_the_loss_takes_an_eighth_and_the_head_s_gradients_besides() -> None:
    # At the peak of before: 80 and 300 kept, four eighths of 800, and the gradients of the head and its input.
    assert chunked_peak_bytes(STEP, LOGITS) == max(380 + 4 * 800 // CHUNKS + 40, 80 + 100 + 40 + 310)
    assert chunked_peak_bytes(STEP, replace(LOGITS, path="elsewhere")) == 3580


def test_who_is_at_work_is_who_has_recomputed() -> None:
    alone = trace([*PIECES[:3], (151, 170, 2500), (156, 165, 900)], CALLS)
    peak = peak_of(replace(EVIDENCE, placed=alone))
    assert (peak.at_work, peak.working) == ("blocks.0", {"blocks.0": 3400})


def test_without_a_recomputation_it_is_who_lets_go_next() -> None:
    alone = trace([*PIECES[:3], (130, 135, 5000)], CALLS[:3])
    peak = peak_of(replace(EVIDENCE, placed=alone, plain=alone, regions=()))
    assert (peak.at_work, peak.working) == ("blocks.1", {"(loss)": 5000})


def test_the_optimizer_s_step_and_older_memory_have_parts_of_their_own() -> None:
    older = trace([*PIECES[:3], (210, 220, 9000)], CALLS)
    freed = [Event(time=50, address=99, change=-25)]
    peak = peak_of(replace(EVIDENCE, placed=older))
    assert (peak.phase, peak.parts) == ("optimizer", {"the optimizer's step": 9000})
    with_freed = AllocationTrace([*freed, Event(time=60, address=1, change=100)], older.spans)
    assert peak_of(replace(EVIDENCE, placed=with_freed)).parts["freed of what was there"] == -25


def test_what_a_recomputation_leaves_is_a_cache() -> None:
    kept = trace([*PIECES[:3], (151, None, 2500)], CALLS)
    found = {cause.kind: cause for cause in causes_of(replace(EVIDENCE, placed=kept))}
    assert found["cache"].figures == {"cached_bytes": 0, "left_bytes": 2500}


def step(left: int, *batches: int) -> StepEnd:
    return StepEnd(peak_bytes=9, left_bytes=left, batch_left_bytes=batches, left_by={"blocks.1": left} if left else {})


@pytest.mark.parametrize(
    ("steps", "grows"),
    [
        ([step(0), step(0), step(0)], False),
        ([step(500), step(0), step(0)], False),
        ([step(0), step(64), step(64)], True),
        ([step(0, 900, 0, 0)] * 3, False),
        ([step(0, 900, 7, 7)] * 3, True),
        ([step(0, 900)] * 3, False),
        ([], False),
    ],
    ids=["nothing", "the first alone", "every step", "gradients", "micro-batches", "two of them", "not told"],
)
def test_growth_is_what_every_step_but_the_first_leaves(steps: list[StepEnd], grows: bool) -> None:
    found = causes_of(replace(EVIDENCE, steps=tuple(steps), accumulate=4))
    assert ("growth" in [cause.kind for cause in found]) == grows
    assert (found[0].kind == "growth") == grows, "before all else, as it has no end"


def test_a_step_with_nothing_in_it_still_has_a_verdict() -> None:
    empty = trace([(5, 6, 1)], [])
    found = causes_of(Evidence(plain=empty, placed=empty, regions=(), parts=(), static=Static(), parameters=()))
    assert found
    assert {cause.kind for cause in found} <= set(CAUSES)
