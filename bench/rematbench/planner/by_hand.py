"""The placements that people try by hand: what a plan is held to, and what there is where no schedule of units fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from rematbench.errors import PlacementError
from rematbench.placement.outline import Outline
from rematbench.placement.placement import Placement
from rematbench.placement.registry import parse_strategy
from rematbench.placing.sites import Site, find_sites
from rematbench.solver.schedule import UnitRegion

STRATEGIES = ("each", "each-but-last", "sqrt", "segments:2", "nested:2")


def by_hand(outline: Outline, options: Mapping[str, str]) -> Iterator[Placement]:
    """Yield those that the model has the chains for, with these options on every region."""
    for text in STRATEGIES:
        try:
            placement = parse_strategy(text).resolve(outline)
        except PlacementError:
            continue
        regions = tuple(region.model_copy(update=dict(options)) for region in placement.regions)
        yield placement.model_copy(update={"regions": regions})


def in_units(placement: Placement, model: nn.Module, units: Mapping[str, int]) -> tuple[UnitRegion, ...] | None:
    """Write a placement's regions as ranges of units, by their paths; None where one covers something else."""

    def regions(sites: list[Site]) -> Iterator[UnitRegion]:
        for site in sites:
            found = [units[name] for name in site.names]
            if found != list(range(found[0], found[0] + len(found))):
                raise KeyError(site.names[0])
            yield UnitRegion(start=found[0], stop=found[-1] + 1, save=site.region.save)
            yield from regions(site.inner)

    try:
        return tuple(regions(find_sites(model, placement)))
    except (KeyError, PlacementError):
        return None
