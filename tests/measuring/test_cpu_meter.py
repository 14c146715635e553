"""The CPU's meter against hand computations and itself."""

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from rematbench.measuring.cpu_meter import CpuMeter, UncountedError
from rematbench.measuring.meter import self_test
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement, Region
from rematbench.placing.apply import applied
from rematbench.torch_internals import DispatchMode, pytree, storage_key
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


def test_what_was_there_before_is_taken_off_when_it_goes() -> None:
    """Memory from before any profiling as well as memory that an earlier pass has seen being allocated."""
    meter = CpuMeter()
    old: list[torch.Tensor] = [torch.empty(1 << 20)]

    def keep(phases: Phases) -> None:
        with phases("forward"):
            old.append(torch.empty(1 << 20))

    def drop(phases: Phases) -> None:
        with phases("forward"):
            old.clear()
            old.append(torch.empty(1000))

    meter.read(keep)
    reading = meter.read(drop)
    assert (reading.held_bytes, reading.peak_bytes) == (4000 - 2 * 4 * 2**20, 0)


class Counter(DispatchMode):
    """Counts the bytes of storages as operators make them and as they die: nothing of it is the profiler's."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0

    def older(self, *tensors: torch.Tensor) -> None:
        for tensor in tensors:
            weakref.finalize(tensor.untyped_storage(), self.add, -tensor.untyped_storage().nbytes())

    def add(self, change: int) -> None:
        self.live += change
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {storage_key(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and storage_key(leaf) not in known:
                known.add(storage_key(leaf))
                self.add(leaf.untyped_storage().nbytes())
                self.older(leaf)
        return result


class Keeping(nn.Module):
    """Keeps its last output, and by a hook that of its layer, from each step to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)
        self.last: torch.Tensor | None = None
        self.features: dict[str, torch.Tensor] = {}
        self.layer.register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _given: Any, output: torch.Tensor) -> None:
        self.features["layer"] = output.detach() * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x).relu()
        self.last = y.detach() * 1
        return y


OUTSIDE: dict[int, torch.Tensor] = {}


class KeepingOutside(nn.Linear):
    """Keeps its last output where nobody puts it back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x).relu()
        OUTSIDE[id(self)] = y.detach() * 1
        return y


@pytest.mark.parametrize("block", [Keeping, lambda: KeepingOutside(64, 64, bias=False)], ids=["inside", "outside"])
def test_frees_of_older_memory_are_taken_off_as_an_independent_count_has_it(block: Callable[[], nn.Module]) -> None:
    """In a settled step each block puts one tensor in the place of another, so that they take nothing above the start.

    The count is of a settled step too: the third, its start being what the second left.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*(block() for _ in range(6)))
    workload = Workload(module=model, batch=(torch.randn(256, 64),), loss_fn=lambda y: y.sum())
    session = Session(workload, torch.device("cpu"))
    session.keep_plain()
    found = session.measure(Placement(name="none"))
    session.fresh()
    counter = Counter()
    kept = [leaf for module in model.modules() for leaf in pytree.tree_leaves([*vars(module).values()])]
    older = [leaf for leaf in (*kept, *OUTSIDE.values()) if isinstance(leaf, torch.Tensor)]
    counter.older(*(leaf for leaf in older if not isinstance(leaf, nn.Parameter)))
    del kept, older
    gc.collect()
    with counter:
        training_step(workload)
    assert found.memory.peak_bytes == counter.peak
    assert found.memory.repeatable
    held_by_block = found.memory.held_by_block or {}
    assert sum(held_by_block.values()) == found.memory.held_bytes
    assert sum(share.bytes for share in found.memory.at_peak) == found.memory.peak_bytes
    weights = sum(parameter.nbytes for parameter in model.parameters())
    inside = 6 * 2 * 256 * 64 * 4 if isinstance(model[0], Keeping) else 0
    assert found.memory.static_bytes == weights + 256 * 64 * 4 + inside
    OUTSIDE.clear()


class Threaded(nn.Module):
    """Runs its layer in a thread of its own, or in a pool that is there from the first step on."""

    def __init__(self, *, pool: bool = False, grad: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)
        self.pool = ThreadPoolExecutor(1) if pool else None
        self.grad = grad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def run() -> None:
            with torch.set_grad_enabled(self.grad):
                y = self.layer(x)
            if self.grad:
                found.append(y)

        if self.pool:
            self.pool.submit(run).result()
        else:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        return found[0] if found else self.layer(x)


@pytest.mark.parametrize(
    "model",
    [Threaded(), Threaded(grad=False), Threaded(pool=True)],
    ids=["a thread", "a thread that frees all again", "a pool"],
)
def test_what_other_threads_allocate_is_an_error_that_says_so(model: nn.Module) -> None:
    with pytest.raises(UncountedError, match=r"the step ran torch in other threads.*run it in one thread"):
        read(Workload(module=nn.Sequential(model), batch=(torch.randn(16, 32),)))


def test_a_thread_that_runs_no_torch_is_nobody_s_business() -> None:
    class Waiting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=sorted, args=([3, 1],))
            thread.start()
            thread.join()
            return super().forward(x)

    assert read(Workload(module=nn.Sequential(Waiting(8, 8)), batch=(torch.randn(16, 8),))).peak_bytes > 0


def test_a_step_that_raises_leaves_the_meter_usable() -> None:
    meter = CpuMeter()

    def fail(_phases: Phases) -> None:
        raise KeyError("a model's own error")

    with pytest.raises(KeyError, match="own error"):
        meter.read(fail)
    assert self_test(meter, torch.device("cpu")) == "meter: 64 MiB asked, 64 MiB seen"


def test_garbage_from_before_is_not_collected_inside_a_reading() -> None:
    """A collection comes when enough objects were made: the bytes of a step would depend on what came before it."""

    class Cycle:
        def __init__(self) -> None:
            self.own, self.tensor = self, torch.empty(2**20, dtype=torch.uint8)

    meter, kept = CpuMeter(), []
    gc.collect()
    Cycle()

    def step(phases: Phases) -> None:
        with phases("forward"):
            kept.append(torch.empty(1024, dtype=torch.uint8))
            assert [[number] for number in range(200_000)]
        with phases("backward"):
            pass

    assert meter.read(step).held_bytes == 1024
    assert gc.isenabled()
