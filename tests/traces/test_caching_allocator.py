"""The allocator's model against answers worked out by hand, against the same rules written anew, and on real steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rematbench.measuring.session import Session
from rematbench.placement.registry import parse_strategy
from rematbench.placing.outline import outline
from rematbench.suite.model_ref import ModelRef
from rematbench.traces.caching_allocator import (
    AllocatorSettings,
    CachingAllocator,
    DeviceFullError,
    by_segment_kind,
    reserved,
    segment_bytes,
)
from rematbench.traces.trace import AllocationTrace, Event, Span
from rematbench.workload.building import build

KIB, MIB = 2**10, 2**20
EXPANDABLE = AllocatorSettings(expandable_segments=True)


def totals(allocator: CachingAllocator) -> tuple[int, int, int]:
    """Return what is requested, allocated and reserved now."""
    return allocator.requested.current, allocator.allocated.current, allocator.reserved.current


# --- by hand


@pytest.mark.parametrize(
    ("size", "block", "segment"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # still a small one
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB + 4, 12 * MIB, 12 * MIB),  # the rest, of 512 bytes less than 1 MiB, is not split off …
        (23 * MIB // 2 + 4, 12 * MIB, 12 * MIB),
        (21 * MIB // 2, 21 * MIB // 2, 12 * MIB),  # … one of 1.5 MiB is
    ],
)
def test_what_a_first_allocation_takes(size: int, block: int, segment: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate(size)
    assert totals(allocator) == (size, block, segment)
    assert segment_bytes(-(-size // 512) * 512) == segment


def test_the_smallest_block_that_is_large_enough_is_taken_and_the_rest_split_off() -> None:
    allocator = CachingAllocator()
    large, small = allocator.allocate(16 * MIB), allocator.allocate(12 * MIB)
    keeps_apart = allocator.allocate(10 * MIB)
    allocator.free(large)
    allocator.free(small)
    assert allocator.allocate(11 * MIB) == small  # all 12 MiB of it: a rest of 1 MiB is not split off
    assert totals(allocator) == (21 * MIB, 22 * MIB, 38 * MIB)
    assert allocator.allocate(13 * MIB) == large
    assert allocator.allocate(2 * MIB) == large + 13 * MIB  # what was left of the 16
    assert allocator.allocate(MIB + 512) not in (large, small, keeps_apart)  # a rest of 1 MiB went with the 2
    assert allocator.reserved.current == 58 * MIB


def test_neighbours_merge_when_they_are_free() -> None:
    allocator = CachingAllocator()
    first, second, third = (allocator.allocate(2 * MIB) for _ in range(3))
    assert (second - first, third - second) == (2 * MIB, 2 * MIB)
    allocator.free(first)
    allocator.free(third)
    allocator.free(second)
    ((block,),) = allocator.segments()
    assert (block.address, block.size) == (first, 20 * MIB)


def test_blocks_of_another_stream_are_not_taken() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(12 * MIB, stream=1))
    allocator.allocate(12 * MIB, stream=2)
    assert allocator.reserved.current == 24 * MIB
    allocator.allocate(12 * MIB, stream=1)
    assert allocator.reserved.current == 24 * MIB


def test_what_is_cached_is_given_back_before_memory_runs_out() -> None:
    allocator = CachingAllocator(AllocatorSettings(capacity_bytes=32 * MIB))
    allocator.free(allocator.allocate(20 * MIB))
    kept = allocator.allocate(2 * MIB)  # from the 20, which is then split and cannot be given back
    with pytest.raises(DeviceFullError, match=r"23,068,672 bytes are asked for, 20,971,520 of 33,554,432 reserved"):
        allocator.allocate(22 * MIB)
    allocator.free(kept)
    allocator.allocate(22 * MIB)
    assert (allocator.reserved.current, allocator.retries) == (22 * MIB, 2)


def test_a_block_that_may_not_be_split_serves_only_what_is_nearly_as_large() -> None:
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=100 * MIB, capacity_bytes=400 * MIB))
    allocator.free(allocator.allocate(200 * MIB))
    allocator.allocate(30 * MIB)
    assert allocator.reserved.current == 230 * MIB
    allocator.allocate(190 * MIB)  # within 20 MiB
    assert allocator.reserved.current == 230 * MIB
    assert allocator.allocated.current == 230 * MIB


def test_one_large_block_is_given_back_first_where_some_may_not_be_split() -> None:
    allocator = CachingAllocator(AllocatorSettings(max_split_bytes=100 * MIB, capacity_bytes=400 * MIB))
    blocks = [allocator.allocate(size * MIB) for size in (110, 150)]
    for block in blocks:
        allocator.free(block)
    allocator.allocate(200 * MIB)
    assert (allocator.reserved.current, allocator.retries) == (200 * MIB, 0)


def test_an_expandable_segment_grows_by_pages_and_its_end_is_taken_last() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    first = allocator.allocate(30 * MIB)
    assert totals(allocator) == (30 * MIB, 30 * MIB, 40 * MIB)
    second = allocator.allocate(15 * MIB)  # 10 of the 40 were left, so one page of 20 comes to them
    assert (second - first, allocator.reserved.current) == (30 * MIB, 60 * MIB)
    allocator.free(first)
    assert allocator.allocate(16 * MIB) == first  # and not the 15 at the end, which could grow
    small = allocator.allocate(100)
    assert abs(small - first) > 2**40  # a range of its own
    assert allocator.reserved.current == 62 * MIB


def test_pages_that_nothing_is_in_use_of_are_given_back() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    first, second, third = (allocator.allocate(30 * MIB) for _ in range(3))
    assert allocator.reserved.current == 100 * MIB
    allocator.free(second)
    allocator.empty_cache()
    assert allocator.reserved.current == 80 * MIB  # of 30 to 60 only the page from 40 on is whole; so is none behind 90
    allocator.free(first)
    allocator.free(third)
    allocator.empty_cache()
    assert (allocator.reserved.current, list(allocator.segments())) == (0, [])


def trace_of(*changes: int) -> AllocationTrace:
    """Return a step that allocates and frees; `-n` frees the last live block of n bytes."""
    live: list[tuple[int, int]] = []
    events = []
    for time, change in enumerate(changes):
        address = time + 1
        if change < 0:
            address = next((at for at, size in reversed(live) if size == -change), address)
            live = [block for block in live if block[0] != address]
        else:
            live.append((address, change))
        events.append(Event(time=time, address=address, change=change))
    return AllocationTrace(events, [Span(name="forward", start=0, stop=len(changes))])


def test_batches_that_grow_leave_slivers_which_expandable_segments_do_not() -> None:
    """torchtune#1185: each step is a little larger than the one before, and finds only segments too small for it."""
    steps = [trace_of(*(size * MIB for size in (n, n + 3, n + 5)), -n * MIB) for n in range(40, 80, 4)]
    kinds = by_segment_kind(steps)
    assert kinds.fixed.requested_bytes == kinds.expandable.requested_bytes == (76 * 3 + 8) * MIB
    assert kinds.expandable.reserved_bytes == 240 * MIB  # what is asked for, to the page of 20 MiB
    assert kinds.fixed.reserved_bytes > 1.5 * kinds.expandable.reserved_bytes
    assert kinds.saved_bytes == kinds.fixed.reserved_bytes - 240 * MIB
    assert kinds.fixed.fragmentation > 0.3 > kinds.expandable.fragmentation


