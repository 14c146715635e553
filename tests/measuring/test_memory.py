"""The memory meter against hand computations and itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rematbench.measuring import memory as memory_module
from rematbench.measuring.memory import CpuMeter, CudaMeter, MeterError, self_test
from rematbench.placement.placement import Placement, Region
from rematbench.placing.apply import applied
from rematbench.suite.model_ref import ModelRef
from rematbench.traces.replay import Reading
from rematbench.workload.building import build
from rematbench.workload.step import Phases, Workload, clear_gradients, training_step

BATCH, WIDTH, DEPTH = 64, 48, 5
ACTIVATION, WEIGHT, SCALAR = BATCH * WIDTH * 4, WIDTH * WIDTH * 4, 4


def chain() -> Workload:
    """DEPTH blocks of Linear (no bias) and ReLU; the loss is the output's sum."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU()) for _ in range(DEPTH)]
    return Workload(module=nn.Sequential(*blocks), batch=(torch.randn(BATCH, WIDTH),), loss_fn=lambda y: y.sum())


def read(workload: Workload, *regions: str) -> Reading:
    """Read a settled step: one discarded first, gradients None."""
    placement = Placement(name="by hand", regions=tuple(Region(path=path, preserve_rng=False) for path in regions))
    with applied(workload.module, placement):
        training_step(workload)
        clear_gradients(workload)
        reading = CpuMeter().read(lambda phases: training_step(workload, phases))
        clear_gradients(workload)
    return reading


def test_a_plain_chain_by_hand() -> None:
    """Forward keeps each ReLU's output, the Linear's lives beside it until the ReLU is done.

    Backward is greatest at the last block's matrix product: all outputs (the last one held by the step itself), the
    loss and its seed, the gradients on both sides of the Linear, and its weight's. From there on every block frees one
    activation and leaves one weight gradient, which is smaller.
    """
    reading = read(chain())
    assert reading.held_bytes == DEPTH * ACTIVATION + SCALAR
    assert reading.phase_peak_bytes == {
        "forward": (DEPTH + 1) * ACTIVATION,
        "backward": DEPTH * ACTIVATION + 2 * SCALAR + 2 * ACTIVATION + WEIGHT,
    }


def test_a_chain_in_two_regions_by_hand() -> None:
    """Between the phases only the boundary and the output are held; each region comes back whole in backward.

    The second region (two blocks) is greatest at its last matrix product: the boundary, the output and one recomputed
    activation, the gradients on both sides, one weight gradient. The first region (three blocks) is greatest at its
    last ReLU: the output, three recomputed activations, the gradients on both sides, two weight gradients.
    """
    reading = read(chain(), "[0:3]", "[3:5]")
    assert reading.held_bytes == 2 * ACTIVATION + SCALAR
    second = (2 + 1 + 2) * ACTIVATION + WEIGHT + 2 * SCALAR
    first = (1 + 3 + 2) * ACTIVATION + 2 * WEIGHT + 2 * SCALAR
    assert reading.phase_peak_bytes["backward"] == max(first, second)


def test_the_relus_of_facts_10_hold_twice_as_much() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(10, 500), nn.ReLU(), nn.Linear(500, 1000), nn.ReLU(), nn.Linear(1000, 5)]
    workload = Workload(module=nn.Sequential(*layers), batch=(torch.randn(4096, 10),))
    hidden = 4096 * (500 + 1000) * 4
    assert read(workload).held_bytes == pytest.approx(hidden, rel=0.01)
    assert read(workload, "[1]", "[3]").held_bytes == pytest.approx(2 * hidden, rel=0.01)


def test_peaks_are_the_same_to_the_byte_over_repeats_and_threads() -> None:
    workload = chain()
    threads = torch.get_num_threads()
    try:
        readings = []
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            readings.append(read(workload, "[0:2]"))
    finally:
        torch.set_num_threads(threads)
    assert all(reading == readings[0] for reading in readings)


def test_what_was_there_before_is_not_counted_when_it_goes() -> None:
    """Neither memory from before any profiling nor memory that an earlier pass has seen being allocated."""
    old: list[torch.Tensor] = [torch.empty(1 << 20)]
    meter = CpuMeter()

    def keep(phases: Phases) -> None:
        with phases("forward"):
            old.append(torch.empty(1 << 20))

    def drop(phases: Phases) -> None:
        with phases("forward"):
            old.clear()
            old.append(torch.empty(1000))

    meter.read(keep)
    reading = meter.read(drop)
    assert (reading.held_bytes, reading.peak_bytes) == (4000, 4000)


def test_a_step_that_raises_leaves_the_meter_usable() -> None:
    meter = CpuMeter()

    def fail(_phases: Phases) -> None:
        raise KeyError("a model's own error")

    with pytest.raises(KeyError, match="own error"):
        meter.read(fail)
    assert self_test(meter, torch.device("cpu")) == "meter: 64 MiB asked, 64 MiB seen"


def test_a_meter_that_sees_something_else_is_refused() -> None:
    class Blind:
        name = "blind"

        def block(self, _path: str) -> AbstractContextManager[None]:
            return nullcontext()

        def read(self, step: Callable[[Phases], object]) -> Reading:
            CpuMeter().read(step)
            return Reading(held_bytes=0, phase_peak_bytes={"forward": 0})

    with pytest.raises(MeterError, match=r"\(blind\) saw 0 bytes where 67,108,864"):
        self_test(Blind(), torch.device("cpu"))


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
        self.patches.setattr(memory_module, "time", SimpleNamespace(time_ns=lambda: 1000 * self.tick()))
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
