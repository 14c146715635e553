"""Put another forward in front of a module's own, and take it away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any

from torch import nn

from rematbench.torch_internals import disable_dynamo

Forward = Callable[..., Any]


class Shadows:
    """Forwards that stand in front of modules' own, as instance attributes; removed on leaving its `with` block.

    An attribute of the instance is what `Module.__call__` finds before the class's method, so hooks fire around it and
    parameter names and `state_dict` stay what they were. A forward that somebody else has put there is used and put
    back. Shadows may lie on each other as long as the last put is the first removed.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, Forward | None]] = []

    def put(self, module: nn.Module, forward: Forward, *, compiled: bool = True) -> None:
        """Have a module's calls run `forward`; if not `compiled`, code of `torch.compile` ends before it."""
        self._before.append((module, vars(module).get("forward")))
        module.forward = (StandIn if compiled else UncompiledStandIn)(forward, module.forward)

    def remove(self) -> None:
        """Give every module its own forward back, last put first; a second time does nothing."""
        while self._before:
            module, previous = self._before.pop()
            if previous is None:
                del module.forward
            else:
                module.forward = previous

    def __enter__(self) -> Shadows:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.remove()


class StandIn:
    """Stands as a module's forward; in a copy of the model, the module's own forward stands there again."""

    def __init__(self, forward: Forward, own: Forward) -> None:
        self.__wrapped__ = own  # models of transformers ask for the signature of their forward
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)

    # Of the module's own forward, `deepcopy` and pickle make that of the copy: a bound method goes with its module.
    # Returned by itself it would be taken for the name of a global; the partial calls it and nothing else.
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Forward]]:
        return partial, (self.__wrapped__,)


class UncompiledStandIn(StandIn):
    """A stand-in that compiled code ends before, to go on behind it, as with torch.utils.checkpoint itself."""

    @disable_dynamo
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)


@contextmanager
def shadowed(modules: Mapping[str, nn.Module], around: Callable[[str, Forward], Forward]) -> Iterator[None]:
    """Put `around(path, forward)` in front of every module's forward, each module once; undone on leaving."""
    seen: set[nn.Module] = set()
    with Shadows() as shadows:
        for path, module in modules.items():
            if module not in seen:
                seen.add(module)
                shadows.put(module, around(path, module.forward))
        yield
