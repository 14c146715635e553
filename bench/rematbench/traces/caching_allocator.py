"""A model of the caching allocator that torch has for CUDA: what a step would reserve, from its allocation trace.

It follows c10/cuda/CUDACachingAllocator.cpp, rule by rule: sizes are rounded up to 512 bytes; up to 1 MiB they come
from segments of 2 MiB, above from segments of 20 MiB or, from 10 MiB on, of their own size rounded up to 2 MiB; the
smallest cached block that is large enough is taken, the lowest of equal ones, and split where the rest is worth it;
neighbours that are free merge. With `expandable_segments` there is one address range for each pool, to which memory is
added by the page where it ends.

What it cannot know are the driver's addresses, by which blocks of the same size are taken in turn: its own rise from
segment to segment. Not modelled are CUDA graphs, private pools, `roundup_power2_divisions` and
`garbage_collection_threshold`, all off unless asked for; and that a block another stream uses is free only later.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from rematbench.traces.trace import AllocationTrace, Lifetime

_MIB = 2**20
BLOCK_BYTES = 512
"""Sizes are rounded up to it (`kMinBlockSize`)."""

SMALL_BYTES = _MIB
"""The greatest allocation of the pool for small ones (`kSmallSize`)."""

SMALL_SEGMENT_BYTES = 2 * _MIB
LARGE_SEGMENT_BYTES = 20 * _MIB
_OWN_SEGMENT_BYTES = 10 * _MIB  # kMinLargeAlloc: from here on a segment is as large as what is asked for
_ROUND_LARGE_BYTES = 2 * _MIB
_ADDRESSES = 2**44
"""The address range of an expandable segment: more than any device has."""


class DeviceFullError(Exception):
    """There is not as much memory as is asked for, even after all that is cached has been given back."""


@dataclass(frozen=True, kw_only=True)
class AllocatorSettings:
    """What `PYTORCH_ALLOC_CONF` says, and how much the allocator may take of the device.

    Attributes:
        max_split_bytes: blocks of so much and more are not split (`max_split_size_mb`).
        capacity_bytes: of all segments together, as `set_per_process_memory_fraction` has it.
    """

    expandable_segments: bool = False
    max_split_bytes: float = inf
    capacity_bytes: float = inf


@dataclass(eq=False)
class _Pool:
    """The free blocks of one size class, in order of stream, size and address; and the unmapped by address."""

    is_small: bool
    free: list[tuple[int, int, int, Block]] = field(default_factory=list)
    unmapped: list[tuple[int, int, Block]] = field(default_factory=list)

    @property
    def page_bytes(self) -> int:
        return SMALL_SEGMENT_BYTES if self.is_small else LARGE_SEGMENT_BYTES


@dataclass(eq=False)
class Block:
    """A stretch of a segment, in use or not; `previous` and `next` are its neighbours there.

    Attributes:
        requested: what was asked for; 0 where it is not in use.
        is_mapped: whether memory lies behind its addresses; always so but in expandable segments.
        segment: the first address of an expandable segment; None in any other.
    """

    address: int
    size: int
    stream: int
    pool: _Pool
    requested: int = 0
    is_mapped: bool = True
    segment: int | None = None
    previous: Block | None = None
    next: Block | None = None

    @property
    def is_split(self) -> bool:
        return self.previous is not None or self.next is not None


@dataclass(kw_only=True)
class Counter:
    """Bytes now, and the most there were since the peak was last set back."""

    current: int = 0
    peak: int = 0

    def add(self, change: int) -> None:
        self.current += change
        self.peak = max(self.peak, self.current)


class CachingAllocator:
    """Hands out addresses as torch's does, and counts as it does.

    Attributes:
        requested, allocated, reserved: bytes asked for, in blocks, and taken from the device.
        retries: how often all that was cached had to be given back before a segment could be had.
    """

    def __init__(self, settings: AllocatorSettings | None = None) -> None:
        self.settings = settings or AllocatorSettings()
        self.requested, self.allocated, self.reserved = Counter(), Counter(), Counter()
        self.retries = 0
        self._small, self._large = _Pool(is_small=True), _Pool(is_small=False)
        self._live: dict[int, Block] = {}
        self._heads: dict[int, Block] = {}
        self._next_address = 2 * _MIB

    def allocate(self, size: int, stream: int = 0) -> int:
        """Return the address of a new block.

        Raises:
            DeviceFullError: the capacity does not hold it.
        """
        rounded = max(BLOCK_BYTES, -(-size // BLOCK_BYTES) * BLOCK_BYTES)
        pool = self._small if rounded <= SMALL_BYTES else self._large
        block = self._cached(pool, rounded, stream) or self._new(pool, rounded, stream)
        if block is None and self.settings.max_split_bytes != inf and self._release_oversize(pool, rounded, stream):
            block = self._new(pool, rounded, stream)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._new(pool, rounded, stream)
        if block is None:
            raise DeviceFullError(
                f"{size:,} bytes are asked for, {self.reserved.current:,} of {self.settings.capacity_bytes:,} reserved"
            )
        if self._is_worth_splitting(block, rounded):
            self._split(block, rounded)
        block.requested = size
        self._live[block.address] = block
        for counter, change in ((self.requested, size), (self.allocated, block.size)):
            counter.add(change)
        return block.address

    def free(self, address: int) -> None:
        """Take back the block at an address, into the cache."""
        block = self._live.pop(address)
        self.requested.add(-block.requested)
        self.allocated.add(-block.size)
        block.requested = 0
        self._merge(block)
        self._keep(block)

    def empty_cache(self) -> None:
        """Give the device back every segment, and of expandable ones every page, that nothing is in use of."""
        for pool in (self._large, self._small):
            for *_, block in list(pool.free):
                if block.segment is not None:
                    self._unmap(block)
                elif not block.is_split:
                    self._release(block)

    def reset_peaks(self) -> None:
        """Set the peaks back to what there is now."""
        for counter in (self.requested, self.allocated, self.reserved):
            counter.peak = counter.current

    def segments(self) -> Iterator[list[Block]]:
        """Yield the blocks of each segment in order of their addresses."""
        for head in self._heads.values():
            yield list(_from(head))

    def live(self) -> dict[int, Block]:
        """Return the blocks in use by their addresses."""
        return dict(self._live)

    # --- taking blocks

    def _cached(self, pool: _Pool, size: int, stream: int) -> Block | None:
        """Return the best fit, no longer free (`get_free_block`)."""
        at = bisect_left(pool.free, (stream, size, 0))
        if at == len(pool.free) or pool.free[at][0] != stream:
            return None
        if self.settings.expandable_segments:
            # A block that can grow counts as large as it can become, so that it is the last to be taken.
            while (
                at + 1 < len(pool.free)
                and pool.free[at + 1][0] == stream
                and _size_to_grow_to(pool.free[at + 1][-1]) < _size_to_grow_to(pool.free[at][-1])
            ):
                at += 1
        block, most = pool.free[at][-1], self.settings.max_split_bytes
        if size < most <= block.size or (size >= most and block.size >= size + LARGE_SEGMENT_BYTES):
            return None
        del pool.free[at]
        return block

    def _new(self, pool: _Pool, size: int, stream: int) -> Block | None:
        """Return a block of memory that the device had free; None where there is none (`alloc_block`)."""
        taken = segment_bytes(size)
        if self.reserved.current + taken > self.settings.capacity_bytes:
            return None
        if self.settings.expandable_segments:
            return self._grown(pool, size, stream)
        block = Block(self._addresses(taken), taken, stream, pool)
        self._heads[block.address] = block
        self.reserved.add(taken)
        return block

    def _addresses(self, size: int) -> int:
        start = self._next_address
        self._next_address += -(-size // _ROUND_LARGE_BYTES) * _ROUND_LARGE_BYTES
        return start

    def _is_worth_splitting(self, block: Block, size: int) -> bool:
        rest = block.size - size
        if block.pool.is_small or self.settings.expandable_segments:
            return rest >= BLOCK_BYTES
        return size < self.settings.max_split_bytes and rest > SMALL_BYTES

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.stream, block.pool, segment=block.segment)
        block.size = size
        _insert_after(block, rest)
        self._keep(rest)

    # --- giving back

    def _keep(self, block: Block) -> None:
        insort(block.pool.free, (block.stream, block.size, block.address, block))

    def _merge(self, block: Block) -> None:
        """Make one block of it and of its neighbours that are as it is, mapped and free or unmapped."""
        before, after = block.previous, block.next
        for neighbour in (before, after):
            if neighbour is None or neighbour.address in self._live:
                continue
            if neighbour.is_mapped != block.is_mapped:
                continue
            self._forget(neighbour)
            if neighbour is before:
                self._replace_head(neighbour, block)
                block.address, block.previous = neighbour.address, neighbour.previous
                if block.previous:
                    block.previous.next = block
            else:
                block.next = neighbour.next
                if block.next:
                    block.next.previous = block
            block.size += neighbour.size

    def _forget(self, block: Block) -> None:
        if block.is_mapped:
            del block.pool.free[bisect_left(block.pool.free, (block.stream, block.size, block.address))]
        else:
            del block.pool.unmapped[bisect_left(block.pool.unmapped, (block.stream, block.address))]

    def _replace_head(self, block: Block, by: Block) -> None:
        if block.previous is None:
            self._heads[block.address] = by

    def _release(self, block: Block) -> None:
        """Give a whole segment back (`release_block`)."""
        self._forget(block)
        del self._heads[block.address]
        self.reserved.add(-block.size)

    def _release_oversize(self, pool: _Pool, size: int, stream: int) -> bool:
        """Give back one block too large to be split that would do, or the largest until they would
        (`release_available_cached_blocks`)."""
        wanted = max(size, int(self.settings.max_split_bytes))
        at = bisect_left(pool.free, (stream, wanted, 0))
        if at < len(pool.free) and pool.free[at][0] == stream and pool.free[at][-1].segment is None:
            self._release(pool.free[at][-1])
            return True
        released = 0
        for *_, block in reversed(pool.free[:at]):
            if released >= wanted or block.size < self.settings.max_split_bytes or block.stream != stream:
                break
            if block.segment is None:
                self._release(block)
                released += block.size
        return released >= wanted

    # --- expandable segments

    def _grown(self, pool: _Pool, size: int, stream: int) -> Block:
        """Return a free block at the lowest address that has room for it, with as many pages added as it lacks."""
        block = self._room(pool, size, stream)
        if not block.is_mapped:
            block = self._map(block, min(block.size, size))
        while block.size < size:
            assert block.next is not None
            block = self._map(block.next, min(size - block.size, block.next.size))
        self._forget(block)
        return block

    def _room(self, pool: _Pool, size: int, stream: int) -> Block:
        for found_stream, _, unmapped in pool.unmapped:
            if found_stream != stream:
                continue
            before = unmapped.previous
            block = before if before is not None and before.address not in self._live else unmapped
            room = 0
            for each in _from(block):
                if room >= size or each.address in self._live:
                    break
                room += each.size
            if room >= size:
                return block
        start = self._addresses(_ADDRESSES)
        made = Block(start, _ADDRESSES, stream, pool, is_mapped=False, segment=start)
        self._heads[start] = made
        insort(pool.unmapped, (stream, start, made))
        return made

    def _map(self, block: Block, size: int) -> Block:
        """Put memory behind the first pages of an unmapped block, and return the free block they are then part of."""
        page = block.pool.page_bytes
        mapped = -(-size // page) * page
        self._forget(block)
        block.is_mapped = True
        if mapped < block.size:
            rest = Block(
                block.address + mapped,
                block.size - mapped,
                block.stream,
                block.pool,
                is_mapped=False,
                segment=block.segment,
            )
            block.size = mapped
            _insert_after(block, rest)
            insort(rest.pool.unmapped, (rest.stream, rest.address, rest))
        self._merge(block)
        self._keep(block)
        self.reserved.add(mapped)
        return block

    def _unmap(self, block: Block) -> None:
        """Take away the pages that lie in a free block as a whole."""
        assert block.segment is not None
        page = block.pool.page_bytes
        start = block.segment + -(-(block.address - block.segment) // page) * page
        stop = block.segment + (block.address + block.size - block.segment) // page * page
        if start >= stop:
            return
        self._forget(block)
        if start > block.address:
            before = Block(block.address, start - block.address, block.stream, block.pool, segment=block.segment)
            self._replace_head(block, before)
            before.previous, before.next = block.previous, block
            if block.previous:
                block.previous.next = before
            block.previous = before
            self._keep(before)
        if stop < block.address + block.size:
            after = Block(stop, block.address + block.size - stop, block.stream, block.pool, segment=block.segment)
            _insert_after(block, after)
            self._keep(after)
        block.address, block.size, block.is_mapped = start, stop - start, False
        self._merge(block)
        self.reserved.add(start - stop)
        if block.is_split:
            insort(block.pool.unmapped, (block.stream, block.address, block))
        else:
            del self._heads[block.address]


def segment_bytes(size: int) -> int:
    """Return what is taken from the device for a block that no cached one will do for (`get_allocation_size`)."""
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < _OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-size // _ROUND_LARGE_BYTES) * _ROUND_LARGE_BYTES


def _from(block: Block | None) -> Iterator[Block]:
    while block is not None:
        yield block
        block = block.next


def _insert_after(block: Block, rest: Block) -> None:
    rest.previous, rest.next = block, block.next
    if block.next:
        block.next.previous = rest
    block.next = rest


def _size_to_grow_to(block: Block) -> int:
    return block.size + (block.next.size if block.next and not block.next.is_mapped else 0)


# --- a step


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """What steps come to in the allocator, at their peaks, what was there before them included.

    Attributes:
        requested_bytes, allocated_bytes, reserved_bytes: asked for, in blocks, and taken from the device.
        end_bytes: reserved after the last step: what it has in store for the next one.
        retries: how often it had to give back all that it had cached.
    """

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    end_bytes: int
    retries: int

    @property
    def fragmentation(self) -> float:
        """The share of what is reserved that the blocks in use do not fill, even when they are most."""
        return 1 - self.allocated_bytes / self.reserved_bytes if self.reserved_bytes else 0.0


def reserved(
    steps: Iterable[AllocationTrace], settings: AllocatorSettings | None = None, *, before: Sequence[int] = ()
) -> Reserved:
    """Run steps through the allocator, one after the other; what a step leaves is freed before the next.

    Args:
        steps: several tell what steps of changing sizes come to.
        before: sizes of what is there before the first step, as of parameters; it stays.

    Raises:
        DeviceFullError: the capacity does not hold them.
    """
    allocator = CachingAllocator(settings)
    for size in before:
        allocator.allocate(size)
    for trace in steps:
        _run(allocator, trace.lifetimes)
    return Reserved(
        requested_bytes=allocator.requested.peak,
        allocated_bytes=allocator.allocated.peak,
        reserved_bytes=allocator.reserved.peak,
        end_bytes=allocator.reserved.current,
        retries=allocator.retries,
    )


def _run(allocator: CachingAllocator, lifetimes: Sequence[Lifetime]) -> None:
    # What the step frees of older memory was allocated before it.
    older = {index: allocator.allocate(-each.size_bytes) for index, each in enumerate(lifetimes) if each.size_bytes < 0}
    # At one moment what is freed comes first: the event that allocates at an address which is still live frees it.
    moments: list[tuple[float, bool, int]] = []
    for index, each in enumerate(lifetimes):
        if each.size_bytes > 0:
            moments += [(each.allocated_at, True, index), (each.freed_at, False, index)]
        elif each.size_bytes < 0:
            moments.append((each.allocated_at, False, index))
    live = older
    for _, begins, index in sorted(moments):
        if begins:
            live[index] = allocator.allocate(lifetimes[index].size_bytes)
        else:
            allocator.free(live.pop(index))


@dataclass(frozen=True, kw_only=True)
class SegmentKinds:
    """What steps reserve in segments of fixed sizes, as by default, and in expandable ones."""

    fixed: Reserved
    expandable: Reserved

    @property
    def saved_bytes(self) -> int:
        """How much less expandable segments reserve; below 0 where they reserve more."""
        return self.fixed.reserved_bytes - self.expandable.reserved_bytes


def by_segment_kind(steps: Sequence[AllocationTrace], *, before: Sequence[int] = ()) -> SegmentKinds:
    """Say whether `PYTORCH_ALLOC_CONF=expandable_segments:True` would help."""
    kinds = (reserved(steps, AllocatorSettings(expandable_segments=flag), before=before) for flag in (False, True))
    return SegmentKinds(fixed=next(kinds), expandable=next(kinds))
