"""A session on real models: what it finds for hazards whose outcome is known, and that it leaves no trace."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.workload.accelerators import DEVICE, FakeAccelerator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rematbench.loading import reference_models
from rematbench.measuring import state
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.measuring.flops import FORMULAS
from rematbench.measuring.session import PASSES, Session
from rematbench.placement.placement import Placement
from rematbench.placement.registry import parse_strategy
from rematbench.placing.outline import outline
from rematbench.records.measurement import Equality
from rematbench.suite.model_ref import ModelRef
from rematbench.traces.replay import Reading
from rematbench.workload.building import build, static_bytes
from rematbench.workload.step import Phases, Workload

CPU = torch.device("cpu")
PLAIN = Placement(name="none")


def workload_of(model: str, optimizer: str = "none") -> Workload:
    return build(ModelRef.parse(model, Path.cwd()), CPU, dtype=torch.float32, seed=0, optimizer=optimizer)


def session_of(model: str) -> Session:
    session = Session(workload_of(model), CPU)
    session.keep_plain()
    return session


def place(session: Session, strategy: str) -> Placement:
    return parse_strategy(strategy).resolve(outline(session.workload.module))


def equality(session: Session, strategy: str) -> Equality:
    found = session.measure(place(session, strategy)).equality
    assert found is not None
    return found


@pytest.mark.parametrize("model", reference_models())
def test_every_reference_model_trains_the_same_under_each_and_repeats_to_the_byte(model: str) -> None:
    session = session_of(model)
    plain, each = session.measure(PLAIN), session.measure(place(session, "each"))
    again = session_of(model).measure(PLAIN)
    assert plain.equality is not None
    assert plain.equality.gradients == "bitwise"
    assert plain.equality.buffers == plain.equality.rng_state == plain.equality.loss == "equal"
    assert each.equality is not None
    assert each.equality.gradients == "bitwise"
    assert each.equality.rng_state == "equal"
    assert plain.memory == again.memory
    for found in (plain, each):
        assert found.timeline is not None
        assert max(found.timeline.live_bytes) == found.memory.peak_bytes
        assert sum(share.bytes for share in found.memory.at_peak) == found.memory.peak_bytes
        assert sum((found.memory.held_by_block or {}).values()) == found.memory.held_bytes
    assert plain.memory.repeatable
    assert each.memory.repeatable
    assert plain.flops is not None
    assert each.flops is not None
    assert plain.flops.recompute == 0
    assert 0 <= (each.flops.recompute or 0) <= each.flops.forward
    assert not plain.flops.uncounted_ops


def test_batch_norm_is_updated_twice_unless_once_is_asked_for() -> None:
    session = session_of("residual.conv_bn")
    twice, once = equality(session, "each"), equality(session, "each+batch_norm=once")
    assert (twice.gradients, twice.buffers) == ("bitwise", "different")
    assert "running_mean" in twice.buffer
    assert (once.gradients, once.buffers) == ("bitwise", "equal")


def test_dropout_without_its_random_state_changes_the_gradients() -> None:
    session = session_of("attention_fusion.attentive?dropout=0.5")
    assert equality(session, "each").gradients == "bitwise"
    wrong = equality(session, "each+preserve_rng=false")
    assert wrong.gradients == "different"
    assert wrong.gradients_max_abs_diff > 0
    assert wrong.gradients_worst


def test_checkpointing_only_the_relus_holds_more_than_nothing_at_all() -> None:
    session = session_of("intermediate.activation_only?batch=512")
    plain, relus = session.measure(PLAIN).memory, session.measure(place(session, "modules:body.[13]")).memory
    assert relus.held_bytes > 1.9 * plain.held_bytes


def test_hooks_fire_again_in_the_recomputation() -> None:
    assert equality(session_of("intermediate.hooked"), "each").buffers == "different"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_is_a_phase_and_its_state_is_static(optimizer: str) -> None:
    workload = workload_of("plain.mlp", optimizer)
    weights = [parameter.detach().clone() for parameter in workload.module.parameters()]
    session = Session(workload, CPU)
    session.keep_plain()
    each = session.measure(place(session, "segments:2"))
    assert each.equality is not None
    assert each.equality.gradients == "bitwise"
    assert list(each.memory.phase_peak_bytes) == ["forward", "backward", "optimizer"]
    parameters = sum(weight.nbytes for weight in weights)
    copies = {"sgd": 1, "adamw": 2}[optimizer]
    extra = static_bytes(workload) - static_bytes(workload_of("plain.mlp")) - copies * parameters
    assert 0 <= extra <= 8 * len(weights)  # adamw's step counters
    session.fresh()
    assert all(map(torch.equal, weights, workload.module.parameters()))


def test_static_bytes_count_each_storage_once() -> None:
    tied = nn.Linear(8, 8, bias=False)
    module = nn.Sequential(tied, tied)
    module.register_buffer("view", tied.weight.detach()[:2])
    assert static_bytes(Workload(module=module, batch=(torch.zeros(3, 8),))) == 8 * 8 * 4 + 3 * 8 * 4


def test_without_a_plain_step_the_rest_is_still_known() -> None:
    session = Session(workload_of("plain.mlp"), CPU)
    found = session.measure(place(session, "segments:2"))
    assert found.equality is None
    assert found.flops is not None
    assert found.flops.recompute is None
    assert found.memory.peak_bytes > 0


def test_every_step_starts_from_the_same_state() -> None:
    """Two sessions that differ in how many steps went before find the same, buffers and dropout included."""
    busy = session_of("residual.conv_bn")
    for _ in range(3):
        busy.timed_step(place(busy, "each"))
    assert equality(busy, "none").buffers == "equal"
    assert busy.measure(PLAIN) == session_of("residual.conv_bn").measure(PLAIN)


def test_of_a_compiled_model_no_block_is_told() -> None:
    """Its parts are no calls any more; the sums are measured all the same."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4)))
    model[0]._compiled_call_impl = model[0].forward  # what `Module.compile` leaves behind
    found = Session(Workload(module=model, batch=(torch.ones(2, 4),)), CPU).measure(PLAIN).memory
    assert (found.held_by_block, found.at_peak) == (None, ())
    assert found.held_bytes > 0


