"""An accelerator's meter over the model of its allocator and, where there is a GPU, against torch's own counters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.workload.accelerators import DEVICE, FakeAccelerator

from rematbench.errors import DeviceError
from rematbench.loading import reference_models
from rematbench.measuring.accelerator_meter import AcceleratorMeter
from rematbench.measuring.meter import MeterError, meter_for, self_test
from rematbench.measuring.session import Session
from rematbench.placement.registry import parse_strategy
from rematbench.placing.outline import outline
from rematbench.suite.model_ref import ModelRef
from rematbench.traces.replay import Reading
from rematbench.traces.trace import AllocationTrace, Lifetime
from rematbench.workload.building import build
from rematbench.workload.devices import find_device
from rematbench.workload.step import Phases, clear_gradients, training_step

MIB = 2**20
ODD = 23 * MIB // 2 + 4
"""A block of 12 MiB, of which nothing is split off."""


@pytest.fixture
def card() -> Iterator[FakeAccelerator]:
    with FakeAccelerator() as card:
        yield card


def step_of(card: FakeAccelerator, meter: AcceleratorMeter, phases: Phases) -> list[int]:
    """A block keeps an odd size and drops 3; backward recomputes 700 in it and leaves a gradient of 100."""
    with phases("forward"):
        with meter.block("a"):
            kept, dropped = card.alloc(ODD), card.alloc(3)
            card.free(dropped)
        loss = card.alloc(4)
    with phases("backward"):
        with meter.block("a"):
            again = card.alloc(700)
        gradient = card.alloc(100)
        for address in (again, kept, loss):
            card.free(address)
    return [gradient]


def read(card: FakeAccelerator, meter: AcceleratorMeter | None = None) -> Reading:
    meter = meter or AcceleratorMeter(DEVICE)
    left: list[int] = []
    reading = meter.read(lambda phases: left.extend(step_of(card, meter, phases)))
    for address in left:
        card.free(address)
    return reading


def test_bytes_are_those_asked_for_and_blocks_and_segments_have_figures_of_their_own(card: FakeAccelerator) -> None:
    card.others = 5 * 2**30
    card.alloc(5000)
    reading = read(card)
    assert reading.phase_peak_bytes == {"forward": ODD + 4, "backward": ODD + 4 + 700 + 100}
    assert reading.held_bytes == ODD + 4
    assert reading.allocated_bytes == 12 * MIB + 512 + 1024 + 512
    assert reading.active_bytes == reading.allocated_bytes
    assert reading.reserved_bytes == 14 * MIB
    assert reading.device_used_bytes == 5 * 2**30 + 14 * MIB


def test_the_history_tells_who_allocated_and_when(card: FakeAccelerator) -> None:
    meter = AcceleratorMeter(DEVICE)
    for _ in range(2):
        reading = read(card, meter)
    assert reading.held_by_block == {"a": ODD, "(loss)": 4}
    assert {(share.kind, share.block, share.bytes) for share in reading.at_peak} == {
        ("kept", "a", ODD),
        ("kept", "(loss)", 4),
        ("recomputed", "a", 700),
        ("gradients", "(loss)", 100),
    }
    assert reading.timeline is not None
    assert max(reading.timeline.live_bytes) == reading.peak_bytes
    assert [name for name, _, _ in reading.timeline.recomputed] == ["a"]
    assert 0 < reading.timeline.time_s[-1] < 60
    assert card.recording is None


@pytest.mark.parametrize("clock_us", [-3_600_000_000, -7, 7, 3_600_000_000])
def test_who_allocated_is_known_by_count_whatever_the_clocks_say(card: FakeAccelerator, clock_us: int) -> None:
    expected = read(card)
    card.clock_us = clock_us
    found = read(card)
    assert (found.held_by_block, found.at_peak) == (expected.held_by_block, expected.at_peak)
    assert found.timeline is not None
    assert len(found.timeline.live_bytes) > 2


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_history_with_an_entry_missing_is_not_believed(card: FakeAccelerator, lost: int) -> None:
    meter = AcceleratorMeter(DEVICE)

    def step(phases: Phases) -> None:
        step_of(card, meter, phases)
        del card.trace[
            [n for n, entry in enumerate(card.trace) if entry["action"] in ("alloc", "free_completed")][lost]
        ]

    reading = meter.read(step)
    assert reading.phase_peak_bytes == {"forward": ODD + 4, "backward": ODD + 804}
    assert (reading.timeline, reading.held_by_block, reading.at_peak, reading.trace) == (None, None, (), None)


def test_a_history_that_adds_up_to_another_peak_is_not_believed(card: FakeAccelerator) -> None:
    meter = AcceleratorMeter(DEVICE)

    def step(phases: Phases) -> None:
        step_of(card, meter, phases)
        next(entry for entry in card.trace if entry["action"] == "alloc")["size"] += 1

    assert meter.read(step).timeline is None


def test_what_a_side_stream_still_uses_counts_until_it_is_done(card: FakeAccelerator) -> None:
    meter = AcceleratorMeter(DEVICE)

    def step(phases: Phases) -> None:
        with phases("forward"):
            card.free(card.alloc(1000), later=True)
            card.alloc(10)
        with phases("backward"):
            card.complete(card.pending[0])

    reading = meter.read(step)
    assert (reading.held_bytes, reading.phase_peak_bytes["backward"]) == (1010, 1010)
    assert reading.held_by_block == {"(loss)": 1010}


@pytest.mark.parametrize("gone", ["_record_memory_history", "_snapshot"])
def test_without_a_history_the_counters_do(card: FakeAccelerator, gone: str) -> None:
    delattr(card.module.memory, gone)
    reading = read(card)
    assert (reading.peak_bytes, reading.held_bytes, reading.timeline) == (ODD + 804, ODD + 4, None)


def test_a_key_of_the_history_that_is_called_otherwise_costs_the_history_alone(card: FakeAccelerator) -> None:
    card.patches.setattr(card.module.memory, "_snapshot", lambda _device: {"traces": []})
    assert read(card).peak_bytes == ODD + 804
    card.patches.setattr(card.module.memory, "_snapshot", lambda _device: {"device_traces": [[], [{"what": "alloc"}]]})
    assert read(card).timeline is None
    assert card.recording is None


def test_an_allocator_that_does_not_count_what_was_asked_for_is_read_by_its_blocks() -> None:
    with FakeAccelerator(is_counting_requested=False) as card:
        card.alloc(1)
        meter = AcceleratorMeter(DEVICE)
        assert (meter.grain_bytes, meter.name) == (512, "torch CUDA allocator, allocated bytes")
        assert read(card, meter).peak_bytes == 12 * MIB + 2048


@pytest.mark.parametrize("kind", ["xpu", "mps", "hpu"])
def test_every_kind_of_accelerator_is_read_by_the_same_code(kind: str) -> None:
    with FakeAccelerator(kind) as card:
        if kind == "mps":
            del card.module.memory
        meter = meter_for(torch.device(kind, 1))
        assert isinstance(meter, AcceleratorMeter)
        reading = read(card, meter)
        assert reading.peak_bytes == ODD + 804
        assert (reading.timeline is None) == (kind == "mps")
        assert meter.name == f"torch {kind.upper()} allocator, requested bytes"


def test_a_device_whose_memory_torch_does_not_count_is_an_error() -> None:
    with FakeAccelerator("mps") as card:

        def refuse(_device: torch.device) -> None:
            raise RuntimeError("no DeviceAllocator")

        card.patches.setattr(torch.accelerator, "memory_stats", refuse)
        with pytest.raises(DeviceError, match=r"mps:1: torch .* does not count the memory"):
            meter_for(torch.device("mps", 1))


def test_the_self_test_asks_for_what_blocks_would_not_tell(
    card: FakeAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meter that counts blocks passes where the size fills its block; that is what the audit found."""

    class Allocated:
        def __init__(self, size: int) -> None:
            self.address = card.alloc(size)

        def __del__(self) -> None:
            card.free(self.address)

    monkeypatch.setattr(torch, "empty", lambda size, **_: Allocated(size))
    meter = AcceleratorMeter(DEVICE)
    assert self_test(meter, DEVICE) == "meter: 63 MiB asked, 63 MiB seen"
    monkeypatch.setattr(
        AcceleratorMeter, "_choose_counter", lambda self, _: setattr(self, "_counter", "allocated_bytes")
    )
    with pytest.raises(MeterError, match="saw 67,108,864 bytes where 66,584,580 were allocated"):
        self_test(meter, DEVICE)


