"""How often planning runs what: units by themselves, and whole steps of the model."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

from rematbench.measuring import session
from rematbench.measuring.cpu_meter import CpuMeter
from rematbench.planner.unit_call import UnitCall
from rematbench.workload.step import training_step


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the forwards of single units, the whole steps, and the passes under a memory meter, whatever of."""
    found = Counter[str]()

    def counting(what: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            found[what] += 1
            return own(*args, **kwargs)

        return run

    with (
        patch.object(UnitCall, "run", counting("unit forwards", UnitCall.run)),
        patch.object(session, "training_step", counting("whole steps", training_step)),
        patch.object(CpuMeter, "read", counting("metered", CpuMeter.read)),
    ):
        yield found


class Attention(nn.Module):
    """Causal self-attention: (batch, length, width) in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        y: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return y


class Block(nn.Module):
    """A pre-norm transformer block, as GPT-2's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class Transformer(nn.Module):
    """A GPT-2-like language model: tokens (batch, length) in, logits (batch, length, vocabulary) out."""

    def __init__(self, blocks: int, width: int = 256, heads: int = 4, vocabulary: int = 1000) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(self.norm(x))
        return y


def gpt_12() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Twelve blocks, 10 million parameters."""
    return Transformer(12), (torch.randint(0, 1000, (4, 128)),)


def gpt_24() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Twenty-four blocks, 20 million parameters."""
    return Transformer(24), (torch.randint(0, 1000, (4, 128)),)


def gpt_12_small() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Twelve blocks whose step is mostly Python's and torch's own overhead."""
    return Transformer(12, width=64, vocabulary=100), (torch.randint(0, 100, (4, 32)),)
