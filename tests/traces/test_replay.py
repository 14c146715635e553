"""What is read from allocator events: sums by hand, an independent walk, and who held what."""

from hypothesis import given
from hypothesis import strategies as st

from rematbench.traces.replay import Reading, replay
from rematbench.traces.timeline import LOSS, Share
from rematbench.traces.trace import Event, Span

FORWARD, BACKWARD = Span(name="forward", start=0, stop=100), Span(name="backward", start=101, stop=200)


def test_replay_by_hand() -> None:
    events = [
        Event(time=10, address=1, change=700),
        Event(time=20, address=2, change=300),
        Event(time=30, address=2, change=-300),
        Event(time=110, address=3, change=200),
        Event(time=120, address=9, change=-5000),  # from before the step
        Event(time=130, address=1, change=-700),
        Event(time=140, address=1, change=50),  # the address again
    ]
    reading = replay(reversed(events), [BACKWARD, FORWARD])
    assert (reading.held_bytes, reading.peak_bytes) == (700, 1000)
    assert reading.phase_peak_bytes == {"forward": 1000, "backward": 900}


def test_frees_of_older_memory_make_room_and_are_their_module_s() -> None:
    events = [
        Event(time=10, address=1, change=700),
        Event(time=20, address=9, change=-500),  # from before the step
        Event(time=30, address=2, change=400),
    ]
    reading = replay(events, [FORWARD, block("a", 5, 50)])
    assert (reading.held_bytes, reading.peak_bytes) == (600, 700)
    assert reading.held_by_block == {"a": 600}


def test_a_phase_that_allocates_nothing_still_holds_what_the_one_before_left() -> None:
    reading = replay([Event(time=10, address=1, change=8)], [FORWARD, BACKWARD])
    assert reading.phase_peak_bytes == {"forward": 8, "backward": 8}


@given(st.lists(st.tuples(st.integers(1, 10**9), st.booleans()), max_size=60), st.integers(0, 60))
def test_replay_agrees_with_a_walk_over_live_sets(blocks: list[tuple[int, bool]], boundary: int) -> None:
    """Blocks come in turn, each freed before the next one or never; sums are taken over the live set itself."""
    events: list[Event] = []
    live: dict[int, int] = {}
    sums: list[tuple[int, int]] = []
    for block, (size, freed) in enumerate(blocks):
        for change in (size, -size) if freed else (size,):
            time = 2 * len(events) + 1  # odd: a phase begins and ends between two events
            events.append(Event(time=time, address=block, change=change))
            live.pop(block) if change < 0 else live.update({block: size})
            sums.append((time, sum(live.values())))
    cut, end = 2 * min(boundary, len(events)), 2 * len(events)
    reading = replay(events, [Span(name="forward", start=0, stop=cut), Span(name="backward", start=cut, stop=end)])
    before, after = [total for time, total in sums if time < cut], [total for time, total in sums if time > cut]
    held = before[-1] if before else 0
    assert reading.held_bytes == held
    assert reading.phase_peak_bytes == {"forward": max([0, *before]), "backward": max([held, *after])}


def block(name: str, start: int, stop: int) -> Span:
    return Span(name=name, start=start, stop=stop, is_block=True)


SPANS = [FORWARD, BACKWARD, block("", 1, 90), block("a", 5, 25), block("b", 30, 50), block("b", 110, 120)]
EVENTS = [
    Event(time=6, address=1, change=100),  # a keeps it
    Event(time=7, address=2, change=40),
    Event(time=8, address=2, change=-40),
    Event(time=28, address=3, change=7),  # the model itself, between its blocks
    Event(time=35, address=4, change=900),
    Event(time=45, address=4, change=-900),
    Event(time=46, address=5, change=10),  # b keeps it
    Event(time=95, address=6, change=4),  # the loss
    Event(time=115, address=7, change=2000),  # b again
    Event(time=130, address=8, change=300),  # a gradient, which stays
    Event(time=131, address=9, change=50),
    Event(time=132, address=9, change=-50),
    Event(time=140, address=7, change=-2000),
    Event(time=150, address=1, change=-100),
]


