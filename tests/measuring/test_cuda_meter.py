"""The GPU's meter against a made-up caching allocator and, where there is a GPU, against torch's own counter."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rematbench.measuring import cuda_meter
from rematbench.measuring.cuda_meter import CudaMeter
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import Phases, clear_gradients, training_step


class FakeCuda:
    """The counters and the history of a caching allocator that rounds up to 512 bytes; its clock ticks microseconds."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.peak = self.clock = 0
        self.trace: list[dict[str, Any]] = []
        self.recording: str | None = None

    def __enter__(self) -> "FakeCuda":
        self.patches = pytest.MonkeyPatch()
        cuda = {
            "synchronize": lambda _device: None,
            "empty_cache": lambda: None,
            "memory_allocated": lambda _device: self.allocated,
            "max_memory_allocated": lambda _device: self.peak,
            "max_memory_reserved": lambda _device: 2**21,
            "reset_peak_memory_stats": lambda _device: setattr(self, "peak", self.allocated),
        }
        for name, value in cuda.items():
            self.patches.setattr(torch.cuda, name, value)
        self.patches.setattr(torch.cuda.memory, "_record_memory_history", self.record)
        self.patches.setattr(torch.cuda.memory, "_snapshot", lambda _device: {"device_traces": [[], self.trace]})
        self.patches.setattr(cuda_meter, "time", SimpleNamespace(time_ns=lambda: 1000 * self.tick()))
        return self

    def __exit__(self, *_: object) -> None:
        self.patches.undo()

    @property
    def allocated(self) -> int:
        return sum(-(-size // 512) * 512 for size in self.live.values())

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def record(self, enabled: str | None, *, context: str | None = "all", clear_history: bool = False) -> None:
        assert enabled is None or context is None  # stacks would cost time, and nobody reads them
        self.recording = enabled
        if clear_history:
            self.trace.clear()

    def alloc(self, address: int, size: int) -> None:
        self.live[address] = size
        self.peak = max(self.peak, self.allocated)
        self.trace.append({"action": "alloc", "addr": address, "size": size, "time_us": self.tick()})
        self.trace.append({"action": "segment_alloc", "addr": address, "size": 2**21, "time_us": self.clock})

    def free(self, address: int) -> None:
        entry = {"addr": address, "size": self.live.pop(address), "time_us": self.tick()}
        self.trace += [{"action": "free_requested", **entry}, {"action": "free_completed", **entry}]


def cuda_step(cuda: FakeCuda, meter: CudaMeter, phases: Phases) -> None:
    """A block keeps 1000 bytes and drops 3; backward recomputes 700 in it and leaves a gradient of 100."""
    with phases("forward"):
        with meter.block("a"):
            cuda.alloc(1, 1000)
            cuda.alloc(2, 3)
            cuda.free(2)
        cuda.alloc(3, 4)
    with phases("backward"):
        with meter.block("a"):
            cuda.alloc(4, 700)
        cuda.alloc(5, 100)
        cuda.free(4)
        cuda.free(1)
        cuda.free(3)


def test_on_cuda_the_history_tells_who_allocated_and_when_where_it_comes_to_the_counters_peak() -> None:
    with FakeCuda() as cuda:
        cuda.alloc(9, 5000)
        meter = CudaMeter(torch.device("cuda", 1))
        for _ in range(2):
            reading = meter.read(lambda phases: cuda_step(cuda, meter, phases))
            cuda.free(5)
    assert reading.phase_peak_bytes == {"forward": 1024 + 512, "backward": 1024 + 512 + 1024 + 512}
    assert reading.held_by_block == {"a": 1024, "(loss)": 512}
    assert reading.reserved_bytes == 2**21
    assert {(share.kind, share.block, share.bytes) for share in reading.at_peak} == {
        ("kept", "a", 1024),
        ("kept", "(loss)", 512),
        ("recomputed", "a", 1024),
        ("gradients", "(loss)", 512),
    }
    assert reading.timeline is not None
    assert max(reading.timeline.live_bytes) == reading.peak_bytes
    assert [name for name, _, _ in reading.timeline.recomputed] == ["a"]
    assert cuda.recording is None


def test_a_history_that_comes_to_another_peak_is_not_believed() -> None:
    with FakeCuda() as cuda:
        meter = CudaMeter(torch.device("cuda", 1))

        def step(phases: Phases) -> None:
            cuda_step(cuda, meter, phases)
            cuda.trace.pop(0)

        reading = meter.read(step)
    assert reading.phase_peak_bytes == {"forward": 1536, "backward": 3072}
    assert (reading.timeline, reading.held_by_block, reading.at_peak) == (None, None, ())


def test_without_a_history_the_counters_do() -> None:
    with FakeCuda() as cuda:
        cuda.patches.delattr(torch.cuda.memory, "_record_memory_history")
        meter = CudaMeter(torch.device("cuda", 1))
        reading = meter.read(lambda phases: cuda_step(cuda, meter, phases))
    assert (reading.peak_bytes, reading.held_bytes, reading.timeline) == (3072, 1536, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_peaks_equal_torch_s_own_counter() -> None:
    device = torch.device("cuda")
    workload = build(ModelRef.parse("plain.mlp", Path.cwd()), device, dtype=torch.float32, seed=0)
    training_step(workload)
    clear_gradients(workload)
    reading = CudaMeter(device).read(lambda phases: training_step(workload, phases))
    clear_gradients(workload)
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    training_step(workload)
    assert reading.peak_bytes == torch.cuda.max_memory_allocated() - start
    assert reading.timeline is not None
    assert max(reading.timeline.live_bytes) == reading.peak_bytes
