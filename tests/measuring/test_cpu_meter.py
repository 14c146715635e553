"""The CPU's meter against hand computations and itself."""

import pytest
import torch
from torch import nn

from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.measuring.meter import self_test
from rematbench.placement.placement import Placement, Region
from rematbench.placing.apply import applied
from rematbench.traces.replay import Reading
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
