"""A region at work: the first member's call runs all members under one checkpoint, the others hand the result on.

The loop that calls them is not ours, so every call is held to what the region assumed of it: the members are called in
their order, each with what the one before it returned and otherwise with the same arguments. What the loop is given
for the values in between cannot be used for anything else (`placing/placeholder.py`). So a loop that does more is
found the moment it does, in every step, and nothing is wrong silently.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch

from rematbench.errors import PlacementError
from rematbench.placing.calls import (
    Arguments,
    Call,
    Versions,
    argument_with,
    carried,
    first_difference,
    same,
    versions,
    written_since,
)
from rematbench.placing.checkpointing import Forward, checkpointer
from rematbench.placing.placeholder import Placeholder
from rematbench.placing.sites import Site
from rematbench.torch_internals import has_hooks, pytree

_TURNS = count(1)


class RegionRun:
    """One region of a placement in force.

    Attributes:
        names: the members' paths.
        title: how a sentence names the region.
        recomputed: when the region was last recomputed, as a number that grows over all regions; 0 for never.

    Raises:
        PlacementError: several members, and one has hooks of its own; or a save policy that is not there.
    """

    def __init__(self, site: Site, outer: RegionRun | None = None) -> None:
        self._outermost = outer or self
        self.names = site.names
        self.title = f"{site.names[0] or 'the model'}{f' to {site.names[-1]}' if len(site.names) > 1 else ''}"
        self.recomputed = 0
        self._site = site
        self._checkpointed = checkpointer(site.region, site.members)
        self._own = [member.forward for member in site.members]
        self._steps = _steps(site, self._outermost)
        self._due: _Due | None = None
        self._running = False
        self._read: list[tuple[weakref.ref[torch.Tensor], int]] = []
        _refuse_hooks(site)

    def forward_of(self, position: int) -> Forward:
        """Return what stands as the forward of a member while the region is in force."""
        return self._begin if position == 0 else partial(self._go_on, position)

    def run(self, arguments: Arguments) -> tuple[Any, list[Any]]:
        """Run the region; return the last member's result, and what to hand out for those of the members before it."""
        between: list[Any] = []
        if torch.is_grad_enabled():
            before = versions(arguments)
            output = self._checkpointed(_Pass(self, between), *arguments)
            self._refuse_changes(before, arguments)
        else:
            output = self.run_as_one(between, arguments)
        return output, _given_out(between, arguments) if between else []

    def run_as_one(self, between: list[Any], arguments: Arguments) -> Any:
        """Run the members; a member that one of them calls, or that calls itself, is not the loop's call."""
        was_running, self._outermost._running = self._outermost._running, True
        try:
            return self._run_members(between, arguments)
        finally:
            self._outermost._running = was_running

    def _run_members(self, between: list[Any], arguments: Arguments) -> Any:
        """Run the members one after the other; `between` becomes their results but the last, placeholder.

        Nothing in it holds memory: an input that a member handed through stands in it as its number.
        """
        if len(self.names) == 1:
            return self._steps[0](arguments)[0]
        call, inputs = Call.of(arguments), pytree.tree_leaves(arguments)
        results: list[Any] = []
        output: Any = None
        for number, step in enumerate(self._steps):
            if number > 0:
                results.append(self._placeholder(output, inputs, len(results)))
                arguments = call.onward(self._carried(call, output))
            try:
                output, inner = step(arguments)
            except Exception as error:
                if number > 0:
                    error.add_note(self._assumption(len(results)))
                raise
            results += [self._placeholder(result, inputs, at) for at, result in enumerate(inner, len(results))]
        between[:] = results
        return output

    def read_what_changed(self) -> bool:
        """Tell whether a tensor that the last call would be recomputed from has been written to since."""
        read = ((reference(), version) for reference, version in self._read)
        return written_since([(tensor, version) for tensor, version in read if tensor is not None]) is not None

    def forget(self) -> None:
        """Wait for no call any more: a step that was broken off would keep its values for as long as that."""
        self._due = None

    def _begin(self, *args: Any, **kwargs: Any) -> Any:
        if self._running or not torch.is_grad_enabled():
            return self._own[0](*args, **kwargs)
        self._due = None
        _refuse_hooks(self._site)
        output, between = self.run((args, kwargs))
        if not between:
            return output
        call = Call.of((args, kwargs))
        self._due = _Due(1, call, versions(call.rest), [*between, output])
        return between[0]

    def _go_on(self, position: int, *args: Any, **kwargs: Any) -> Any:
        if self._running or not torch.is_grad_enabled():
            return self._own[position](*args, **kwargs)
        due, self._due = self._due, None
        if due is None or position != due.position:
            raise PlacementError(
                f"{self.names[position]} was called out of turn: its region assumes that it follows "
                f"{self.names[position - 1]} in every step"
            )
        self._refuse_other(due, Call.of((args, kwargs), due.call.keyword))
        if position < len(self.names) - 1:
            self._due = due._replace(position=position + 1)
        return due.results[position]

    def _refuse_other(self, due: _Due, call: Call) -> None:
        name, before = self.names[due.position], self.names[due.position - 1]
        advice = f"end the region before {name}"
        if not same(call.value, self._carried(due.call, due.results[due.position - 1])):
            raise PlacementError(f"{name} did not get what {before} returned: {advice}")
        argument = first_difference(due.call.rest, call.rest)
        if argument is not None:
            raise PlacementError(f"{name} got other further arguments than {self.names[0]}, in {argument}: {advice}")
        written = written_since(due.versions)
        if written is not None:
            argument = argument_with(call.rest, written)
            raise PlacementError(f"{name} got a tensor changed in place after {before}, in {argument}: {advice}")

    def _refuse_changes(self, before: Versions, arguments: Arguments) -> None:
        if self._site.region.save == "everything":
            return
        written = written_since(before)
        if written is not None:
            raise PlacementError(
                f"{self.title} changes its input in place, in {argument_with(arguments, written)}, and would be "
                f"recomputed from the changed value: write that out of place, or begin the region after it"
            )
        self._read = [(weakref.ref(tensor), version) for tensor, version in before]

    def _assumption(self, position: int) -> str:
        name, before = self.names[position], self.names[position - 1]
        return f"{self.title} is one region: {name} got what {before} returned and else what {self.names[0]} was given"

    def _carried(self, call: Call, result: Any) -> Any:
        return result if self._site.sequential else carried(call.value, result)

    def _placeholder(self, result: Any, inputs: list[Any], position: int) -> Any:
        numbers = {id(leaf): number for number, leaf in enumerate(inputs)}
        source, consumer = self.names[position], self.names[position + 1]

        def stand_in(leaf: torch.Tensor) -> Placeholder | _Input:
            if id(leaf) in numbers:
                return _Input(numbers[id(leaf)])
            return leaf if isinstance(leaf, Placeholder) else Placeholder(leaf, source, consumer)

        return pytree.tree_map_only(torch.Tensor, stand_in, result)


