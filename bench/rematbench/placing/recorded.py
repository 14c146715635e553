"""One forward of a model as plain data: which modules were called, in what order, on which tensors.

What strategies act on is what a step really does: a list of modules says neither that they run one after the other nor
that they run at all. Nothing that is recorded keeps a tensor alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from rematbench.placing.calls import Arguments, Call, continues, expected_next, versions
from rematbench.placing.containers import every_module, is_chain, is_compiled
from rematbench.placing.placeholder import may_return_the_same, only_asks
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.torch_internals import StorageReference, children_of, has_hooks, pytree, write_count
from rematbench.workload.devices import RandomState, random_state
from rematbench.workload.step import Workload, batch_tensors, forward_loss


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A tensor that went into a call or came out of it.

    Attributes:
        storage: number of the memory it lies on, among those of the recording; None where it has none (sparse tensors).
        bytes: of the tensor; views may be smaller than their storage.
        shape, dtype: of the tensor.
        handed: of a result, whether it is one of the arguments, the very same tensor.
    """

    storage: int | None
    bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    handed: bool = False


@dataclass(frozen=True, kw_only=True)
class ModuleCall:
    """One call of a module's forward.

    Attributes:
        number: of the call, from 0, in the order they began.
        path: the module's first path; the model itself is `""`.
        occurrence: which call of this module it is, from 0.
        parent: number of the call that made it; None for the model's own.
        begin, end: ticks of the recording's clock, which moves on with every beginning and end of a call.
        inputs, outputs: the tensors among the arguments and in the result, in their order.
        further: storages of the arguments besides the first.
        changed: whether a tensor among its arguments had been written to when it returned.
        hooks: whether the module has hooks of its own.
        grad: whether gradients were enabled.
        container: path of the container that the module is a child of, None where its parent is none.
        position: among the container's children, from 0; -1 where there is none.
        follows: whether it continues the call right before it in the same loop, as regions of several blocks assume:
            of the child before it, with what that returned and otherwise the same arguments, and nothing random drawn
            in between. What else uses the values in between is in `Recording.uses`.
    """

    number: int
    path: str
    occurrence: int
    parent: int | None
    begin: int
    end: int
    inputs: tuple[Crossing, ...]
    outputs: tuple[Crossing, ...]
    further: frozenset[int]
    changed: bool
    hooks: bool
    grad: bool
    container: str | None
    position: int
    follows: bool

    @property
    def taken(self) -> frozenset[int]:
        """Storages of its arguments."""
        return frozenset(tensor.storage for tensor in self.inputs if tensor.storage is not None)

    @property
    def made(self) -> frozenset[int]:
        """Storages of its result."""
        return frozenset(tensor.storage for tensor in self.outputs if tensor.storage is not None)