# --- the steps of reference models, run through the allocator


def replayed(
    card: FakeAccelerator, meter: AcceleratorMeter, trace: AllocationTrace, scale: int, phases: Phases
) -> None:
    """Do what a metered step did, on the card, every size times `scale`."""
    todo: list[tuple[float, bool, Lifetime]] = []
    for each in trace.lifetimes:
        todo += [(each.allocated_at, True, each), (each.freed_at, False, each)]
    todo.sort(key=lambda entry: entry[:2])
    live: dict[int, int] = {}
    for name in ("forward", "backward"):
        until = trace.after(name)
        with phases(name):
            while todo and todo[0][0] < until:
                _, begins, each = todo.pop(0)
                if not begins:
                    card.free(live.pop(id(each)))
                elif each.module is None:
                    live[id(each)] = card.alloc(each.size_bytes * scale)
                else:
                    with meter.block(each.module):
                        live[id(each)] = card.alloc(each.size_bytes * scale)


@pytest.mark.parametrize("model", reference_models())
def test_on_the_steps_of_reference_models_the_history_is_believed_and_the_peak_exact(model: str) -> None:
    cpu = torch.device("cpu")
    session = Session(build(ModelRef.parse(model, Path.cwd(), batch=4), cpu, seed=0), cpu)
    placements = [
        parse_strategy(text).resolve(outline(session.workload.module)) for text in ("none", "each", "nested:2")
    ]
    for trace in [session.trace(placement) for placement in placements]:
        assert trace is not None
        assert all(each.size_bytes > 0 for each in trace.lifetimes)
        for scale in (1, 997):
            with FakeAccelerator() as card:
                meter = AcceleratorMeter(DEVICE)
                reading = meter.read(partial(replayed, card, meter, trace, scale))
            assert reading.timeline is not None, "the history is not believed"
            assert reading.peak_bytes == scale * max(trace.sums)


# --- where there is a GPU


def accelerator() -> torch.device:
    device = find_device("auto")
    if device.type == "cpu":
        pytest.skip("needs an accelerator")
    return device


@pytest.mark.gpu
def test_peaks_equal_torch_s_own_counter_on_blocks_that_are_not_split() -> None:
    device = accelerator()
    workload = build(ModelRef.parse("plain.mlp", Path.cwd()), device, dtype=torch.float32, seed=0)
    training_step(workload)
    clear_gradients(workload)
    meter = AcceleratorMeter(device)

    def step(phases: Phases) -> None:
        with phases("forward"):
            large = torch.empty(ODD, dtype=torch.uint8, device=device)
        del large
        training_step(workload, phases)

    reading = meter.read(step)
    clear_gradients(workload)
    start = torch.accelerator.memory_stats(device)["requested_bytes.all.current"]
    torch.accelerator.reset_peak_memory_stats(device)
    training_step(workload)
    assert reading.peak_bytes == torch.accelerator.memory_stats(device)["requested_bytes.all.peak"] - start
    assert reading.timeline is not None
    assert max(reading.timeline.live_bytes) == reading.peak_bytes
