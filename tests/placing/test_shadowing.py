"""A forward in front of a module's own: called in its place, copied away, and gone afterwards."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench.placing.shadowing import Forward, Shadows, shadowed


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def adding(number: int, forward: Forward) -> Forward:
    return lambda x: forward(x) + number


def test_the_last_put_is_the_first_removed() -> None:
    module, shadows = Double(), Shadows()
    shadows.put(module, adding(1, module.forward))
    shadows.put(module, adding(10, module.forward))
    assert module(torch.tensor(1)) == 13
    shadows.remove()
    assert "forward" not in vars(module)
    assert module(torch.tensor(1)) == 2
    shadows.remove()


def test_a_forward_that_somebody_else_has_put_there_is_used_and_put_back() -> None:
    module = Double()
    module.forward = own = adding(5, module.forward)  # type: ignore[method-assign]
    with Shadows() as shadows:
        shadows.put(module, adding(1, module.forward))
        assert module(torch.tensor(1)) == 8
    assert vars(module)["forward"] is own


def test_after_an_error_they_are_gone() -> None:
    module = Double()
    with pytest.raises(KeyError), shadowed({"": module}, lambda _path, forward: adding(1, forward)):
        raise KeyError
    assert "forward" not in vars(module)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_copy_runs_its_own_forward(compiled: bool) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    module = Scaled()
    with Shadows() as shadows:
        shadows.put(module, adding(1, module.forward), compiled=compiled)
        other = copy.deepcopy(module)
        with torch.no_grad():
            module.scale.zero_()
        assert (module(torch.tensor(3)), other(torch.tensor(3))) == (1, 6)


def test_the_signature_is_seen_through() -> None:
    module = Double()
    with Shadows() as shadows:
        shadows.put(module, adding(1, module.forward))
        assert list(inspect.signature(module.forward).parameters) == ["x"]


def test_each_module_is_shadowed_once_by_its_first_path() -> None:
    module, seen = Double(), []

    def around(path: str, forward: Forward) -> Callable[..., Any]:
        seen.append(path)
        return adding(1, forward)

    with shadowed({"first": module, "again": module}, around):
        assert module(torch.tensor(1)) == 3
    assert seen == ["first"]