class CountingMeter(CpuMeter):
    reads = 0

    def read(self, step: Callable[[Phases], object]) -> Reading:
        self.reads += 1
        return super().read(step)


def test_the_same_regions_are_metered_once_whatever_their_placement_is_called() -> None:
    meter = CountingMeter()
    session = Session(workload_of("residual.conv_bn"), CPU, meter)
    session.keep_plain()
    each = place(session, "each")
    peak = session.peak_bytes(each.model_copy(update={"name": "plan:60%"}))
    found = session.measure(each)
    assert meter.reads == PASSES
    assert found.memory.peak_bytes == peak
    assert found == session_of("residual.conv_bn").measure(each)  # as when it is metered after all else
    session.readings(each, every=True)
    assert meter.reads == 2 * PASSES
    assert session.plain_peak_bytes == session.measure(PLAIN).memory.peak_bytes
    assert meter.reads == 3 * PASSES


class Refusing(torch.autograd.Function):
    """Runs as torch's own do that refuse a dispatch mode."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor) -> torch.Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("There was no rule registered for HOP flex_attention and mode FlopMeter")
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class Net(nn.Module):
    """A layer, and an operator that refuses to run under a dispatch mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Refusing.apply(self.layer(x))  # type: ignore[no-untyped-call]


def test_where_torch_refuses_the_counter_flops_are_absent() -> None:
    session = Session(Workload(module=Net(), batch=(torch.ones(2, 4),)), CPU)
    assert session.measure(PLAIN).flops is None


def test_a_fault_of_our_own_in_the_counter_is_not_taken_for_torch_refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_arguments: object, **_more: object) -> int:
        raise KeyError("a fault of ours")

    session = Session(workload_of("plain.mlp"), CPU)
    monkeypatch.setitem(FORMULAS, torch.ops.aten.addmm, faulty)
    with pytest.raises(KeyError, match="a fault of ours"):
        session.measure(PLAIN)


