"""A value that is handed on only: it tells its kind, and refuses everything that would read or change it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rematbench.errors import PlacementError
from rematbench.placing.placeholder import Placeholder


def value() -> Tensor:
    return torch.randn(3, 4, requires_grad=True).t() * 2


def placeholder() -> Placeholder:
    return Placeholder(value(), "blocks.0", "blocks.1")


KINDS: list[Callable[[Tensor], Any]] = [
    lambda x: x.shape,
    lambda x: (x.size(), x.size(0), len(x), x.dim(), x.ndim, x.numel(), x.nelement()),
    lambda x: (x.stride(), x.storage_offset(), x.is_contiguous(), x.layout),
    lambda x: (x.dtype, x.device, x.is_cuda, x.is_floating_point(), torch.is_floating_point(x), x.is_complex()),
    lambda x: (x.requires_grad, x.itemsize, x.nbytes, x.is_sparse, isinstance(x, Tensor), torch.is_tensor(x)),
]


@pytest.mark.parametrize("ask", KINDS)
def test_it_has_the_kind_of_the_value(ask: Callable[[Tensor], Any]) -> None:
    assert ask(placeholder()) == ask(value())


def test_it_can_be_handed_around() -> None:
    kept = placeholder()
    assert kept.to(torch.float32).to("cpu") is kept
    assert {kept: 1}[kept] == 1
    (leaf,) = torch.utils._pytree.tree_leaves(({"a": [kept]},))
    assert leaf is kept
    assert "blocks.0" in repr(kept)
    assert "blocks.0" in f"{kept}"


USES: dict[str, Callable[[Tensor], Any]] = {
    "mul": lambda x: x * 2,
    "add_": lambda x: x.add_(1),
    "cat": lambda x: torch.cat([value(), x]),
    "__getitem__": lambda x: x[0],
    "view": lambda x: x.view(12),
    "linear": lambda x: nn.Linear(3, 3)(x),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "__bool__": lambda x: bool(x),
    "tolist": lambda x: x.tolist(),
    "__array__": lambda x: np.asarray(x),
    "data_ptr": lambda x: x.data_ptr(),
    "backward": lambda x: x.backward(torch.ones(4, 3)),
    "grad": lambda x: torch.autograd.grad(value().sum(), x),
    "grad_fn": lambda x: x.grad_fn,
    "register_hook": lambda x: x.register_hook(print),
    "retain_grad": lambda x: x.retain_grad(),
    "requires_grad_": lambda x: x.requires_grad_(False),
    "attribute 'data'": lambda x: setattr(x, "data", value()),
    "attribute 'mask'": lambda x: setattr(x, "mask", 1),
    "__deepcopy__": lambda x: copy.deepcopy(x),
    "__reduce_ex__": lambda x: pickle.dumps(x),
    "_to_copy": lambda x: x.to(torch.float64),
    "clone": lambda x: x.contiguous(),
}


@pytest.mark.parametrize("name", USES)
def test_every_use_of_the_value_is_refused_and_named(name: str) -> None:
    with pytest.raises(PlacementError) as caught:
        USES[name](placeholder())
    assert str(caught.value).startswith(f"the model uses what blocks.0 returns in {name}, ")
    assert str(caught.value).endswith("end the region before blocks.1")


def test_it_holds_no_memory() -> None:
    """What a storage of this size would be refused for."""
    big = torch.empty(2**20, device="meta").expand(2**30, 2**20)
    assert Placeholder(big, "a", "b").shape == (2**30, 2**20)
