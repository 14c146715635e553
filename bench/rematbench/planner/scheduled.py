"""A solver's schedule of units as a placement of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from rematbench.placement.paths import RegionPath
from rematbench.placement.placement import Placement, Region
from rematbench.planner.profile import Profile, region_of
from rematbench.solver import schedule


def placement_of(
    name: str,
    profile: Profile,
    regions: Iterable[schedule.UnitRegion],
    batch_norm: Literal["as-is", "once"] = "as-is",
    fingerprint: str | None = None,
) -> Placement:
    """Write every region as the path of its block, as a slice of the chain of its blocks, or as regions inside it."""
    written = [made for region in regions for made in _written(profile, region, batch_norm)]
    # The calls of one module are one region of the placement.
    return Placement(name=name, regions=tuple(dict.fromkeys(written)), fingerprint=fingerprint)


def _written(profile: Profile, region: schedule.UnitRegion, batch_norm: Literal["as-is", "once"]) -> Iterator[Region]:
    first, last = profile.units[region.start], profile.units[region.stop - 1]
    inside = next((way.inside for way in first.ways if way.save == region.save), ())
    if inside:
        for inner in inside:
            path = RegionPath.of_module(first.path).below(RegionPath(inner.path))
            yield inner.model_copy(update={"path": path, "batch_norm": batch_norm})
    elif first.chain is None:
        yield region_of(RegionPath.of_module(first.path), region.save, batch_norm)
    else:
        blocks = RegionPath.of_module(first.chain).over(first.position, last.position + 1)
        yield region_of(blocks, region.save, batch_norm)
