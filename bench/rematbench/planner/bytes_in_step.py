"""What a real step has live beside its units: told by one plain step, and put where every placement has it too.

Units measured one at a time say nothing of what the model's own code does around them: what it holds while it goes on
(masks, a list of results), what it needs between two units, which gradients of a tensor with several readers are there
at a time, copies of weights that autocast keeps. None of that depends on which units are regions. So a plain step is
metered with a mark at every beginning and end of a unit, forward and backward; what is live there is held against what
the cost model makes of the same step, and the difference is written into the profile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import nn

from rematbench.measuring.session import Session
from rematbench.placement.placement import PLAIN, Placement
from rematbench.placing.containers import every_module
from rematbench.placing.parts import Mark
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.planner.profile import Profile, UnitProfile
from rematbench.solver.simulate import PlainLevel, plain_levels
from rematbench.torch_internals import pytree
from rematbench.traces.trace import AllocationTrace, Span

_FORWARD, _BACKWARD, _AFTER = "unit ", "backward of unit ", "after unit "


def metered_in_step(profile: Profile, session: Session) -> Profile:
    """Return the profile with what a plain step has live beside its units; as it was where no step tells.

    The plain step must be known to fit. Where the calls of units in that step are not those that were profiled, nothing
    is told either.
    """
    marks = _Marks([unit.path for unit in profile.units[:-1]])
    trace = session.trace(Placement(name=PLAIN), marks.during)
    if trace is None or not marks.is_whole or not {"forward", "backward"} <= trace.phases.keys():
        return profile
    # No region is there to keep a random state.
    levels = plain_levels(replace(profile, region_bytes=0).chain("flops"))
    forwards, backwards = _forwards(trace, len(levels)), _backwards(trace, len(levels))
    kept_bytes = _kept_bytes(trace, forwards, backwards)
    return _corrected(profile, levels, forwards, backwards, kept_bytes, trace.sums[trace.after("backward")])


class _Marks:
    """Marks where units begin and end, in forward and in backward, by their numbers."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._next = 0
        self._inside = False

    @property
    def is_whole(self) -> bool:
        """Whether the last step called the units in their order, and no other."""
        return self._next == len(self._paths)

    @contextmanager
    def during(self, model: nn.Module, mark: Mark) -> Iterator[None]:
        """Mark the units of every step, of which each begins with a call of the model."""
        modules = every_module(model)
        units = {path: modules[path] for path in dict.fromkeys(self._paths) if path in modules}

        def around(path: str, forward: Forward) -> Forward:
            def run(*args: Any, **kwargs: Any) -> Any:
                if self._inside or self._paths[self._next : self._next + 1] != [path]:
                    return forward(*args, **kwargs)
                number, self._next, self._inside = self._next, self._next + 1, True
                given = _gradient_nodes((args, kwargs))
                try:
                    with mark(f"{_FORWARD}{number}"):
                        result = forward(*args, **kwargs)
                finally:
                    self._inside = False
                # No reference is kept to a node: a prehook is its own, and is gone with it.
                for node in _gradient_nodes(result):
                    if not any(node is other for other in given):
                        node.register_prehook(_marking(mark, f"{_BACKWARD}{number}"))
                for node in given:
                    node.register_prehook(_marking(mark, f"{_AFTER}{number}"))
                return result

            return run

        def whole(_path: str, forward: Forward) -> Forward:
            def run(*args: Any, **kwargs: Any) -> Any:
                self._next = 0
                result = forward(*args, **kwargs)
                with mark(f"{_FORWARD}{len(self._paths)}"):  # the loss comes from here on
                    return result

            return run

        with shadowed(units, around), shadowed({"": model}, whole):
            yield


def _gradient_nodes(values: Any) -> list[Any]:
    leaves = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [leaf.grad_fn for leaf in leaves if leaf.grad_fn is not None]


def _marking(mark: Mark, name: str) -> Callable[[Any], None]:
    def hook(_gradients: Any) -> None:
        with mark(name):
            pass

    return hook


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """A unit's run in one direction, in bytes above the start of the step.

    Attributes:
        events: those of the trace in it, by their numbers.
        start_bytes, stop_bytes: live when it begins and when it is over.
        peak_bytes: the most in between.
        aside_bytes: the most between it and the unit before it in the forward: in the forward before it began, in
            backward after it was over.
    """

    events: range
    start_bytes: int
    stop_bytes: int
    peak_bytes: int
    aside_bytes: int


def _forwards(trace: AllocationTrace, count: int) -> list[_Stretch]:
    """Return the stretches of all units; the loss is the last, from the end of the model to the end of the phase."""
    phase = trace.phases["forward"]
    spans = {span.name: (span.start, span.stop) for span in trace.spans if span.is_block}
    times = [spans[f"{_FORWARD}{number}"] for number in range(count)]
    times[-1] = times[-1][0], phase.stop
    found, reached = [], phase.start
    for start, stop in times:
        moments, aside = trace.moments(start, stop), trace.moments(reached, start)
        found.append(_stretch(trace, moments, aside))
        reached = stop
    return found