@dataclass(frozen=True, kw_only=True)
class Use:
    """A function of torch that worked on a tensor: not one that asked for its shape, or passed it on.

    Attributes:
        storage: that the tensor lies on.
        tick: when; between the ticks of the calls' beginnings and ends.
        call: number of the innermost call at that time; None outside the model, as in the loss.
        writes: whether the tensor was written to in place.
    """

    storage: int
    tick: int
    call: int | None
    writes: bool


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one forward and its loss did, module by module.

    Attributes:
        calls: in the order they began; a call's number is its index.
        storage_bytes: size of each storage, by number.
        static: storages that were there before: parameters, buffers, batch.
        uses: in order; of static storages only those that write. What the model returns is used at the end.
    """

    calls: tuple[ModuleCall, ...]
    storage_bytes: tuple[int, ...]
    static: frozenset[int]
    uses: tuple[Use, ...]

    def inside(self, call: int | None, ancestor: int) -> bool:
        """Tell whether a call is another, or was made within it."""
        while call is not None and call != ancestor:
            call = self.calls[call].parent
        return call == ancestor


def record(workload: Workload, device: torch.device) -> Recording:
    """Run one forward and the loss, without a placement in force, and take down every call of a module.

    The model is left as it was but for what a forward changes in it (buffers, random state, attributes): the caller
    puts that back. Of a model that runs through `torch.compile` nothing is recorded: its modules are no calls any more.
    """
    model = workload.module
    recorder = _Recorder(model, device)
    recorder.static([*model.parameters(), *model.buffers(), *batch_tensors(workload.batch).values()])
    if not is_compiled(model):
        with shadowed(every_module(model), recorder.around), recorder.watching():
            output, loss = forward_loss(workload)
            recorder.used(pytree.tree_leaves([output, loss]))
    return recorder.recording()


@dataclass(kw_only=True)
class _Open:
    """A call that has not returned, with what the last call made in it left for the next one to be held against."""

    number: int
    last: _Last | None = None


@dataclass(kw_only=True)
class _Last:
    """What the call that a loop made last lets expect: where the block of the next one stands, and its arguments."""

    place: tuple[str, int]
    expected: Call
    random: RandomState


class _Recorder:
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._modules = dict(model.named_modules())
        self._places = _places(model)
        self._references: dict[int, tuple[int, StorageReference]] = {}
        self._bytes: list[int] = []
        self._static: frozenset[int] = frozenset()
        self._calls: list[ModuleCall] = []
        self._occurrences: dict[str, int] = {}
        self._uses: list[Use] = []
        self._written: dict[int, int] = {}
        self._stack: list[_Open] = []
        self._top = _Open(number=-1)
        self._tick = 0
        self.watches = True

    def static(self, tensors: Sequence[torch.Tensor]) -> None:
        self._static = frozenset(self._storages(tensors))

    def recording(self) -> Recording:
        return Recording(
            calls=tuple(self._calls),
            storage_bytes=tuple(self._bytes),
            static=self._static,
            uses=tuple(dict.fromkeys(self._uses)),
        )

    def around(self, path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            return self._called(path, forward, (args, kwargs))

        return run

    def watching(self) -> _Watch:
        """Return a mode that takes down which tensors functions of torch work on."""
        return _Watch(self)

    def used(self, tensors: Sequence[Any], *, writes: bool = False) -> None:
        """Take down that something worked on the tensors among these."""
        self._note(tensors, self._stack[-1].number if self._stack else None, writes=writes)

    def _note(self, tensors: Sequence[Any], call: int | None, *, writes: bool) -> None:
        for storage in self._storages(tensors):
            if writes or storage not in self._static:
                self._uses.append(Use(storage=storage, tick=self._tick, call=call, writes=writes))
                if writes:
                    self._written[storage] = self._tick

    def _saw_write(self, tensor: torch.Tensor, call: int) -> bool:
        """Tell whether who wrote to a tensor during a call is known; code that is not Python's is not seen."""
        number = self._number(tensor)
        return number is not None and self._written.get(number, -1) >= self._calls[call].begin

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """Do something of our own, which is no use that the model makes of its tensors."""
        self.watches = False
        try:
            yield
        finally:
            self.watches = True

    def _called(self, path: str, forward: Forward, arguments: Arguments) -> Any:
        number, given = len(self._calls), pytree.tree_leaves(arguments)
        parent = self._stack[-1] if self._stack else self._top
        with self._unwatched():
            self._calls.append(self._begun(number, path, parent, arguments))
            before = versions(arguments)
        self._stack.append(_Open(number=number))
        try:
            result = forward(*arguments[0], **arguments[1])
        finally:
            self._stack.pop()
            # Of a call that is broken off, as by an exception that the model catches, no more than this is known.
            self._calls[number] = replace(self._calls[number], end=self._next_tick())
        with self._unwatched():
            ours = {id(leaf) for leaf in given}
            written = [tensor for tensor, version in before if write_count(tensor) != version]
            self._note([tensor for tensor in written if not self._saw_write(tensor, number)], number, writes=True)
            call = self._calls[number] = replace(
                self._calls[number],
                outputs=self._crossings(pytree.tree_leaves(result), ours),
                changed=bool(written),
            )
            parent.last = self._last(call, arguments, result)
        return result

    def _begun(self, number: int, path: str, parent: _Open, arguments: Arguments) -> ModuleCall:
        last, parent.last = parent.last, None
        container, position = self._places.get(path, (None, -1))
        occurrence = self._occurrences[path] = self._occurrences.get(path, -1) + 1
        begin = self._next_tick()
        return ModuleCall(
            number=number,
            path=path,
            occurrence=occurrence,
            parent=parent.number if parent is not self._top else None,
            begin=begin,
            end=begin,
            inputs=self._crossings(pytree.tree_leaves(arguments)),
            outputs=(),
            further=frozenset(self._storages(pytree.tree_leaves(Call.of(arguments).rest))),
            changed=False,
            hooks=has_hooks(self._modules[path]),
            grad=torch.is_grad_enabled(),
            container=container,
            position=position,
            follows=self._follows(last, container, position, arguments),
        )

    def _last(self, call: ModuleCall, arguments: Arguments, result: Any) -> _Last | None:
        if call.container is None:
            return None
        sequential = isinstance(self._modules[call.container], nn.Sequential)
        expected = expected_next(Call.of(arguments), result, sequential=sequential)
        if expected is None:
            return None
        place = call.container, call.position + 1
        return _Last(place=place, expected=expected, random=random_state(self._device))

    def _follows(self, last: _Last | None, container: str | None, position: int, arguments: Arguments) -> bool:
        if last is None or (container, position) != last.place or not continues(last.expected, arguments):
            return False
        # Inside a region the later block would run before what is drawn in between; and a loop that draws may leave
        # a block out in another step.
        now = random_state(self._device)
        return all(torch.equal(state, last.random[name]) for name, state in now.items() if name in last.random)

    def _next_tick(self) -> int:
        self._tick += 1
        return self._tick

    def _crossings(self, leaves: Sequence[Any], handed: set[int] | None = None) -> tuple[Crossing, ...]:
        return tuple(
            Crossing(
                storage=self._number(leaf),
                bytes=leaf.nbytes if leaf.layout == torch.strided else 0,
                shape=tuple(leaf.shape),
                dtype=leaf.dtype,
                handed=handed is not None and id(leaf) in handed,
            )
            for leaf in leaves
            if isinstance(leaf, torch.Tensor)
        )

    def _storages(self, leaves: Sequence[Any]) -> Iterator[int]:
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and (number := self._number(leaf)) is not None:
                yield number

    def _number(self, tensor: torch.Tensor) -> int | None:
        if tensor.layout != torch.strided:
            return None
        try:
            reference = StorageReference(tensor)
        except RuntimeError:  # a tensor of a kind of its own, such as those of `torch.func`
            return None
        # The reference is kept: a forward frees values as it goes, and a later one would get the key of one that is
        # gone.
        if reference.key not in self._references:
            self._references[reference.key] = len(self._bytes), reference
            self._bytes.append(tensor.untyped_storage().nbytes())
        return self._references[reference.key][0]


class _Watch(TorchFunctionMode):
    """Sees every function of torch that Python calls, and what it is given; what it calls in turn it does not see.

    A dispatch mode would see operators instead, and torch refuses some under one.
    """

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], _types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if not self._recorder.watches or only_asks(func):
            return func(*args, **(kwargs or {}))
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        before = versions(given)
        result = func(*args, **(kwargs or {}))
        written = [tensor for tensor, version in before if write_count(tensor) != version]
        if written:
            self._recorder.used(written, writes=True)
        if not (may_return_the_same(func) and any(result is tensor for tensor in given[:1])):
            self._recorder.used(given)
        return result


def _places(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Return for each child of a container, by its first path, where it stands: the container's path and a position."""
    names = {id(module): path for path, module in reversed(list(model.named_modules()))}
    places: dict[str, tuple[str, int]] = {}
    for path, module in model.named_modules():
        for position, (_, child) in enumerate(children_of(module) if is_chain(module) else ()):
            places.setdefault(names[id(child)], (path, position))
    return places
