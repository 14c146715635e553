"""The parts of a model that its memory is told by: the blocks of its chains, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from rematbench.errors import PlacementError, unknown
from rematbench.placing.containers import every_module, has_forward, is_compiled
from rematbench.placing.outline import outline
from rematbench.placing.shadowing import Forward, shadowed
from rematbench.torch_internals import children_of

Mark = Callable[[str], AbstractContextManager[Any]]


def parts(model: nn.Module, at: str | None = None) -> dict[str, nn.Module]:
    """Return the smallest modules that no chain is cut inside of, by path: blocks, and what has no chain in it.

    The blocks are those of the outermost chains, which strategies act on, or of the chain `at`. A model without chains
    is cut into its children.

    Raises:
        PlacementError: there is no chain of that path.
    """
    found = outline(model)
    if at is not None and at not in (chain.path for chain in found.chains):
        raise PlacementError(unknown("chain", at, (chain.path for chain in found.chains)))
    chains = {chain.path for chain in found.outermost} or {""} if at is None else {at}
    cut = {path: module for path, module in _parts("", model, chains, set()) if has_forward(module)}
    return cut or {"": model}


def _parts(path: str, module: nn.Module, chains: set[str], seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    inside = any(chain == path or chain.startswith(f"{path}." if path else "") for chain in chains)
    if not inside:
        yield path, module
        return
    for name, child in children_of(module):
        child_path = f"{path}.{name}" if path else name
        if path in chains:
            yield child_path, child
        else:
            yield from _parts(child_path, child, chains, seen)


def wholes(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parts and every module around them that has a forward of its own, the outermost first."""
    inner = parts(model)
    around = {name for path in inner for name in _ancestors(path)}
    modules = dict(model.named_modules(remove_duplicate=False))
    return {path: modules[path] for path in modules if path in inner or (path in around and has_forward(modules[path]))}


def _ancestors(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


@contextmanager
def marked(model: nn.Module, mark: Mark, *, every: bool = False) -> Iterator[None]:
    """Run every call of a part, and of a module around parts, inside `mark(path)`; undone on leaving.

    With `every`, calls of modules inside parts too. Entered before a placement is applied, it marks what the placement
    recomputes as well; entered after, the calls of regions from outside. A compiled model is left alone.
    """
    # Its parts are no calls any more, and what stands in front of them would be compiled in.
    modules = {} if is_compiled(model) else every_module(model) if every else wholes(model)

    def around(path: str, forward: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            with mark(path):
                return forward(*args, **kwargs)

        return run

    with shadowed(modules, around):
        yield