def test_what_is_held_is_told_by_the_innermost_module_that_allocated_it() -> None:
    assert replay(EVENTS, SPANS).held_by_block == {"a": 100, "": 7, "b": 10, LOSS: 4}


def test_the_peak_is_told_by_kind_and_block() -> None:
    reading = replay(EVENTS, SPANS)
    assert reading.peak_bytes == 2000 + 300 + 50 + 121
    assert reading.at_peak == (
        Share(kind="recomputed", block="b", bytes=2000),
        Share(kind="gradients", block=LOSS, bytes=300),
        Share(kind="kept", block="a", bytes=100),
        Share(kind="transient", block=LOSS, bytes=50),
        Share(kind="kept", block="b", bytes=10),
        Share(kind="kept", block="", bytes=7),
        Share(kind="kept", block=LOSS, bytes=4),
    )


def test_what_the_forward_frees_again_is_transient_there() -> None:
    early = [event for event in EVENTS if event.time < 110]
    assert replay(early, SPANS).at_peak[0] == Share(kind="transient", block="b", bytes=900)


def test_the_optimizer_s_own_is_told_apart() -> None:
    step = Span(name="optimizer", start=201, stop=300)
    reading = replay([*EVENTS, Event(time=250, address=20, change=9000)], [*SPANS, step])
    assert reading.at_peak[0] == Share(kind="optimizer", block=LOSS, bytes=9000)


def test_the_timeline_has_phases_and_what_is_recomputed_on_one_clock() -> None:
    timeline = replay(EVENTS, SPANS).timeline
    assert timeline is not None
    assert timeline.phases == {"forward": (0.0, 1e-7), "backward": (1e-7, 2e-7)}
    assert timeline.recomputed == (("b", 1.1e-7, 1.2e-7),)
    assert max(timeline.live_bytes) == 2471
    assert (timeline.time_s[0], timeline.live_bytes[0]) == (0.0, 0)
    assert timeline.live_bytes[-1] == 321


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=2000))
def test_a_thinned_timeline_is_short_and_keeps_the_peak(sizes: list[int]) -> None:
    """Every second piece is freed at once, so that the sum goes up and down."""
    events = []
    for at, size in enumerate(sizes):
        events.append(Event(time=2 * at, address=at, change=size))
        if at % 2:
            events.append(Event(time=2 * at + 1, address=at, change=-size))
    end = 2 * len(sizes)
    reading = replay(events, [Span(name="forward", start=0, stop=end)])
    assert reading.timeline is not None
    assert max(reading.timeline.live_bytes) == reading.peak_bytes
    assert reading.timeline.live_bytes[-1] == reading.held_bytes
    assert len(reading.timeline.live_bytes) <= 2 * 120 + 2
    assert list(reading.timeline.time_s) == sorted(reading.timeline.time_s)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 3), st.booleans()), max_size=80))
def test_shares_and_blocks_add_up_to_the_whole(pieces: list[tuple[int, int, bool]]) -> None:
    """Many events at one time: their order alone tells them apart."""
    events = []
    for at, (size, time, freed) in enumerate(pieces):
        events.append(Event(time=60 * time, address=at, change=size))
        events += [Event(time=60 * time, address=at, change=-size)] if freed else []
    reading = replay(events, SPANS)
    assert sum((reading.held_by_block or {}).values()) == reading.held_bytes
    assert sum(share.bytes for share in reading.at_peak) == reading.peak_bytes
    assert reading.timeline is not None
    assert max(reading.timeline.live_bytes) == reading.peak_bytes


def test_no_events_is_a_reading_of_nothing() -> None:
    assert replay([], []) == Reading(held_bytes=0, phase_peak_bytes={}, held_by_block={})
