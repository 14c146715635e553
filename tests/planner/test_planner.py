"""Plans hold their budget as measured, beat the strategies people choose by hand, and say why where none fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.planner.test_profiling import SIZES
from torch import nn

from rematbench import Placement, Plan, plan
from rematbench.errors import PlacementError, RematbenchError
from rematbench.measuring.capped import CappedRun
from rematbench.measuring.session import Session
from rematbench.placement.registry import parse_goal, parse_strategy
from rematbench.placing.outline import outline
from rematbench.planner import planner
from rematbench.planner.planner import _TRIES, Planner, _Search
from rematbench.planner.profiling import profile
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build, static_bytes
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
PEERS = ("each", "each-but-last", "sqrt", "checkpoint_sequential:2", "each+save=matmuls")
NETWORKS = ("residual.conv_bn", "concat_skip.unet")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, its planner, and the peak and the recomputed FLOPs of every peer."""

    session: Session
    planner: Planner
    peers: dict[str, tuple[int, int]]


@pytest.fixture(scope="module", params=NETWORKS)
def subject(request: pytest.FixtureRequest) -> Subject:
    ref = ModelRef.parse(request.param, Path.cwd(), **SIZES[request.param])
    session = Session(build(ref, CPU, dtype=torch.float32, seed=0), CPU)
    session.keep_plain()
    peers = {peer: figures_of(session, peer) for peer in PEERS}
    return Subject(session=session, planner=Planner(session, CPU), peers=peers)


def figures_of(session: Session, text: str) -> tuple[int, int]:
    found = session.measure(parse_strategy(text).resolve(outline(session.workload.module)))
    assert found.flops is not None
    assert found.flops.recompute is not None
    return found.memory.peak_bytes, found.flops.recompute


def test_at_the_peak_of_every_peer_a_plan_recomputes_no_more(subject: Subject) -> None:
    for peer, (peak, flops) in subject.peers.items():
        planned = subject.planner.plan(parse_goal(f"plan-flops:{peak}/step"))
        found = subject.session.measure(planned.placement)
        assert found.memory.peak_bytes == planned.facts.measured_peak_bytes <= peak, peer
        assert found.flops is not None
        assert planned.facts.predicted_cost is not None
        assert found.flops.recompute == planned.facts.predicted_cost <= flops, peer
        assert found.equality is not None
        assert (found.equality.gradients, found.equality.buffers, found.equality.rng_state) == (
            "bitwise",
            "equal",
            "equal",
        )
        assert planned.facts.bound_cost is not None
        assert planned.facts.bound_cost <= planned.facts.predicted_cost * (1 + 1e-9) + 1e-6


def test_a_frontier_is_monotone_and_goes_at_least_as_low_as_any_peer(subject: Subject) -> None:
    facts = [subject.planner.plan(parse_goal(f"frontier:{k}/4")).facts for k in range(1, 5)]
    assert facts[0].measured_peak_bytes <= min(peak for peak, _ in subject.peers.values())
    costs = [fact.predicted_cost for fact in facts if fact.predicted_cost is not None]
    assert len(costs) == 4
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0


def test_a_budget_below_all_names_the_least_peak_and_its_block(subject: Subject) -> None:
    with pytest.raises(PlacementError, match=r"no placement fits; the least peak of the step is .*iB.*, set by "):
        subject.planner.plan(parse_goal("plan-flops:1KiB/step"))


