"""The package ckptplan on our measures: it chooses blocks, and what it leaves out of a budget is told in a sentence."""

import sys

import pytest

from rematbench.errors import PlacementError
from rematbench.placement.registry import parse_goal
from rematbench.planner.ckptplan import regions_by_ckptplan
from rematbench.planner.profile import Profile, UnitProfile, Way

KEPT = (400, 100, 300, 200, 0)
"""Of four blocks, and of a loss that no region may cover. Each also keeps its input, which a region would keep too."""


def profile() -> Profile:
    units = [
        UnitProfile(
            path=f"blocks.{at}",
            inputs=frozenset({at}),
            outputs=frozenset({at + 1}),
            ways=(
                Way(
                    save="everything",
                    saved_bytes=size,
                    saved=frozenset({at}),
                    forward_peak_bytes=size,
                    backward_peak_bytes=size,
                ),
            ),
            forward_bytes=size,
            forward_s=1.0,
            forward_flops=1,
            rerun_s=1.0,
            rerun_flops=1,
            parameter_gradient_bytes=0,
            can_be_region=at < 4,
        )
        for at, size in enumerate(KEPT)
    ]
    return Profile(units=tuple(units), tensor_bytes=(50,) * 6, tensor_gradient_bytes=(50,) * 6, region_bytes=0)


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [("100%", []), ("60%", [0]), ("30%", [0, 2]), ("300B", [0, 2]), ("299B", [0, 1, 2]), ("0%", [0, 1, 2, 3])],
)
def test_it_takes_the_fewest_blocks_of_equal_cost_that_leave_no_more_than_the_budget(
    budget: str, chosen: list[int]
) -> None:
    pytest.importorskip("ckptplan")
    found = regions_by_ckptplan(parse_goal(f"ckptplan:{budget}"), profile())
    assert [(region.start, region.stop, region.save) for region in found] == [(at, at + 1, "nothing") for at in chosen]


def test_without_the_package_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ckptplan", None)
    with pytest.raises(PlacementError, match=r"ckptplan is not installed: pip install 'rematbench\[peers\]'"):
        regions_by_ckptplan(parse_goal("ckptplan:50%"), profile())
