"""What planning runs, counted: equal units once, no candidate more often than it takes to know it."""

from collections import Counter

import pytest
import torch
from tests.planner.counting import Transformer, counted
from torch import nn

from rematbench.measuring.session import PASSES, Session
from rematbench.placement.registry import parse_goal, parse_strategy
from rematbench.planner.planner import Planner, _Search
from rematbench.planner.profiling import profile
from rematbench.workload.step import Workload

CPU = torch.device("cpu")


def session_of(module: nn.Module, *batch: torch.Tensor) -> Session:
    torch.manual_seed(0)
    session = Session(Workload(module=module, batch=batch), CPU)
    session.keep_plain()
    assert session.plain_peak_bytes
    return session


def transformer(blocks: int) -> Session:
    torch.manual_seed(0)
    return session_of(Transformer(blocks, width=64), torch.randint(0, 1000, (4, 64)))


def planning(blocks: int, goal: str) -> Counter[str]:
    session = transformer(blocks)
    with counted() as runs:
        Planner(session, CPU).plan(parse_goal(goal))
    return runs


@pytest.mark.parametrize(
    ("goal", "forwards", "steps"),
    [
        ("plan-flops:60%/step", 112, 5),
        ("frontier:1/2", 112, 7),
        ("plan:60%/step", 177, 16),
    ],
)
def test_a_plan_of_twelve_blocks_runs_so_much_and_no_more(goal: str, forwards: int, steps: int) -> None:
    """A forward of a unit is a 14th of a step's, or less; of the whole steps up to 10 tell the time.

    Every unlike unit, or part of one, runs once more as far as a recomputation goes: its peak is metered with nothing
    else running, so that the run under a dispatch mode, which allocates more, cannot tell it. One whole step tells what
    is live beside the units.
    """
    runs = planning(12, goal)
    assert runs["unit forwards"] <= forwards
    assert runs["whole steps"] <= steps


def test_a_further_block_that_is_equal_is_run_once_to_know_it() -> None:
    few, many = planning(4, "plan-flops:60%/step"), planning(10, "plan-flops:60%/step")
    assert many["unit forwards"] - few["unit forwards"] == 6


def test_seconds_are_taken_for_a_goal_of_time_alone() -> None:
    planner = Planner(transformer(2), CPU)
    planner.plan(parse_goal("plan-flops:80%/step"))
    assert {unit.forward_s for unit in planner.profile.units} == {0.0}
    planner.plan(parse_goal("plan:80%/step"))
    assert min(unit.forward_s for unit in planner.profile.units) > 0
    with counted() as runs:
        planner.plan(parse_goal("plan-flops:80%/step"))
    assert runs["unit forwards"] == 0  # those that were timed know all else as well


def test_a_step_metered_in_all_its_passes_need_not_be_run_again_to_be_judged() -> None:
    session = transformer(2)
    each = parse_strategy("each").resolve(session.outline)
    session.peak_bytes(each)
    with counted() as runs:
        found = session.equality(each)
    assert not runs
    assert found is not None
    assert (found.gradients, found.loss, found.buffers, found.rng_state) == ("bitwise", "equal", "equal", "equal")
    assert found == session.measure(each).equality


def test_one_pass_is_kept_and_the_others_are_metered_when_asked_for() -> None:
    session = transformer(2)
    each = parse_strategy("each").resolve(session.outline)
    session.peak_bytes(each)
    session_again = transformer(2)
    with counted() as runs:
        one = session_again.peak_bytes(each, passes=1)
        two = session_again.peak_bytes(each)
    assert runs["metered"] == PASSES
    assert one == two == session.peak_bytes(each)


def test_where_a_point_near_the_budget_is_told_right_one_above_it_is_tried() -> None:
    predicted = [900, 990, 1005, 1006, 1007, 1008, 1009]
    asked: list[int] = []

    def measured(at: int) -> float:
        asked.append(at)
        return predicted[at]

    search = _Search(predicted, 1000, measured)
    assert (search.best(), search.tries) == (1, 2)
    # It fits although it was not told to: what comes next is tried as well.
    assert _Search(predicted, 1000, [900, 990, 999, 1000, 1007, 1008, 1009].__getitem__).best() == 3
    # None is told right, and all too high.
    assert _Search(predicted, 1000, [900, 980, 1005, 1006, 999, 1008, 1009].__getitem__).best() == 4


def test_where_points_are_told_too_low_those_above_are_not_all_tried() -> None:
    predicted = [950, 960, 990, 1005, 1006, 1007, 1008, 1009]
    search = _Search(predicted, 1000, lambda at: 1.03 * predicted[at])
    assert (search.best(), search.tries) == (1, 3)


class Branches(nn.Module):
    """The same whatever its branches are called."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Sequential(nn.Linear(8, 128), nn.GELU(), nn.Linear(128, 8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for branch in self.children():
            x = x + branch(x)
        return x


def test_units_that_do_the_same_under_other_names_have_regions_of_their_own() -> None:
    """What is inside a unit is named by its own paths."""
    blocks = [Branches("a", "b"), Branches("c", "d"), Branches("c", "d")]
    found = profile(Workload(module=nn.Sequential(nn.Linear(8, 8), *blocks), batch=(torch.randn(4096, 8),)), CPU)
    inside = [{region.path[0] for way in unit.ways for region in way.inside} for unit in found.units[1:4]]
    assert inside == [{"a"}, {"c"}, {"c"}]
