"""Seconds inside a step, on a clock that only the model's own work moves: known to the last digit."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench.measuring import session as session_module
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement, Region
from rematbench.planner import in_step as instep
from rematbench.planner import unit_meter
from rematbench.planner.in_step import timed_in_step
from rematbench.planner.profile import Profile
from rematbench.planner.profiling import profile
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
EACH = Placement(name="each", regions=tuple(Region(path=f"[{at}]") for at in range(3)))
SECONDS = (2.0, 4.0, 8.0)
ALL = sum(SECONDS)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (unit_meter, instep, session_module):
        monkeypatch.setattr(module, "clock_for", lambda _device: clock)
    return clock


def in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


class _Backward(torch.autograd.Function):
    """The identity; its backward takes longer where the block has been recomputed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: "Block") -> Tensor:
        ctx.block = block
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.block.clock.now += ctx.block.extra if ctx.block.recomputed else 0.0
        return gradient, None


class Block(nn.Module):
    """Works half of its time before its one saved tensor and half behind it, and is slower when it is run again."""

    def __init__(self, clock: Clock, seconds: float, again: float, extra: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.clock, self.seconds, self.again, self.extra = clock, seconds, again, extra
        self.recomputed = False

    def forward(self, x: Tensor) -> Tensor:
        self.recomputed = in_backward()
        self.work()
        y: Tensor = _Backward.apply(x, self) * self.weight  # type: ignore[no-untyped-call]
        self.work()
        return y * self.seconds  # an operator that tells blocks apart, as those of one kind are measured once

    def work(self) -> None:
        self.clock.now += self.seconds / 2 * (self.again if in_backward() else 1)


def session_of(clock: Clock, again: float = 1.0, extra: float = 0.0) -> tuple[Session, Profile]:
    blocks = [Block(clock, seconds, again, extra) for seconds in SECONDS]
    workload = Workload(module=nn.Sequential(*blocks), batch=(torch.ones(3, 4, requires_grad=True),))
    session = Session(workload, CPU)
    session.keep_plain()
    return session, profile(workload, CPU)


def test_alone_a_rerun_is_what_comes_before_the_last_saved_tensor(clock: Clock) -> None:
    session, found = session_of(clock)
    assert [(unit.forward_s, unit.rerun_s) for unit in found.units[:3]] == [(s, s / 2) for s in SECONDS]
    assert replace(timed_in_step(found, session, CPU, EACH), region_s=0.0) == replace(found, step_s=ALL)


def test_seconds_are_those_of_the_recomputation_where_it_happens(clock: Clock) -> None:
    session, alone = session_of(clock, again=3.0)
    found = timed_in_step(alone, session, CPU, EACH)
    assert [(unit.forward_s, unit.rerun_s) for unit in found.units[:3]] == [(3 * s, 3 * s / 2) for s in SECONDS]
    assert found.units[3] == alone.units[3]  # the loss is nobody's to recompute


def test_what_nobody_sees_while_it_is_recomputed_is_shared_out(clock: Clock) -> None:
    """The whole step is longer than the recomputations in it; their sum is made to be as long."""
    session, alone = session_of(clock, extra=1.0)
    found = timed_in_step(alone, session, CPU, EACH)
    assert sum(unit.rerun_s for unit in found.units[:3]) == pytest.approx(ALL / 2 + 3)
    assert [unit.rerun_s / unit.forward_s for unit in found.units[:3]] == pytest.approx([1 / 2] * 3)


@pytest.mark.parametrize(("extra", "factor"), [(100.0, 2.0), (-2.0, 0.5)])
def test_a_step_that_was_disturbed_is_believed_within_bounds(clock: Clock, extra: float, factor: float) -> None:
    session, alone = session_of(clock, extra=extra)
    found = timed_in_step(alone, session, CPU, EACH)
    assert sum(unit.rerun_s for unit in found.units[:3]) == pytest.approx(factor * ALL / 2)


def test_the_cost_of_a_region_counts_for_each(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instep, "_region_s", lambda _device: 0.5)
    session, alone = session_of(clock, extra=0.5)
    found = timed_in_step(alone, session, CPU, EACH)
    assert found.region_s == found.chain("time").region_cost == 0.5
    assert found.chain("flops").region_cost == 0
    assert [unit.rerun_s for unit in found.units[:3]] == pytest.approx([s / 2 for s in SECONDS])


def test_a_region_takes_time_by_the_real_clock() -> None:
    assert instep._region_s(CPU) > 0


def test_a_unit_that_cannot_be_run_again_after_all_leaves_the_profile_as_it_was(clock: Clock) -> None:
    """It saves one tensor more when it runs again in backward, which no profile of it alone shows."""

    class Fickle(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sigmoid() if in_backward() else x)

    blocks = [Fickle(clock, seconds, 1.0) for seconds in SECONDS]
    workload = Workload(module=nn.Sequential(*blocks), batch=(torch.ones(3, 4, requires_grad=True),))
    session = Session(workload, CPU)
    session.keep_plain()
    alone = session_of(clock)[1]
    assert timed_in_step(alone, session, CPU, EACH) == alone


def test_where_nothing_is_recomputed_the_profile_is_as_it_was(clock: Clock) -> None:
    session, alone = session_of(clock)
    assert timed_in_step(alone, session, CPU, Placement(name="each")) == alone


def test_the_model_is_left_alone(clock: Clock) -> None:
    session, alone = session_of(clock)
    model, plain_s = session.workload.module, session.timed_step(Placement(name="none"))
    attributes = [list(vars(module)) for module in model.modules()]
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    timed_in_step(alone, session, CPU, EACH)
    assert [list(vars(module)) for module in model.modules()] == attributes
    assert all(map(torch.equal, model.parameters(), weights))
    assert session.timed_step(Placement(name="none")) == plain_s  # no block is run again any more
