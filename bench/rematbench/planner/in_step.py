"""What recomputing takes inside a real step, in seconds.

A unit timed by itself, over and over on what it was just given, is faster than in its place: its caches are warm, and
the memory that it needs has just been freed. So every unit that may be a region is made one, its recomputation is timed
where it happens, and their sum is held to how much longer that step takes than the plain one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import nn

from rematbench.errors import PlacementError
from rematbench.measuring.session import Session
from rematbench.placement.placement import PLAIN, Placement, Region
from rematbench.placing.apply import applied
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.planner.profile import Profile, UnitProfile
from rematbench.workload.devices import clock_for, is_accelerator

_ROUNDS = 3, 5
_STEADY = 0.03
"""The least and the most rounds; they end where the rounds agree to this share of the plain step."""

_REPEATS = 20
"""Of a step so small that its time is all overhead."""

_BELIEVED = 0.5, 2.0
"""By what the watched seconds are corrected at least and at most: a step that was disturbed says anything."""


def timed_in_step(profile: Profile, session: Session, device: torch.device, each: Placement) -> Profile:
    """Return the profile with its seconds as they are in a step of its model.

    Args:
        profile: with the seconds of each unit by itself.
        session: of the model; its plain step fits on the device, so that this one does.
        each: every unit that may be a region as a region of its own.
    """
    times = _CallTimes(clock_for(device), [unit.path for unit in profile.units])
    try:
        rounds = list(_rounds(session, each, times, device))
    except PlacementError:  # a unit that cannot be run again after all: a plan may do without it
        return profile
    rerun_s = times.rerun_s()
    watched_s = sum(rerun_s.values())
    if not watched_s:
        return profile
    region_s = _region_s(device)
    low, high = _BELIEVED
    # The clocks see forwards that run again, and nothing else that a region brings with it, such as a backward whose
    # caches are cold. By as much as the step is longer than that, every recomputation counts for more.
    factor = min(high, max(low, (median(longer for _, longer in rounds) - region_s * len(each.regions)) / watched_s))
    alone_s = sum(unit.rerun_s for unit in profile.units if unit.path in rerun_s)
    slower = factor * watched_s / max(alone_s, 1e-9)
    units = (
        _in_step(unit, factor * rerun_s[unit.path], slower) if unit.path in rerun_s else unit for unit in profile.units
    )
    return replace(profile, units=tuple(units), region_s=region_s, step_s=median(plain for plain, _ in rounds))


def _rounds(
    session: Session, each: Placement, times: _CallTimes, device: torch.device
) -> Iterator[tuple[float, float]]:
    """Yield what the plain step took, and by how much longer the other was."""
    fewest, most = _ROUNDS
    found: list[tuple[float, float]] = []
    while len(found) < fewest or (len(found) < most and not _agree(found)):
        with times.during(session.workload.module):
            each_s = session.timed_step(each)
        plain_s = session.timed_step(Placement(name=PLAIN))
        if is_accelerator(device):  # where the clocks wait for it at every call, the step watched is another one
            each_s = session.timed_step(each)
        found.append((plain_s, each_s - plain_s))
        yield found[-1]


def _agree(rounds: Sequence[tuple[float, float]]) -> bool:
    """Tell whether the middle half of the rounds lies close together."""
    longer, plain_s = sorted(longer for _, longer in rounds), median(plain for plain, _ in rounds)
    aside = len(longer) // 4
    return longer[-1 - aside] - longer[aside] <= _STEADY * plain_s


def _in_step(unit: UnitProfile, rerun_s: float, slower: float) -> UnitProfile:
    """Put the unit's seconds where it was watched; what was not is as much slower as all of them together."""
    ways = tuple(replace(way, recompute_s=slower * way.recompute_s) for way in unit.ways)
    not_rerun_s = slower * max(0.0, unit.forward_s - unit.rerun_s)
    return replace(unit, ways=ways, rerun_s=rerun_s, forward_s=rerun_s + not_rerun_s)


class _CallTimes:
    """Takes the time of every call. Where a unit is a region, the second of two in one step is its recomputation."""

    def __init__(self, clock: Callable[[], float], paths: Sequence[str]) -> None:
        self.clock = clock
        self._paths = paths
        self._step: dict[str, list[float]] = {}
        self._reruns: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def during(self, model: nn.Module) -> Iterator[None]:
        self._step = defaultdict(list)
        modules = dict(model.named_modules(remove_duplicate=False))
        with shadowed({path: modules[path] for path in self._paths if path in modules}, self._around):
            yield
        for path, calls in self._step.items():
            if len(calls) == 2:
                self._reruns[path].append(calls[1])

    def rerun_s(self) -> dict[str, float]:
        """Return the median of each unit's recomputation."""
        return {path: median(seconds) for path, seconds in self._reruns.items()}

    def _around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            try:
                return forward(*args, **kwargs)
            finally:  # a recomputation ends by an exception once it has what it needs
                self._step[path].append(self.clock() - start)

        return run


def _region_s(device: torch.device) -> float:
    """Return what a region takes that has next to nothing to run again."""
    clock = clock_for(device)
    model = nn.Sequential(nn.Sigmoid())
    x = torch.ones(1, device=device, requires_grad=True)

    def step_s(placement: Placement) -> float:
        with applied(model, placement):
            start = clock()
            model(x).backward()
            return clock() - start

    region, plain = Placement(name="each", regions=(Region(path="[0]"),)), Placement(name=PLAIN)
    return max(0.0, median(step_s(region) - step_s(plain) for _ in range(_REPEATS)))
