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
    departure,
    next_call,
    versions,
    written_since,
)
from rematbench.placing.checkpointing import Forward, checkpointer
from rematbench.placing.placeholder import Placeholder
from rematbench.placing.sites import Site, depth
from rematbench.torch_internals import has_hooks, pytree

_RECOMPUTATIONS = count(1)


class _Expected(NamedTuple):
    """What a region waits for: which member's call, what it has to be like, and what each member is to return."""

    position: int
    call: Call
    versions: Versions
    results: list[Any]


@dataclass(frozen=True)
class _Input:
    """Stands for the region's input with this number among the leaves of its arguments."""

    number: int


class _HandedOut(NamedTuple):
    """A member's result as it is kept: its tensors as placeholders, or the numbers of the inputs that they are.

    In parts, as a structure may refuse what is no tensor (`PackedSequence` in torch/nn/utils/rnn.py does).
    """

    leaves: list[Any]
    spec: pytree.TreeSpec

    def result(self, inputs: list[Any]) -> Any:
        """Return what the loop is given for it, once the inputs are there."""
        leaves = [inputs[leaf.number] if isinstance(leaf, _Input) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


class RegionRun:
    """One region of a placement in force.

    Attributes:
        region: as written.
        names: the members' paths.
        title: how a sentence names the region.
        depth: how deep regions nest in it, itself counted.
        recomputed: when the region was last recomputed, as a number that grows over all regions; 0 for never.

    Raises:
        PlacementError: several members, and one has hooks of its own; or a save policy that is not there.
    """

    def __init__(self, site: Site, outer: RegionRun | None = None) -> None:
        self._outermost = outer or self
        self.region = site.region
        self.names = site.names
        self.title = f"{site.names[0] or 'the model'}{f' to {site.names[-1]}' if len(site.names) > 1 else ''}"
        self.depth = depth([site])
        self.recomputed = 0
        self._site = site
        self._checkpointed = checkpointer(site.region, site.members)
        self._own = [member.forward for member in site.members]
        self._steps = _steps(site, self._outermost)
        self._expected: _Expected | None = None
        self._running = False
        self._read: list[tuple[weakref.ref[torch.Tensor], int]] = []
        _refuse_hooks(site)

    def forward_of(self, position: int) -> Forward:
        """Return what stands as the forward of a member while the region is in force."""
        return self._first if position == 0 else partial(self._later, position)

    def run(self, arguments: Arguments) -> tuple[Any, list[Any]]:
        """Run the region; return the last member's result, and what to hand out for those of the members before it."""
        between: list[_HandedOut] = []
        if not torch.is_grad_enabled():  # without a backward there is nothing to recompute for
            output = self._run_members(between, arguments)
        else:
            first_run = True

            # The checkpoint keeps this function until backward (`recompute_fn` in torch/utils/checkpoint.py), so it
            # must not hold `arguments`: those are saved through autograd, where an outer region can let go of them.
            def members(*args: Any, **kwargs: Any) -> Any:
                nonlocal first_run
                if not first_run:
                    self.recomputed = next(_RECOMPUTATIONS)
                first_run = False
                return self._run_members(between, (args, kwargs))

            before = versions(arguments)
            output = self._checkpointed(members, *arguments)
            self._refuse_changes(before, arguments)
        inputs = pytree.tree_leaves(arguments) if between else []
        return output, [handed_out.result(inputs) for handed_out in between]

    def _run_members(self, between: list[_HandedOut], arguments: Arguments) -> Any:
        """Run the members one after the other; `between` becomes the results of all but the last, as placeholders.

        Nothing in it holds memory, as it lives as long as the checkpoint: an input that a member handed through stands
        in it as its number.
        """
        # A member that one of them calls, or that calls itself, is not the loop's call: it runs its own forward.
        was_running, self._outermost._running = self._outermost._running, True
        try:
            if len(self.names) == 1:
                return self._steps[0](arguments)[0]
            call, inputs = Call.of(arguments), pytree.tree_leaves(arguments)
            results: list[_HandedOut] = []
            output: Any = None
            for number, step in enumerate(self._steps):
                if number > 0:
                    results.append(self._placeholders(output, inputs, len(results)))
                    arguments = call.onward(self._handed_on(call, output))
                try:
                    output, inner = step(arguments)
                except Exception as error:
                    if number > 0:
                        name, before = self.names[len(results)], self.names[len(results) - 1]
                        error.add_note(
                            f"{self.title} is one region: {name} got what {before} returned and else what "
                            f"{self.names[0]} was given"
                        )
                    raise
                results += [self._placeholders(result, inputs, at) for at, result in enumerate(inner, len(results))]
            between[:] = results
            return output
        finally:
            self._outermost._running = was_running

    def _placeholders(self, result: Any, inputs: list[Any], position: int) -> _HandedOut:
        """Return a member's result with nothing in it that could be used but as the input of the next member."""
        numbers = {id(leaf): number for number, leaf in enumerate(inputs)}
        producer, consumer = self.names[position], self.names[position + 1]

        def placeholder(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if id(leaf) in numbers:
                return _Input(numbers[id(leaf)])
            return leaf if isinstance(leaf, Placeholder) else Placeholder(leaf, producer, consumer)

        leaves, spec = pytree.tree_flatten(result)
        return _HandedOut(list(map(placeholder, leaves)), spec)

    def _handed_on(self, call: Call, result: Any) -> Any:
        return next_call(call, result, sequential=self._site.sequential).value

    def read_what_changed(self) -> bool:
        """Tell whether a tensor that the last call would be recomputed from has been written to since."""
        read = ((reference(), version) for reference, version in self._read)
        return written_since([(tensor, version) for tensor, version in read if tensor is not None]) is not None

    def forget(self) -> None:
        """Wait for no call any more: a step that was broken off would keep its values for as long as that."""
        self._expected = None

    def _first(self, *args: Any, **kwargs: Any) -> Any:
        """Take the loop's call of the first member: run the region."""
        if self._running or not torch.is_grad_enabled():
            return self._own[0](*args, **kwargs)
        self._expected = None
        _refuse_hooks(self._site)
        output, between = self.run((args, kwargs))
        if not between:
            return output
        call = Call.of((args, kwargs))
        self._expected = _Expected(1, call, versions(call.rest), [*between, output])
        return between[0]

    def _later(self, position: int, *args: Any, **kwargs: Any) -> Any:
        """Take the loop's call of a later member: hold it to what the region assumed, and return what is there."""
        if self._running or not torch.is_grad_enabled():
            return self._own[position](*args, **kwargs)
        expected, self._expected = self._expected, None
        name, before = self.names[position], self.names[position - 1]
        if expected is None or position != expected.position:
            raise PlacementError(
                f"{name} was called out of turn: its region assumes that it follows {before} in every step"
            )
        advice = f"end the region before {name}"
        call = Call.of((args, kwargs), expected.call.keyword)
        result = expected.results[position - 1]
        departed = departure(next_call(expected.call, result, sequential=self._site.sequential), call)
        if departed and departed.argument is None:
            raise PlacementError(f"{name} did not get what {before} returned: {advice}")
        if departed:
            raise PlacementError(
                f"{name} got other further arguments than {self.names[0]}, in {departed.argument}: {advice}"
            )
        # The same tensor may hold other values by now; the region has read it before the loop wrote to it.
        written = written_since(expected.versions)
        if written is not None:
            argument = argument_with(call.rest, written)
            raise PlacementError(f"{name} got a tensor changed in place after {before}, in {argument}: {advice}")
        if position < len(self.names) - 1:
            self._expected = expected._replace(position=position + 1)
        return expected.results[position]

    def _refuse_changes(self, before: Versions, arguments: Arguments) -> None:
        if self._site.region.save == "everything":
            return
        # A reentrant checkpoint would recompute from the changed value without a word, as torch takes down the version
        # of what `save_for_backward` is given after the forward (torch/csrc/autograd/python_function.cpp); the other
        # finds out, but in backward, and names no region.
        written = written_since(before)
        if written is not None:
            raise PlacementError(
                f"{self.title} changes its input in place, in {argument_with(arguments, written)}, and would be "
                f"recomputed from the changed value: write that out of place, or begin the region after it"
            )
        self._read = [(weakref.ref(tensor), version) for tensor, version in before]


def _steps(site: Site, outermost: RegionRun) -> list[Any]:
    """Return what a region runs, in order: inner regions of the same chain, and the other members' own forwards.

    Each takes the arguments of a call and returns a result, and those of the members before its last.
    """

    def own(forward: Forward, arguments: Arguments) -> tuple[Any, list[Any]]:
        args, kwargs = arguments
        return forward(*args, **kwargs), []

    steps: list[Any] = []
    position = site.start
    for inner in (*site.inner, None):
        stop = inner.start if inner else site.stop
        members = site.members[position - site.start : stop - site.start]
        steps += [partial(own, member.forward) for member in members]
        if inner:
            steps.append(RegionRun(inner, outermost).run)
            position = inner.stop
    return steps


def _refuse_hooks(site: Site) -> None:
    """Refuse hooks on a member of several: they fire when its turn comes, not when it runs."""
    for name, member in zip(site.names, site.members, strict=True) if len(site.members) > 1 else ():
        if has_hooks(member):
            raise PlacementError(
                f"region {site.region.path!r}: {name} has hooks of its own, which would fire out of its turn "
                f"and without its values; give it a region of its own"
            )
