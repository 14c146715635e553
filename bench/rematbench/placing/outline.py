"""Describe a model to placements: its chains of blocks, its modules and its parameters, by path.

Without a recorded step a chain is a container, taken for one whose children run one after the other. A step shows
which of them do, and what of each one region may span.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from torch import nn
from torch.nn.parameter import is_lazy

from rematbench.placement.outline import Chain, Outline
from rematbench.placing.containers import has_forward, is_chain
from rematbench.placing.recorded import ModuleCall, Recording
from rematbench.placing.runs import Runs
from rematbench.torch_internals import children_of


def outline(model: nn.Module, recorded: Recording | None = None) -> Outline:
    """Describe a model; no forward pass is run.

    Args:
        recorded: a forward of this model as `record` took it down; None takes every container for a chain.
    """
    modules = {path: type(module).__name__ for path, module in model.named_modules()}
    shapes = {path: () if is_lazy(tensor) else tuple(tensor.shape) for path, tensor in model.named_parameters()}
    calls = _Calls(model, recorded) if recorded and recorded.calls else None
    found = list(_chains(model, calls))
    outermost = [chain for chain, _, top in found if top]
    composite = [chain for chain, composite, top in found if top and composite]
    chains = tuple(chain for chain, _, _ in found)
    paths = {chain.path for chain in chains}
    return Outline(
        modules=modules,
        chains=chains,
        outermost=tuple(composite or outermost),
        parameters=shapes,
        loose=() if outermost or not calls else calls.loose(),
        unused=tuple(path for path, module in model.named_modules() if is_chain(module) and path not in paths),
        recorded=calls is not None,
    )


class _Calls:
    """A model's blocks as a recording saw them called."""

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        self._model = model
        self._runs = Runs(recording)
        self._of: dict[str, list[ModuleCall]] = defaultdict(list)
        for call in recording.calls:
            self._of[call.path].append(call)
        self._names = {module: path for path, module in model.named_modules()}

    def of_chain(self, chain: Chain, container: nn.Module) -> Chain | None:
        """Return a chain with what the step showed of it; None where none of its blocks was called."""
        blocks: dict[int, list[ModuleCall]] = {}
        plain: dict[int, str] = {}
        seen: set[nn.Module] = set()
        for position, (_, child) in enumerate(children_of(container)):
            # One that stands in several places is a block where it stands first.
            calls = [call for call in self._of[self._names[child]] if call.container == chain.path]
            if child in seen or not has_forward(child):
                continue
            seen.add(child)
            blocks[position] = calls
            if obstacle := self._runs.obstacle(calls):
                plain[position] = obstacle
        if not any(blocks.values()):
            return None
        return replace(chain, runs=self._runs.runs(blocks), plain=plain)

    def loose(self) -> tuple[str, ...]:
        """Return what the model calls itself, looking into a module that is alone, and past layers where it can."""
        module = self._model
        while True:
            called = [child for _, child in children_of(module) if self._of[self._names[child]]]
            if len(called) != 1 or not children_of(called[0]):
                break
            module = called[0]
        blocks = [child for child in called if children_of(child)] or called
        paths = dict.fromkeys(self._names[child] for child in blocks)
        return tuple(path for path in paths if self._runs.obstacle(self._of[path]) is None)


def _chains(
    module: nn.Module, calls: _Calls | None, path: str = "", top: bool = True
) -> Iterator[tuple[Chain, bool, bool]]:
    """Yield (chain, whether a block has children of its own, whether it is inside no other chain)."""
    children = children_of(module)
    chain = None
    if is_chain(module):
        chain = Chain(path=path, blocks=tuple(type(child).__name__ for _, child in children))
        chain = calls.of_chain(chain, module) if calls else chain
    if chain is not None:
        yield chain, any(list(child.children()) for _, child in children), top
    for name, child in children:
        yield from _chains(child, calls, f"{path}.{name}" if path else name, top and chain is None)
