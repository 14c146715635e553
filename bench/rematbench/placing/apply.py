"""Apply a placement to one model instance, and undo it.

Each region replaces the `forward` of its members as an instance attribute, so parameter names, `state_dict` and the
hooks around a member stay what they were, and no model needs rewriting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import CheckpointError

from rematbench.errors import PlacementError
from rematbench.placement.fingerprint import difference
from rematbench.placement.placement import FILE_ENDINGS, Placement
from rematbench.placement.registry import Answer, parse_strategy, placed_by
from rematbench.placing.compiling import compiled_call
from rematbench.placing.outline import outline
from rematbench.placing.region import RegionRun
from rematbench.placing.shadowing import Forward, Shadows
from rematbench.placing.sites import covered_modules, find_sites
from rematbench.torch_internals import compiled_call_of, set_compiled_call


class Handle:
    """A placement in force; `remove()` restores the model exactly, and does nothing the second time.

    Attributes:
        blocks: paths of the modules that are recomputed, outermost only.
        regions: the regions at work.
    """

    def __init__(self, blocks: tuple[str, ...], regions: tuple[RegionRun, ...] = ()) -> None:
        self.blocks = blocks
        self.regions = regions
        self._shadows = Shadows()
        self._compiled: tuple[nn.Module, Forward | None] | None = None

    def shadow(self, module: nn.Module, forward: Forward) -> None:
        """Put a region's forward in front of the module's own."""
        self._shadows.put(module, forward, compiled=False)

    def compile(self, model: nn.Module, call: Forward) -> None:
        """Put a compiled call in the place of the model's own, as `Module.compile` does."""
        self._compiled = model, compiled_call_of(model)
        set_compiled_call(model, call)

    def remove(self) -> None:
        """Give every member its own forward back, last replaced first, and keep nothing of a step broken off."""
        for region in self.regions:
            region.forget()
        self._shadows.remove()
        if self._compiled is not None:
            model, call = self._compiled
            set_compiled_call(model, call)
            self._compiled = None


def apply(model: nn.Module, placement: Placement | str | Callable[..., Answer]) -> Handle:
    """Put a placement in force on this instance until `Handle.remove`.

    A copy of the model, by `deepcopy` or pickle, is one with nothing applied.

    Args:
        placement: one made or loaded; a strategy such as `each`, or a placement file's path; or a function of the
            model's outline that returns region paths, regions or a placement.

    Raises:
        PlacementError: a region matches nothing, overlaps another, or cannot be built, or the placement was made for
            another model; the model is then untouched.
    """
    placement = _resolved(placement, model)
    _refuse_other_model(placement, model)
    sites = find_sites(model, placement)
    handle = Handle(covered_modules(sites), tuple(RegionRun(site) for site in sites))
    for site, region in zip(sites, handle.regions, strict=True):
        for position, member in enumerate(site.members):
            handle.shadow(member, region.forward_of(position))
    if placement.compile_budget is not None:
        handle.compile(model, compiled_call(model, placement.compile_budget))
    return handle


def _resolved(placement: Placement | str | Callable[..., Answer], model: nn.Module) -> Placement:
    if isinstance(placement, Placement):
        return placement
    if not isinstance(placement, str):
        return placed_by(placement, outline(model))
    if placement.endswith(FILE_ENDINGS):
        return Placement.load(placement)
    return parse_strategy(placement).resolve(outline(model))


def _refuse_other_model(placement: Placement, model: nn.Module) -> None:
    if placement.fingerprint is None:
        return
    problem = difference(placement.fingerprint, outline(model).fingerprint)
    if problem is not None:
        raise PlacementError(
            f"placement {placement.name!r} was made for another model ({problem}): make it anew, or take its "
            f"fingerprint away to use it as it is"
        )


@contextmanager
def applied(model: nn.Module, placement: Placement | str | Callable[..., Answer]) -> Iterator[Handle]:
    """Hold what `apply` takes in force for the length of a `with` block.

    Raises:
        PlacementError: as `apply`; or what torch finds out in backward only, that a region cannot be recomputed.
    """
    handle = apply(model, placement)
    try:
        yield handle
    except RuntimeError as error:
        problem = _explained(error, handle)
        if problem is None:
            raise
        raise problem from error
    finally:
        handle.remove()


def _explained(error: RuntimeError, handle: Handle) -> PlacementError | None:
    """Return what an error that torch raised in backward says about a region, None where it is about none."""
    deepest = max((region.depth for region in handle.regions), default=0)
    if isinstance(error, RecursionError) and deepest > 1:
        return PlacementError(
            f"regions nest {deepest} deep and each runs inside the one around it: Python's stack has no room for that "
            f"around these blocks; leave some out"
        )
    last = max(handle.regions, key=lambda region: region.recomputed, default=None)
    if isinstance(error, CheckpointError) and last is not None and last.recomputed:
        return PlacementError(
            f"{last.title} did other things when it was recomputed than in its forward, so it depends on something "
            f"that has changed in between (a cache it writes to, a counter, a random choice of its own): leave it out"
        )
    changed = next((region for region in handle.regions if region.read_what_changed()), None)
    if changed is not None and "modified by an inplace operation" in str(error):
        return PlacementError(
            f"what was given to {changed.title} has been changed in place since, and it would be recomputed from the "
            f"changed value: change a copy, or end the region after the change"
        )
    return None