class Narrow(nn.Module):
    """Wide inside, narrow at its borders: what nesting is for."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.body(x))


def deep() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    return nn.Sequential(*(Narrow() for _ in range(16))), (torch.randn(4096, 8),)


def test_nesting_goes_below_what_any_flat_placement_reaches() -> None:
    model, batch = deep()
    session = Session(Workload(module=model, batch=batch), CPU)
    session.keep_plain()
    flat = [*(f"segments:{count}" for count in (1, 2, 4, 5, 8, 16)), "each-but-last"]
    least = Planner(session, CPU).plan(parse_goal("frontier:1/2"))
    assert least.facts.measured_peak_bytes < min(figures_of(session, text)[0] for text in flat)


def test_a_plan_from_python_fits_and_applies() -> None:
    model, batch = deep()
    workload = Workload(module=model, batch=batch)
    plain = Session(workload, CPU).readings(Placement(name="none"))[0].peak_bytes
    budget = static_bytes(workload) + plain // 2
    found = plan(model, batch, budget_bytes=budget, minimise="flops")
    assert isinstance(found, Plan)
    assert found.measured_peak_bytes is not None
    assert found.measured_peak_bytes + found.static_bytes <= budget
    assert "(measured)" in found.explain()
    handle = found.apply()
    assert handle.blocks
    handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_plan_from_costs_alone_measures_nothing() -> None:
    model, batch = deep()
    costs = profile(Workload(module=model, batch=batch), CPU)
    most = plan(costs=costs, budget_bytes=2**40, minimise="flops")
    assert (most.placement.regions, most.cost, most.measured_peak_bytes) == ((), 0.0, None)
    assert "(predicted)" in most.explain()
    assert most.predicted_peak_bytes is not None
    tight = plan(costs=costs, budget_bytes=most.predicted_peak_bytes // 2, minimise="flops")
    assert tight.predicted_peak_bytes is not None
    assert tight.predicted_peak_bytes <= most.predicted_peak_bytes // 2
    with pytest.raises(RematbenchError, match="costs alone"):
        tight.apply()
    with pytest.raises(RematbenchError, match="a model and a batch, or costs"):
        plan(budget_bytes=1)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.floats(0.99, 1.01)), min_size=1, max_size=40, unique_by=lambda p: p[0]
    ),
    st.integers(0, 10**6),
)
def test_a_search_takes_what_fits_and_the_next_cheaper_one_does_not(
    points: Sequence[tuple[int, float]], budget: int
) -> None:
    predicted = sorted(peak for peak, _ in points)
    errors = dict(points)
    measured = [int(peak * errors[peak]) for peak in predicted]
    asked: list[int] = []

    def measure(at: int) -> int:
        asked.append(at)
        return measured[at]

    search = _Search(predicted, budget, measure)
    found = search.best()
    assert search.tries == len(set(asked))
    assert len({at for at in asked if predicted[at] > budget}) <= _TRIES
    if found is None:
        assert measured[0] > budget
        return
    assert measured[found] <= budget
    inside = sum(peak <= budget for peak in predicted) - 1
    if found < min(len(predicted) - 1, inside + _TRIES) and budget < predicted[found + 1] <= budget * 1.03:
        assert measured[found + 1] > budget


def test_a_search_goes_on_past_a_point_that_cannot_be_run() -> None:
    assert _Search([90, 95, 99], 100, [90.0, math.inf, math.inf].__getitem__).best() == 0
    assert _Search([90, 95, 99], 100, [math.inf, 95.0, math.inf].__getitem__).best() == 1
    assert _Search([90, 95], 100, [math.inf, math.inf].__getitem__).best() is None


def test_a_search_looks_past_a_point_that_does_not_fit() -> None:
    """The model errs by 1 % on one point and not on the next, which is cheaper."""
    assert _Search([90, 1005, 1010], 1000, [90, 1015, 1000].__getitem__).best() == 2


def test_a_candidate_that_runs_out_of_memory_is_not_the_end_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = deep()
    session = Session(Workload(module=model, batch=batch), CPU)
    session.keep_plain()
    budget = int(0.6 * session.peak_bytes(Placement(name="none")))
    expected = Planner(session, CPU).plan(parse_goal(f"plan-flops:{budget}/step"))
    metered, again = session.peak_bytes, session.fresh
    first: list[object] = []
    fresh: list[int] = []

    def running_out(placement: Placement, *, passes: int) -> int:
        first.append(placement.regions)
        if placement.regions == first[0]:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return metered(placement, passes=passes)

    def freshly() -> None:
        fresh.append(1)
        again()

    monkeypatch.setattr(session, "peak_bytes", running_out)
    monkeypatch.setattr(session, "fresh", freshly)
    found = Planner(session, CPU, Planner(session, CPU).profile).plan(parse_goal(f"plan-flops:{budget}/step"))
    assert found.placement.regions != first[0]
    assert found.facts.measured_peak_bytes <= budget
    assert found.facts.predicted_cost is not None
    assert expected.facts.predicted_cost is not None
    assert found.facts.predicted_cost >= expected.facts.predicted_cost
    assert fresh


def test_another_error_of_a_candidate_is_the_end_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = deep()
    session = Session(Workload(module=model, batch=batch), CPU)

    def broken(_placement: Placement, **_: object) -> int:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(session, "peak_bytes", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Planner(session, CPU).plan(parse_goal("plan-flops:1000000/step"))


def test_a_plan_is_one_that_runs_where_no_more_than_its_budget_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = deep()
    session = Session(Workload(module=model, batch=batch), CPU)
    session.keep_plain()
    budget = int(0.6 * session.peak_bytes(Placement(name="none")))
    goal = parse_goal(f"plan-flops:{budget}/step")
    expected = Planner(session, CPU).plan(goal)
    assert expected.facts.reserved_bytes is None  # a processor cannot be held to a budget
    tried: list[object] = []

    def in_pieces(_session: Session, _device: torch.device, placement: Placement, budget_bytes: int) -> CappedRun:
        assert budget_bytes == budget
        tried.append(placement.regions)
        return CappedRun(ran=placement.regions != expected.placement.regions, reserved_bytes=123)

    monkeypatch.setattr(planner, "capped_run", in_pieces)
    found = Planner(session, CPU).plan(goal)
    assert expected.placement.regions in tried
    assert found.placement.regions != expected.placement.regions
    assert found.placement.regions in tried
    assert found.facts.reserved_bytes == 123
    monkeypatch.setattr(planner, "capped_run", lambda *_: CappedRun(ran=False, reserved_bytes=1))
    with pytest.raises(PlacementError, match="its memory lies in pieces: it does not run where the allocator may take"):
        Planner(session, CPU).plan(goal)
