"""What the tests of a placement in force have in common: models that run blocks, a seeded step, and what it leaves."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rematbench.placement.placement import Placement, Region
from rematbench.torch_internals import pytree

WIDTH = 4


class Looped(nn.Module):
    """Blocks in a list, run by the loop it is given; by default one after the other."""

    def __init__(self, blocks: Iterable[nn.Module], loop: Callable[[Any, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.loop = loop

    def forward(self, x: Tensor) -> Any:
        if self.loop is not None:
            return self.loop(self.blocks, x)
        for block in self.blocks:
            x = block(x)
        return x


def placement(*regions: str | Region, **options: Any) -> Placement:
    """A placement of these regions; options are for those that are given as paths."""
    made = (region if isinstance(region, Region) else Region(path=region, **options) for region in regions)
    return Placement(name="test", regions=tuple(made))


def step(
    model: nn.Module,
    call: Callable[[nn.Module, Tensor], Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    from_batch: bool = False,
) -> list[Tensor]:
    """Return loss, gradients and the random state afterwards of a step on a seeded batch.

    The loss is of every tensor in the output; `from_batch` asks for the gradient of the batch, too.
    """
    torch.manual_seed(1)
    model.zero_grad()
    x = torch.randn(3, WIDTH, dtype=dtype, requires_grad=from_batch)
    output = call(model, x) if call else model(x)
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    loss = torch.stack([leaf.float().square().sum() for leaf in leaves]).sum()
    loss.backward()
    of_batch = [x.grad] if x.grad is not None else []
    return [loss.detach(), *of_batch, *gradients(model), torch.get_rng_state()]


def gradients(model: nn.Module) -> list[Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))
