"""Networks whose intermediate activations matter: to the loss, to a hook, or to what checkpointing can save.

Shapes: B batch, F input features, W width, O outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class AuxiliaryBlock(nn.Module):
    """Linear-ReLU on a state of (x, kept), both (B, W); a keeping block puts its output in kept's place."""

    def __init__(self, width: int, *, keeps: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.relu = nn.ReLU()
        self.keeps = keeps

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, kept = state
        x = self.relu(self.linear(x))
        return x, x if self.keeps else kept

    def extra_repr(self) -> str:
        return f"keeps={self.keeps}"


class AuxiliaryNet(nn.Module):
    """A stem, a chain that keeps its middle activation, and a head, (B, F) -> (B, O), (B, W)."""

    def __init__(self, *, depth: int, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.Sequential(*(AuxiliaryBlock(width, keeps=i == depth // 2) for i in range(depth)))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x, kept = self.blocks((x, x))
        return self.head(x), kept


def auxiliary(
    *,
    depth: int = 8,
    width: int = 20,
    batch: int = 32,
    features: int = 10,
    outputs: int = 5,
    weight: float = 0.1,
) -> tuple[nn.Module, tuple[Tensor, ...], Callable[[tuple[Tensor, Tensor]], Tensor]]:
    """Returns an intermediate activation beside the output; the loss adds a term on it.

    (batch, features) -> (batch, outputs) and block depth // 2's output (batch, width). The loss is the mean
    square of the output plus `weight` times that of the intermediate.
    """

    def loss_fn(output: tuple[Tensor, Tensor]) -> Tensor:
        y, kept = output
        return y.square().mean() + weight * kept.square().mean()

    module = AuxiliaryNet(depth=depth, features=features, width=width, outputs=outputs)
    return module, (torch.randn(batch, features),), loss_fn


class HookedBlock(nn.Module):
    """Linear-ReLU whose Linear is watched by a forward hook, (B, W) -> (B, W).

    Buffers: `calls`, how often the hook fired, and `mean`, a running mean (momentum 0.1) of the Linear's
    output.
    """

    calls: Tensor
    mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.relu = nn.ReLU()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(()))
        # On the Linear: a recomputation that stops early ends inside the ReLU, before hooks on it would fire.
        self.linear.register_forward_hook(self.record)

    @torch.no_grad()
    def record(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook: count the call and move the running mean a tenth of the way to this output's."""
        self.calls += 1
        self.mean.lerp_(output.mean(), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(x))


class HookedNet(nn.Module):
    """A stem, hooked blocks and a head, (B, F) -> (B, O)."""

    def __init__(self, *, depth: int, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.Sequential(*(HookedBlock(width) for _ in range(depth)))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def hooked(
    *, depth: int = 8, width: int = 32, batch: int = 32, features: int = 10, outputs: int = 5
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A forward hook in every block records statistics into buffers, so recomputation shows in them.

    (batch, features) -> (batch, outputs). A block that is recomputed fires its hook twice a step.
    """
    module = HookedNet(depth=depth, features=features, width=width, outputs=outputs)
    return module, (torch.randn(batch, features),)


class ActivationOnlyNet(nn.Module):
    """Linear-ReLU-Linear-ReLU-Linear as one chain of five layers, (B, 10) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 500), nn.ReLU(), nn.Linear(500, 1000), nn.ReLU(), nn.Linear(1000, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def activation_only(*, batch: int = 4096) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Three Linear layers with ReLUs between: checkpoint only the ReLUs and it holds more, not less.

    (batch, 10) -> (batch, 5). A ReLU keeps its output, which the next Linear keeps anyway; a region around
    the ReLU keeps its input on top.
    """
    return ActivationOnlyNet(), (torch.randn(batch, 10),)