class _Due(NamedTuple):
    """What a region waits for: which member's call, what it has to be like, and what each member is to return."""

    position: int
    call: Call
    versions: Versions
    results: list[Any]


@dataclass(frozen=True)
class _Input:
    """Stands for the region's input with this number among the leaves of its arguments."""

    number: int


def _given_out(between: list[Any], arguments: Arguments) -> list[Any]:
    inputs = pytree.tree_leaves(arguments)
    return pytree.tree_map_only(_Input, lambda leaf: inputs[leaf.number], between)


class _Pass:
    """One call of a region: its first run is the forward, every later one a recomputation."""

    def __init__(self, run: RegionRun, between: list[Any]) -> None:
        self._run = run
        self._between = between
        self._ran = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._ran:
            self._run.recomputed = next(_TURNS)
        self._ran = True
        return self._run.run_as_one(self._between, (args, kwargs))


def _steps(site: Site, outermost: RegionRun) -> list[Any]:
    """Return what a region runs, in order: inner regions of the same chain, and the other members' own forwards.

    Each takes the arguments of a call and returns a result, and those of the members before its last.
    """
    steps: list[Any] = []
    position = site.start
    for inner in site.inner:
        steps += _plain(site, position, inner.start)
        steps.append(RegionRun(inner, outermost).run)
        position = inner.stop
    return steps + _plain(site, position, site.stop)


def _plain(site: Site, start: int, stop: int) -> list[Any]:
    return [partial(_call, member.forward) for member in site.members[start - site.start : stop - site.start]]


def _call(forward: Forward, arguments: Arguments) -> tuple[Any, list[Any]]:
    args, kwargs = arguments
    return forward(*args, **kwargs), []


def _refuse_hooks(site: Site) -> None:
    """Refuse hooks on a member of several: they fire when its turn comes, not when it runs."""
    for name, member in zip(site.names, site.members, strict=True) if len(site.members) > 1 else ():
        if has_hooks(member):
            raise PlacementError(
                f"region {site.region.path!r}: {name} has hooks of its own, which would fire out of its turn "
                f"and without its values; give it a region of its own"
            )