def test_what_was_there_before_and_what_a_step_frees_of_it_count() -> None:
    found = reserved([trace_of(-3 * MIB, 3 * MIB)], before=[30 * MIB])
    assert (found.requested_bytes, found.reserved_bytes) == (33 * MIB, 50 * MIB)
    assert found.fragmentation == pytest.approx(1 - 33 / 50)


def test_nothing_reserves_nothing() -> None:
    assert reserved([]).fragmentation == 0.0


# --- against the same rules, written as a search through all bytes that are free


class Naive:
    """Keeps segments and the blocks in use, and works out each time what is free: the gaps between them."""

    def __init__(self, *, expandable: bool) -> None:
        self.expandable = expandable
        self.segments: dict[int, tuple[bool, int]] = {}  # start: for small ones, bytes
        self.pages: dict[int, set[int]] = {}  # start of an expandable segment: numbers of its pages
        self.used: dict[int, tuple[int, int]] = {}  # start: bytes, asked for
        self.next = 2 * MIB

    def gaps(self, small: bool) -> Iterator[tuple[int, int, int]]:
        """Yield bytes, start and what it could grow to, of each stretch that is free and has memory."""
        for start, (is_small, size) in self.segments.items():
            if is_small != small:
                continue
            page = 2 * MIB if small else 20 * MIB
            stretches = [(start, start + size)]
            if self.expandable:
                stretches = [(start + n * page, start + (n + 1) * page) for n in sorted(self.pages[start])]
                stretches = joined(stretches)
            for left, right in stretches:
                at = left
                for used, (block, _) in sorted(self.used.items()):
                    if left <= used < right:
                        if used > at:
                            yield used - at, at, used - at
                        at = used + block
                if at < right:
                    end = right if not self.expandable else start + 2**44
                    later = [n for n in self.pages.get(start, ()) if start + n * page >= right]
                    end = min([start + n * page for n in later], default=end)
                    yield right - at, at, end - at

    def allocate(self, asked: int) -> int:
        size = max(1, -(-asked // 512)) * 512
        small = size <= MIB
        fitting = sorted(gap for gap in self.gaps(small) if gap[0] >= size)
        if not fitting:
            return self.grown(asked, size, small) if self.expandable else self.fresh(asked, size, small)
        at = 0
        while self.expandable and at + 1 < len(fitting) and fitting[at + 1][2] < fitting[at][2]:
            at += 1
        return self.put(asked, size, small, *fitting[at][:2])

    def put(self, asked: int, size: int, small: bool, gap: int, start: int) -> int:
        rest = gap - size
        is_split = rest >= 512 if small or self.expandable else rest > MIB
        self.used[start] = (size if is_split else gap, asked)
        return start

    def fresh(self, asked: int, size: int, small: bool) -> int:
        taken = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        start, self.next = self.next, self.next + taken
        self.segments[start] = (small, taken)
        return self.put(asked, size, small, taken, start)

    def grown(self, asked: int, size: int, small: bool) -> int:
        page = 2 * MIB if small else 20 * MIB
        starts = [start for start, (is_small, _) in self.segments.items() if is_small == small]
        if not starts:
            starts = [self.next]
            self.segments[self.next] = (small, 2**44)
            self.pages[self.next] = set()
            self.next += 2**44
        (start,) = starts
        candidates = [start + n * page for n in range(max(self.pages[start], default=-1) + 2)]
        candidates = [at for at in candidates if (at - start) // page not in self.pages[start]]
        for unmapped in candidates:
            at = next((gap for bytes_, gap, _ in self.gaps(small) if gap + bytes_ == unmapped), unmapped)
            if not any(at <= used < at + size for used in self.used):
                self.pages[start] |= set(range((at - start) // page, -(-(at + size - start) // page)))
                self.used[at] = (size, asked)
                return at
        raise AssertionError

    def free(self, address: int) -> None:
        del self.used[address]

    def empty_cache(self) -> None:
        for start, (small, size) in list(self.segments.items()):
            page = 2 * MIB if small else 20 * MIB
            blocks = [(at, at + block) for at, (block, _) in self.used.items() if start <= at < start + size]
            if self.expandable:
                self.pages[start] = {
                    n
                    for n in self.pages[start]
                    if any(left < start + (n + 1) * page and right > start + n * page for left, right in blocks)
                }
            if not blocks:
                del self.segments[start]

    @property
    def totals(self) -> tuple[int, int, int]:
        asked, held = (sum(block[at] for block in self.used.values()) for at in (1, 0))
        if not self.expandable:
            return asked, held, sum(size for _, size in self.segments.values())
        pages = [len(self.pages[at]) * (2 if small else 20) * MIB for at, (small, _) in self.segments.items()]
        return asked, held, sum(pages)


def joined(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for left, right in stretches:
        if found and found[-1][1] == left:
            found[-1] = found[-1][0], right
        else:
            found.append((left, right))
    return found


SIZES = st.one_of(
    st.integers(1, 4 * KIB),
    st.integers(MIB - 2 * KIB, MIB + 2 * KIB),
    st.integers(MIB, 12 * MIB),
    st.integers(10 * MIB, 60 * MIB),
    st.sampled_from([512, 2 * MIB, 4 * MIB, 10 * MIB, 20 * MIB]),
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), SIZES),
        st.tuples(st.just("allocate"), SIZES),
        st.tuples(st.just("free"), st.integers(0, 2**16)),
        st.tuples(st.just("empty"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(expandable=st.booleans(), actions=ACTIONS)
def test_it_does_what_the_rules_say_when_they_are_written_another_way(
    expandable: bool, actions: list[tuple[str, int]]
) -> None:
    allocator, naive = CachingAllocator(AllocatorSettings(expandable_segments=expandable)), Naive(expandable=expandable)
    live: list[int] = []
    for action, argument in actions:
        if action == "allocate":
            address = allocator.allocate(argument)
            assert address == naive.allocate(argument)
            live.append(address)
        elif action == "empty":
            allocator.empty_cache()
            naive.empty_cache()
        elif live:
            address = live.pop(argument % len(live))
            allocator.free(address)
            naive.free(address)
        assert totals(allocator) == naive.totals
        assert_sound(allocator)
    for address in live:
        allocator.free(address)
    assert all(
        len([block for block in segment if block.is_mapped]) <= 1 or expandable for segment in allocator.segments()
    )
    allocator.empty_cache()
    assert totals(allocator) == (0, 0, 0)
    assert not list(allocator.segments())


def assert_sound(allocator: CachingAllocator) -> None:
    """Check that blocks lie in a row, that nothing overlaps, that free neighbours are merged and that bytes add up."""
    live = allocator.live()
    seen, mapped = set(), 0
    reached = 0
    for segment in sorted(allocator.segments(), key=lambda blocks: blocks[0].address):
        assert segment[0].address >= reached
        for left, right in pairwise(segment):
            assert left.address + left.size == right.address
            free = [block.address not in live and block.is_mapped for block in (left, right)]
            assert not all(free)
        reached = segment[-1].address + segment[-1].size
        seen |= {block.address for block in segment if block.address in live}
        mapped += sum(block.size for block in segment if block.is_mapped)
    assert seen == live.keys()
    assert mapped == allocator.reserved.current
    assert allocator.requested.current <= allocator.allocated.current <= allocator.reserved.current
    assert sum(block.size for block in live.values()) == allocator.allocated.current


# --- real steps


@pytest.mark.parametrize("model", ["plain.mlp", "residual.conv_bn", "lstm_skip.lstm"])
def test_of_a_step_as_metered_it_asks_for_what_the_meter_saw(model: str) -> None:
    cpu = torch.device("cpu")
    session = Session(build(ModelRef.parse(model, Path.cwd(), batch=8), cpu, seed=0), cpu)
    for strategy in ("none", "each", "nested:2"):
        placement = parse_strategy(strategy).resolve(outline(session.workload.module))
        trace = session.trace(placement)
        assert trace is not None
        peak = session.peak_bytes(placement)
        older = -sum(each.size_bytes for each in trace.lifetimes if each.size_bytes < 0)
        kinds = by_segment_kind([trace])
        for found in (kinds.fixed, kinds.expandable):
            assert found.requested_bytes == peak + older
            assert found.requested_bytes <= found.allocated_bytes <= found.reserved_bytes
        again = reserved([trace, trace])
        assert again.reserved_bytes >= kinds.fixed.reserved_bytes
        exact = reserved([trace], AllocatorSettings(capacity_bytes=kinds.fixed.reserved_bytes))
        assert exact.reserved_bytes <= kinds.fixed.reserved_bytes