def test_a_timed_step_is_what_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of("plain.mlp")
    ticks = iter([5.0, 5.25])
    monkeypatch.setattr(session, "_clock", lambda: next(ticks))
    assert session.timed_step(PLAIN) == 0.25


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD], ids=["no optimizer", "sgd"])
def test_sparse_gradients_are_compared_as_the_dense_ones_they_stand_for(optimizer: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 2))
    made = optimizer(model.parameters(), lr=0.1, momentum=0.9) if optimizer else None
    session = Session(Workload(module=model, batch=(torch.tensor([[1, 1, 3]]),), optimizer=made), CPU)
    session.keep_plain()
    assert equality(session, "none").gradients == "bitwise"
    assert equality(session, "all").gradients == "bitwise"


class Stepping(nn.Module):
    """Counts its steps; what it computes is the same each time."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.note = steps.append  # a function, as attributes that are data are put back before every step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.note(1)
        return self.linear(x)


class Unread:
    """A meter that runs the step and says nothing."""

    name = "none"

    def block(self, _path: str) -> AbstractContextManager[None]:
        return nullcontext()

    def read(self, step: Callable[[Phases], object]) -> Reading:
        step(lambda _phase: nullcontext())
        return Reading(held_bytes=0, phase_peak_bytes={"forward": 0})


@pytest.mark.parametrize(("on_card", "plain_steps", "metered_steps"), [(False, 3, 2), (True, 6, 3)])
def test_on_an_accelerator_five_plain_steps_are_compared_and_a_step_is_discarded_before_it_is_metered(
    on_card: bool, plain_steps: int, metered_steps: int
) -> None:
    steps: list[int] = []
    module = Stepping(steps)
    with FakeAccelerator():
        session = Session(Workload(module=module, batch=(torch.ones(2, 4),)), DEVICE if on_card else CPU, Unread())
        session._flops = lambda: None  # type: ignore[method-assign]
        session.keep_plain()
        assert len(session._plain) == plain_steps - 1
        assert len(steps) == plain_steps
        session.readings(PLAIN)
        assert len(steps) == plain_steps + metered_steps
        first, *others = session._plain
        for other in others:  # kept once, as they are the same
            assert other.gradients["linear.weight"] is first.gradients["linear.weight"]


def test_weights_and_optimizer_state_are_kept_in_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is only made believe; in its memory the copies would take three times the weights."""
    monkeypatch.setattr(state, "_settle", lambda _optimizer: None)
    with FakeTensorMode(), FakeAccelerator():
        module = nn.Module()
        module.weight = nn.Parameter(torch.empty(16, 16, device="cuda"))
        optimizer = torch.optim.AdamW(module.parameters())
        optimizer.state[module.weight] = {name: torch.empty_like(module.weight) for name in ("exp_avg", "exp_avg_sq")}
        kept = state.State(Workload(module=module, batch=(), optimizer=optimizer), torch.device("cuda", 0))
        devices = [(tensor.device.type, copy.device.type) for tensor, copy in kept._tensors]
    assert devices == [("cuda", "cpu")] * 3


COLD = """
from pathlib import Path
import torch
from rematbench.measuring.session import Session
from rematbench.placement.registry import parse_strategy
from rematbench.placing.outline import outline
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build

cpu = torch.device("cpu")
session = Session(build(ModelRef.parse("plain.mlp", Path.cwd(), batch=8), cpu, seed=0), cpu)
print(*(each.peak_bytes for each in session.readings(parse_strategy("each").resolve(outline(session.workload.module)))))
"""


def test_the_first_regions_that_a_process_runs_are_metered_as_all_later_ones() -> None:
    """A first recomputation keeps a tensor for longer; a planner may meter a placement that was never run."""
    done = subprocess.run([sys.executable, "-P", "-c", COLD], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first == second
