"""A schedule of units written as regions of modules."""

from rematbench.placement.placement import Region
from rematbench.planner.profile import Profile, UnitProfile, Way
from rematbench.planner.scheduled import placement_of
from rematbench.solver import schedule
from rematbench.solver.solve import solve


def unit(path: str, chain: str | None = None, position: int = -1, **values: object) -> UnitProfile:
    way = Way(save="everything", saved_bytes=100, forward_peak_bytes=10, backward_peak_bytes=10)
    usual = {"inputs": frozenset(), "outputs": frozenset(), "ways": (way,), "forward_bytes": 10}
    costs = {"forward_s": 1.0, "forward_flops": 5, "rerun_s": 0.5, "rerun_flops": 2, "parameter_gradient_bytes": 0}
    return UnitProfile(path=path, chain=chain, position=position, **(usual | costs | values))  # type: ignore[arg-type]


def profile_of(*units: UnitProfile) -> Profile:
    return Profile(units=units, tensor_bytes=(), tensor_gradient_bytes=(), region_bytes=0)


PROFILE = profile_of(
    unit("stem"),
    unit("body.layers.first", "body.layers", 0),
    unit("body.layers.second", "body.layers", 1, follows=True),
    unit("0", "", 0),
    unit("1", "", 1, follows=True),
)


def paths(*regions: schedule.UnitRegion) -> list[str]:
    return [region.path for region in placement_of("p", PROFILE, regions).regions]


def test_a_module_outside_chains_is_its_path() -> None:
    assert paths(schedule.UnitRegion(start=0, stop=1)) == ["stem"]


def test_blocks_are_positions_and_slices_of_their_chain_whatever_their_names() -> None:
    assert paths(schedule.UnitRegion(start=1, stop=3), schedule.UnitRegion(start=2, stop=3)) == [
        "body.layers[0:2]",
        "body.layers[1]",
    ]


def test_a_model_that_is_a_chain_has_no_name() -> None:
    assert paths(schedule.UnitRegion(start=3, stop=5)) == ["[0:2]"]


def test_what_is_saved_and_the_options_go_along() -> None:
    regions = [schedule.UnitRegion(start=0, stop=1, save="matmuls")]
    made = placement_of("p", PROFILE, regions, batch_norm="once", fingerprint="f")
    assert made.regions == (Region(path="stem", save="matmuls", batch_norm="once"),)
    assert (made.name, made.fingerprint) == ("p", "f")


def test_offloading_recomputes_nothing_and_is_a_choice_by_time_alone() -> None:
    plain = unit("stem").ways[0]
    offload = Way(save="offload", saved_bytes=1, forward_peak_bytes=10, backward_peak_bytes=10, recompute_s=0.1)
    profile = profile_of(unit("stem", ways=(plain, offload)))
    assert [choice.save for choice in profile.chain("time").units[0].choices] == ["everything", "offload"]
    assert [choice.save for choice in profile.chain("flops").units[0].choices] == ["everything"]
    (found,) = solve(profile.chain("time"), 50).regions
    made = placement_of("p", profile, [found], batch_norm="once")
    assert made.regions == (Region(path="stem", save="everything", offload=True),)


def test_the_chain_joins_what_follows_and_prices_by_the_objective() -> None:
    chain = PROFILE.chain("flops")
    assert chain.joins == (False, True, False, True)
    assert [chain.units[0].forward_cost, chain.units[0].rerun_cost] == [5.0, 2.0]
    assert [PROFILE.chain("time").units[0].forward_cost, PROFILE.chain("time").units[0].rerun_cost] == [1.0, 0.5]
    assert not profile_of(unit("a", "c", 0), unit("b", "c", 1, follows=True, between_bytes=8)).chain("time").joins[0]
