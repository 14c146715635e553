"""A solver's schedule of units as a placement of modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rematbench.placement.paths import RegionPath
from rematbench.placement.placement import Placement
from rematbench.planner.profile import Profile, region_of
from rematbench.solver import schedule


def placement_of(
    name: str,
    profile: Profile,
    regions: Iterable[schedule.UnitRegion],
    batch_norm: Literal["as-is", "once"] = "as-is",
    fingerprint: str | None = None,
) -> Placement:
    """Write every region as the path of its block, or as a slice of the chain that its blocks are of."""
    written = [region_of(_path(profile, region), region.save, batch_norm) for region in regions]
    return Placement(name=name, regions=tuple(written), fingerprint=fingerprint)


def _path(profile: Profile, region: schedule.UnitRegion) -> RegionPath:
    first, last = profile.units[region.start], profile.units[region.stop - 1]
    if first.chain is None:
        return RegionPath.of_module(first.path)
    return RegionPath.of_module(first.chain).over(first.position, last.position + 1)
