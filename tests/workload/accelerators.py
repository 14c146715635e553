"""An accelerator that is not there: what torch's functions answer for one, over the model of its caching allocator."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rematbench.traces.caching_allocator import AllocatorSettings, CachingAllocator, DeviceFullError

DEVICE = torch.device("cuda", 1)
TOTAL = 80 * 2**30


class FakeAccelerator:
    """Two cards of one kind; the second has an allocator with counters and, where it is told to, a history.

    Attributes:
        others: bytes of the card that other processes hold.
        clock_us: what its history adds to the clock of Python; the two need not agree.
        is_counting_requested: whether the allocator counts what was asked for; cudaMallocAsync does not.
    """

    def __init__(self, kind: str = "cuda", *, is_counting_requested: bool = True) -> None:
        self.kind = kind
        self.allocator = CachingAllocator()
        self.others = 0
        self.clock_us = 0
        self.is_counting_requested = is_counting_requested
        self.total = {"requested_bytes": 0, "allocated_bytes": 0, "reserved_bytes": 0}
        self.counts = {"allocated": 0, "freed": 0}
        self.trace: list[dict[str, Any]] = []
        self.recording: str | None = None
        self.fraction = 1.0
        self.index = 0
        self.emptied = self.synchronised = 0
        self.pending: list[int] = []

    def __enter__(self) -> FakeAccelerator:
        self.patches = pytest.MonkeyPatch()
        device = torch.device(self.kind)
        shared = {
            "current_accelerator": lambda *_, **__: device,
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "synchronize": lambda _device=None: setattr(self, "synchronised", self.synchronised + 1),
            "empty_cache": self.empty_cache,
            "memory_stats": self.memory_stats,
            "memory_reserved": lambda _device=None: self.allocator.reserved.current,
            "max_memory_reserved": lambda _device=None: self.allocator.reserved.peak,
            "reset_peak_memory_stats": lambda _device=None: self.allocator.reset_peaks(),
            "get_memory_info": lambda _device=None: (TOTAL - self.others - self.allocator.reserved.current, TOTAL),
            "set_device_index": lambda index: setattr(self, "index", index),
            "current_device_index": lambda: self.index,
            "current_stream": lambda _device=None: SimpleNamespace(is_capturing=lambda: False),
        }
        for name, value in shared.items():
            self.patches.setattr(torch.accelerator, name, value, raising=False)
        memory = SimpleNamespace(_record_memory_history=self.record, _snapshot=self.snapshot)
        self.module = SimpleNamespace(
            memory=memory,
            get_device_name=lambda _device=None: "A Card",
            get_device_properties=lambda _device=None: SimpleNamespace(total_memory=TOTAL),
            set_per_process_memory_fraction=self.cap,
            get_per_process_memory_fraction=lambda _device=None: self.fraction,
            get_rng_state=lambda _device=None: torch.zeros(16, dtype=torch.uint8),
            set_rng_state=lambda _state, _device=None: None,
        )
        found = torch.get_device_module

        def module_of(asked: torch.device | str | None = None) -> Any:
            return self.module if torch.device(asked or self.kind).type == self.kind else found(asked)

        self.patches.setattr(torch, "get_device_module", module_of)
        return self

    def __exit__(self, *_: object) -> None:
        self.patches.undo()

    def empty_cache(self) -> None:
        self.emptied += 1
        for address in list(self.pending):
            self.complete(address)
        self.allocator.empty_cache()

    def cap(self, fraction: float, _device: torch.device | None = None) -> None:
        self.fraction = fraction
        self.allocator.settings = AllocatorSettings(capacity_bytes=int(fraction * TOTAL))

    def memory_stats(self, _device: torch.device | None = None) -> dict[str, int]:
        counters = {"allocated_bytes": self.allocator.allocated, "reserved_bytes": self.allocator.reserved}
        counters["active_bytes"] = self.allocator.allocated
        if self.is_counting_requested:
            counters["requested_bytes"] = self.allocator.requested
        found = {"requested_bytes.all.allocated": 0, "requested_bytes.all.current": 0, "requested_bytes.all.peak": 0}
        for name, counter in counters.items():
            found |= {f"{name}.all.current": counter.current, f"{name}.all.peak": counter.peak}
            found[f"{name}.all.allocated"] = self.counts["allocated"]
        return found | {f"active.all.{name}": count for name, count in self.counts.items()}

    def record(self, enabled: str | None, *, context: str | None = "all", clear_history: bool = False) -> None:
        assert enabled is None or context is None  # stacks would cost time, and nobody reads them
        self.recording = enabled
        if clear_history:
            self.trace.clear()

    def snapshot(self, _device: torch.device) -> dict[str, Any]:
        return {"device_traces": [[], list(self.trace)]}

    def note(self, action: str, address: int, size: int) -> None:
        if self.recording:
            at = time.time_ns() // 1000 + self.clock_us
            self.trace.append({"action": action, "addr": address, "size": size, "time_us": at})

    def alloc(self, size: int) -> int:
        """Allocate, or run out of memory as torch says it."""
        try:
            address = self.allocator.allocate(size)
        except DeviceFullError as error:
            raise torch.OutOfMemoryError(f"CUDA out of memory. {error}") from error
        self.counts["allocated"] += 1
        self.note("alloc", address, size)
        self.note("segment_alloc", address, 2**21)
        return address

    def free(self, address: int, *, later: bool = False) -> None:
        """Free a block; `later`, as another stream may still use it, it stays active until the cache is emptied."""
        self.note("free_requested", address, self.allocator.live()[address].requested)
        self.pending.append(address)
        if not later:
            self.complete(address)

    def complete(self, address: int) -> None:
        self.pending.remove(address)
        self.counts["freed"] += 1
        self.note("free_completed", address, self.allocator.live()[address].requested)
        self.allocator.free(address)