def _backwards(trace: AllocationTrace, count: int) -> list[_Stretch | None]:
    """Return the stretches of the units by number; None for one that no gradient came to.

    A unit is over when what made one of its inputs begins, or another unit.
    """
    phase = trace.phases["backward"]
    inside = [span for span in trace.spans if span.is_block and phase.start <= span.start <= phase.stop]
    begun = _firsts(inside, _BACKWARD) | {count - 1: phase.start}
    over = _firsts(inside, _AFTER)
    starts = sorted([*begun.values(), phase.stop])
    found: list[_Stretch | None] = [None] * count
    for number, start in begun.items():
        following = next((time for time in starts if time > start), phase.stop)
        stop = min(over.get(number, following), following)
        found[number] = _stretch(trace, trace.moments(start, stop), trace.moments(stop, following))
    return found


def _firsts(spans: Sequence[Span], prefix: str) -> dict[int, int]:
    """Return when the first mark of each unit is, of those whose names begin so."""
    found: dict[int, int] = {}
    for span in spans:
        if span.name.startswith(prefix):
            found.setdefault(int(span.name.removeprefix(prefix)), span.start)
    return found


def _stretch(trace: AllocationTrace, moments: range, aside: range) -> _Stretch:
    return _Stretch(
        events=range(moments[0], moments[-1]),
        start_bytes=trace.sums[moments[0]],
        stop_bytes=trace.sums[moments[-1]],
        peak_bytes=max(trace.sums[at] for at in moments),
        aside_bytes=max(trace.sums[at] for at in aside),
    )


def _corrected(
    profile: Profile,
    levels: Sequence[PlainLevel],
    forwards: Sequence[_Stretch],
    backwards: Sequence[_Stretch | None],
    kept_bytes: Sequence[int],
    ended: int,
) -> Profile:
    """Write the differences between a step and its levels by the model into a profile; `ended` is live at its end.

    What a unit has kept more than by itself, and has let go of in its backward, it keeps wherever it is run plainly.
    All else is there whatever the placement.
    """
    # Where no gradient comes to a unit, nothing happens between the units around it.
    started = [each.start_bytes if each else None for each in backwards]
    live = [next((level for level in started[number::-1] if level is not None), ended) for number in range(len(levels))]
    units: list[UnitProfile] = []
    further = [ended - levels[0].end_bytes]
    kept = 0  # more than by the model, by the plain units so far
    for number, (unit, level, forward, backward, found) in enumerate(
        zip(profile.units, levels, forwards, backwards, kept_bytes, strict=True)
    ):
        more = found - _keeps_bytes(profile, unit) if backward else 0
        plain, *others = unit.ways
        needed = backward.peak_bytes - backward.start_bytes if backward else plain.backward_peak_bytes
        # What its backward needs more in its place, as gradients of other readers of its input that are there by then,
        # it needs by every way. What it needs less may be at a moment that another way does not have.
        further_needed = max(0, needed - plain.backward_peak_bytes)
        plain = replace(
            plain,
            saved_bytes=plain.saved_bytes + more,
            forward_peak_bytes=forward.peak_bytes - forward.start_bytes,
            backward_peak_bytes=needed,
        )
        others = [replace(way, backward_peak_bytes=way.backward_peak_bytes + further_needed) for way in others]
        units.append(
            replace(
                unit,
                passing_bytes=forward.start_bytes - level.forward_bytes - kept,
                before_bytes=max(0, forward.aside_bytes - level.forward_bytes - kept),
                after_bytes=max(0, backward.aside_bytes - level.held_before_bytes - kept) if backward else 0,
                ways=(plain, *others),
            )
        )
        kept += more
        further.append(live[number] - level.backward_bytes - kept)
    return replace(profile, units=tuple(units), further_bytes=tuple(further))


def _kept_bytes(
    trace: AllocationTrace, forwards: Sequence[_Stretch], backwards: Sequence[_Stretch | None]
) -> list[int]:
    """Return what each unit allocated in its forward and let go of in its backward."""
    begins = [stretch.events.start for stretch in forwards]
    kept = [0] * len(forwards)
    for life in trace.lifetimes:
        number = bisect_right(begins, life.allocated_at) - 1
        backward = backwards[number] if number >= 0 and life.allocated_at in forwards[number].events else None
        if backward and life.freed_at != inf and int(life.freed_at) in backward.events:
            kept[number] += life.size_bytes
    return kept


def _keeps_bytes(profile: Profile, unit: UnitProfile) -> int:
    """Return the same by the profile: what a unit saves of its own, and of what it returns."""
    plain = unit.ways[0]
    made = plain.saved & (unit.outputs - unit.inputs)
    return plain.saved_bytes + sum(profile.tensor_bytes[tensor] for tensor in made)
