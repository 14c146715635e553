"""Units opened: regions over parts of a unit are ways to run it, measured in it, and what must be no region is none."""

import pytest
import torch
from torch import nn

from rematbench.measuring.session import Session
from rematbench.placement.registry import parse_goal, parse_strategy
from rematbench.placing.outline import outline
from rematbench.planner.planner import Planner
from rematbench.planner.profile import BEGINNING, Profile
from rematbench.planner.profiling import profile
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import simulate
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
ROWS = 4096


class Wide(nn.Module):
    """Two branches one after the other, each of them wide inside: half of a block's memory is either one's."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(width, 16 * width), nn.GELU(), nn.Linear(16 * width, width))
        self.second = nn.Sequential(nn.Linear(width, 16 * width), nn.GELU(), nn.Linear(16 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.first(x)
        return x + self.second(x)


class Shared(nn.Module):
    """One block called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Wide()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = self.block(x)
        return x


class Codebook(nn.Module):
    """Reads a buffer in its forward that it has moved before it ends, as an average that is kept does."""

    code: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 8)
        self.register_buffer("code", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inside(x).tanh() * self.code
        self.code = 0.5 * self.code + y.detach().mean(0)
        return y


class Counting(nn.Module):
    """Counts its calls in a buffer that nothing reads."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 64)
        self.outside = nn.Linear(64, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.outside(self.inside(x).tanh())
        return y


def session_of(model: nn.Module) -> Session:
    torch.manual_seed(0)
    session = Session(Workload(module=model, batch=(torch.randn(ROWS, 8),)), CPU)
    session.keep_plain()
    return session


@pytest.fixture(scope="module")
def opened() -> tuple[Session, Profile]:
    session = session_of(nn.Sequential(*(Wide() for _ in range(4))))
    return session, profile(session.workload, CPU)


def test_a_unit_with_regions_inside_is_predicted_as_it_is_measured(opened: tuple[Session, Profile]) -> None:
    """Alone, in every block, and inside a region over several blocks."""
    session, found = opened
    planner = Planner(session, CPU, found)
    chain = found.chain("flops")
    inside = [way.save for way in found.units[1].ways if way.inside]
    assert inside
    blocks = range(4)
    for regions in [
        *([UnitRegion(start=1, stop=2, save=save)] for save in inside),
        [UnitRegion(start=at, stop=at + 1, save=inside[0]) for at in blocks if found.units[at].ways[-1].inside],
        [UnitRegion(start=0, stop=3), UnitRegion(start=1, stop=2, save=inside[0])],
        [UnitRegion(start=1, stop=2), UnitRegion(start=1, stop=2, save=inside[0])],
    ]:
        placement = planner._candidate(regions)
        measured = session.measure(placement)
        predicted = simulate(chain, regions)
        assert measured.flops is not None
        assert measured.equality is not None
        assert measured.equality.gradients == "bitwise"
        assert predicted.cost == measured.flops.recompute
        # Random states that regions inside others keep are 5 KB each, and not part of a schedule.
        assert abs(predicted.peak_bytes - measured.memory.peak_bytes) <= 6 * found.region_bytes, placement


def test_a_plan_goes_below_what_regions_over_whole_blocks_reach(opened: tuple[Session, Profile]) -> None:
    session, found = opened
    whole = Profile(
        units=tuple(
            type(unit)(**{**vars(unit), "ways": tuple(way for way in unit.ways if not way.inside)})
            for unit in found.units
        ),
        tensor_bytes=found.tensor_bytes,
        tensor_gradient_bytes=found.tensor_gradient_bytes,
        region_bytes=found.region_bytes,
    )
    goal = parse_goal("frontier:1/2")
    closed, open_ = Planner(session, CPU, whole).plan(goal), Planner(session, CPU, found).plan(goal)
    assert open_.facts.measured_peak_bytes < 0.8 * closed.facts.measured_peak_bytes


def test_the_calls_of_one_module_are_regions_alike() -> None:
    session = session_of(Shared())
    planned = Planner(session, CPU).plan(parse_goal("frontier:1/2"))
    found = session.measure(planned.placement)
    assert found.equality is not None
    assert found.equality.gradients == "bitwise"
    each = session.peak_bytes(parse_strategy("modules:block").resolve(outline(session.workload.module)))
    assert found.memory.peak_bytes == planned.facts.measured_peak_bytes <= each < (session.plain_peak_bytes or 0)


def test_a_unit_that_reads_what_it_writes_is_no_region_and_no_plan_changes_training() -> None:
    session = session_of(nn.Sequential(*(Codebook() if at == 1 else Wide() for at in range(4))))
    planner = Planner(session, CPU)
    assert "changes" in planner.profile.units[1].refusals["nothing"]
    for goal in ("frontier:1/3", "frontier:2/3"):
        found = session.measure(planner.plan(parse_goal(goal)).placement)
        assert found.equality is not None
        assert (found.equality.gradients, found.equality.buffers) == ("bitwise", "equal")


def test_a_placement_that_trains_another_way_is_no_plan_though_its_units_say_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = session_of(nn.Sequential(*(Wide() for _ in range(3))))
    monkeypatch.setattr(Planner, "_training_changed_by", lambda _self, placement: "no" if placement.regions else "")
    planned = Planner(session, CPU).plan(parse_goal("frontier:1/2"))
    assert planned.placement.regions == ()


def test_a_counter_that_nothing_reads_counts_once_in_a_plan() -> None:
    session = session_of(nn.Sequential(*(Counting() for _ in range(4))))
    planned = Planner(session, CPU).plan(parse_goal("frontier:1/2"))
    assert {region.batch_norm for region in planned.placement.regions} == {"once"}
    found = session.measure(planned.placement)
    assert found.equality is not None
    assert (found.equality.gradients, found.equality.buffers) == ("bitwise", "equal")


class Overwriting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(0.5)


def test_what_changes_its_input_is_inside_a_region_that_begins_before_it() -> None:
    blocks = [module for _ in range(4) for module in (nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), Overwriting())]
    session = session_of(nn.Sequential(*blocks))
    planner = Planner(session, CPU)
    assert planner.profile.units[3].refusals == {BEGINNING: "it changes its input in place"}
    planned = planner.plan(parse_goal("frontier:1/2"))
    found = session.measure(planned.placement)
    assert found.equality is not None
    assert found.equality.gradients == "bitwise"
    assert any(not unit.begins for unit in planner.profile.units)
    assert planned.facts.measured_peak_bytes < 0.8 * (session.plain_peak_bytes or 0)


class Differentiating(nn.Module):
    """Takes a gradient of its input in its forward, which nothing cut out of the graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Wide() for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        y = self.blocks(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y.square().mean() + slope.square().mean()


def test_a_model_that_cannot_be_profiled_has_its_placements_by_hand() -> None:
    session = session_of(Differentiating())
    planner = Planner(session, CPU)
    planned = planner.plan(parse_goal("frontier:1/2"))
    assert planned.facts.by_hand
    assert planned.facts.predicted_peak_bytes is None
    least = min([session.plain_peak_bytes or 0, *(peak for _, peak in planner._by_hand())])
    assert planned.facts.measured_peak_bytes == least
