"""A tape of a trace, and the trace of a tape."""

from hypothesis import given
from hypothesis import strategies as st

from rematbench.traces.replay import reading_of
from rematbench.traces.tape import NEVER, Label, Tape, Worked, tape_of
from rematbench.traces.trace import AllocationTrace, Event, Span

FORWARD, BACKWARD = Span(name="forward", start=0, stop=100), Span(name="backward", start=101, stop=200)
BLOCK = Span(name="a", start=15, stop=35, is_block=True)


def test_a_tape_by_hand() -> None:
    events = [
        Event(time=10, address=1, change=700),
        Event(time=20, address=2, change=300),
        Event(time=30, address=2, change=-300),
        Event(time=110, address=9, change=-40),  # from before the step
        Event(time=120, address=1, change=-700),
    ]
    tape = tape_of(
        AllocationTrace(events, [FORWARD, BACKWARD, BLOCK]),
        [("weight", 64)],
        [Worked("forward", "aten.mm", 5), Worked(None, "aten.odd", None)],
    )
    assert list(zip(tape.labels, tape.values, tape.ends, strict=True)) == [
        (Label("static", "weight"), 64, NEVER),
        (Label("begin", "forward"), 0, NEVER),
        (Label("allocate", "", "forward"), 700, NEVER),
        (Label("begin", "a", "forward", True), 0, NEVER),
        (Label("allocate", "a", "forward"), 300, NEVER),
        (Label("free", "a", "forward"), -300, 4),
        (Label("end", "a", "forward", True), 0, NEVER),
        (Label("end", "forward", "forward"), 0, NEVER),
        (Label("begin", "backward"), 0, NEVER),
        (Label("allocate", "", "backward"), -40, NEVER),
        (Label("free", "", "backward"), -700, 2),
        (Label("end", "backward", "backward"), 0, NEVER),
        (Label("flops", "aten.mm", "forward"), 5, NEVER),
        (Label("uncounted", "aten.odd"), 0, NEVER),
    ]
    assert (tape.sum_of("static"), tape.sum_of("flops"), tape.sum_of("flops", "backward")) == (64, 5, 0)


@given(st.data())
def test_the_trace_of_a_tape_reads_as_the_one_it_was_made_of(data: st.DataObject) -> None:
    events: list[Event] = []
    live: dict[int, int] = {}
    for at in range(data.draw(st.integers(0, 30))):
        if data.draw(st.booleans()) and live:
            address = data.draw(st.sampled_from(sorted(live)))
            events.append(Event(time=6 * at + 3, address=address, change=-live.pop(address)))
        else:
            live[at] = data.draw(st.integers(1, 1000))
            events.append(Event(time=6 * at + 3, address=at, change=live[at]))
    trace = AllocationTrace(events, [FORWARD, BACKWARD, BLOCK])
    again = tape_of(trace, [], []).trace()
    before, after = reading_of(trace), reading_of(again)
    assert again.sums == trace.sums
    assert (after.peak_bytes, after.held_bytes) == (before.peak_bytes, before.held_bytes)
    assert (after.phase_peak_bytes, after.held_by_block, after.at_peak) == (
        before.phase_peak_bytes,
        before.held_by_block,
        before.at_peak,
    )


def test_tapes_are_alike_when_only_their_numbers_differ() -> None:
    tape = Tape(labels=(Label("static", "a"),), values=(1,), ends=(NEVER,), times=(0,))
    assert tape.is_like(tape.with_values([7]))
    assert not tape.is_like(Tape(labels=(Label("static", "b"),), values=(1,), ends=(NEVER,), times=(0,)))
