"""Goals of a planner, from their text."""

import pytest

from rematbench.errors import PlacementError
from rematbench.placement.goal import Goal
from rematbench.placement.registry import parse_goal, spread
from rematbench.suite.suite import Suite

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("plan:6GiB", Goal(name="plan:6GiB", minimise="time", budget_bytes=6 * GIB)),
        ("plan:60", Goal(name="plan:60", minimise="time", budget_bytes=60)),
        ("plan:60%", Goal(name="plan:60%", minimise="time", budget_share=0.6)),
        ("plan-flops:123/step", Goal(name="plan-flops:123/step", minimise="flops", budget_bytes=123, of_step=True)),
        ("plan:12.5%/step", Goal(name="plan:12.5%/step", minimise="time", budget_share=0.125, of_step=True)),
        ("plan-flops:=sqrt", Goal(name="plan-flops:=sqrt", minimise="flops", budget_of="sqrt")),
        ("ckptplan:60%", Goal(name="ckptplan:60%", minimise="time", budget_share=0.6)),
        ("frontier:3/8", Goal(name="frontier:3/8", minimise="flops", point=(3, 8))),
        ("plan:60%@b.0.mlp", Goal(name="plan:60%@b.0.mlp", minimise="time", budget_share=0.6, at="b.0.mlp")),
        ("frontier:3/8@", Goal(name="frontier:3/8@", minimise="flops", point=(3, 8), at="")),
    ],
)
def test_a_goal_is_read_from_its_text(text: str, goal: Goal) -> None:
    assert parse_goal(text) == goal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plan:", "write it as plan:BUDGET"),
        ("plan:much", "a budget is 6GiB, 60% or 2GiB/step"),
        ("plan:6 bananas", "a budget is 6GiB, 60% or 2GiB/step"),
        ("ckptplan:=sqrt", "a budget is 6GiB, 60% or 2GiB/step"),
        ("frontier:0/8", "frontier:3/8 for the third"),
        ("frontier:9/8", "frontier:3/8 for the third"),
        ("frontier:x", "frontier:3/8 for the third"),
        ("each", "'each' is no goal of a plan"),
        ("plan:60%+save=matmuls", "a plan chooses its regions and their options by itself"),
        ("plan:60%@blocks+save=matmuls", "a plan chooses its regions and their options by itself"),
    ],
)
def test_what_is_no_goal_is_refused(text: str, words: str) -> None:
    with pytest.raises(PlacementError) as caught:
        parse_goal(text)
    assert words in str(caught.value)


def test_a_budget_of_all_bytes_leaves_less_for_the_step() -> None:
    assert parse_goal("plan:1000").step_budget(static_bytes=300, plain_peak_bytes=None) == 700
    assert parse_goal("plan:1000/step").step_budget(static_bytes=300, plain_peak_bytes=None) == 1000
    assert parse_goal("plan:50%").step_budget(static_bytes=300, plain_peak_bytes=700) == 200
    assert parse_goal("plan:50%/step").step_budget(static_bytes=300, plain_peak_bytes=700) == 350


def test_a_share_needs_a_plain_step() -> None:
    with pytest.raises(PlacementError, match="share of the plain step"):
        parse_goal("plan:50%").step_budget(static_bytes=0, plain_peak_bytes=None)


def test_a_frontier_is_spread_into_its_points() -> None:
    assert spread("frontier:3") == ["frontier:1/3", "frontier:2/3", "frontier:3/3"]
    assert spread("frontier:2/3") == ["frontier:2/3"]
    assert spread("each") == ["each"]
    suite = Suite.model_validate({"name": "s", "placements": ["each", "frontier:2"], "models": ["plain.mlp"]})
    assert [case.name for case in suite.placements] == ["none", "each", "frontier:1/2", "frontier:2/2"]
    assert Suite.model_validate(suite.model_dump(exclude_defaults=True)) == suite
