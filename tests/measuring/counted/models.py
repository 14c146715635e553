"""Models whose regions are checkpointed by hand: each with what makes it hard to count or to repeat."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import importlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from tests.measuring.counted.operators import leaf
from tests.models.test_every_model import FACTORIES, chain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, BATCH, DEPTH = 48, 16, 3
Model = tuple[nn.Module, Any, list[str]]
"""A module, its batch, and the modules that are checkpointed, as regions name them."""


class Block(nn.Module):
    """A layer with what subclasses do to its output."""

    layer: Any

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.then(self.layer(x).relu())

    def then(self, y: Tensor) -> Tensor:
        return y


class Chain(nn.Module):
    """Blocks behind a layer, so that what goes into each is memory of the step."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(make() for _ in range(DEPTH)))
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.blocks(self.stem(x)))


BLOCKS: dict[str, type[nn.Module]] = {}


def block(made: type[nn.Module]) -> type[nn.Module]:
    BLOCKS[made.__name__] = made
    return made


block(Block)


@block
class KeepsItsOutput(Block):
    last: Tensor | None = None

    def then(self, y: Tensor) -> Tensor:
        self.last = y.detach() * 1
        return y


@block
class KeepsByAHook(Block):
    def __init__(self) -> None:
        super().__init__()
        self.features: dict[str, Tensor] = {}
        self.layer.register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _given: Any, output: Tensor) -> None:
        self.features["layer"] = output.detach() * 2


@block
class KeepsAFew(Block):
    def __init__(self) -> None:
        super().__init__()
        self.past: deque[Tensor] = deque(maxlen=1)

    def then(self, y: Tensor) -> Tensor:
        self.past.append(y.detach() * 1)
        return y


@block
class AveragesInAnAttribute(Block):
    ema: Any = 0.5

    def then(self, y: Tensor) -> Tensor:
        self.ema = 0.9 * self.ema + 0.1 * float(y.detach().mean())
        return (y * self.ema).tanh()


@block
class AveragesInABuffer(Block):
    ema: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ema", torch.zeros(WIDTH))

    def then(self, y: Tensor) -> Tensor:
        self.ema = 0.9 * self.ema + 0.1 * y.detach().mean(0)
        return y


@block
class CountsInPlace(Block):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def then(self, y: Tensor) -> Tensor:
        self.calls += 1
        return y / self.calls


@block
class CachesOnce(Block):
    mask: Tensor | None = None

    def then(self, y: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.ones(BATCH, WIDTH).tril()
        return y * self.mask


@block
class ChecksPointsInside(Block):
    def then(self, y: Tensor) -> Tensor:
        return checkpoint(lambda z: torch.tanh(z.exp().sqrt()), y, use_reentrant=False)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.extra = torch.sigmoid(x)
        return x * ctx.extra

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (ctx.extra + x * ctx.extra * (1 - ctx.extra))


@block
class HasItsOwnFunction(Block):
    def then(self, y: Tensor) -> Tensor:
        return Swish.apply(y)


@block
class WritesInPlace(Block):
    def then(self, y: Tensor) -> Tensor:
        z = y.clone()
        z[:, ::3] = 0.0
        return z.mul_(2).add_(1).sigmoid_()


@block
class MakesViews(Block):
    def then(self, y: Tensor) -> Tensor:
        left, right = y.chunk(2, 1)
        return torch.cat([right.expand(BATCH, WIDTH // 2), left.t().contiguous().t()], 1)


@block
class IsNotContiguous(Block):
    def then(self, y: Tensor) -> Tensor:
        return (y.t()[::2].repeat(2, 1).t() * 2).unfold(1, WIDTH, 1).squeeze(1)


@block
class Drops(Block):
    def then(self, y: Tensor) -> Tensor:
        return F.dropout(y, 0.2)


@block
class DrawsFromItsOwnGenerator(Block):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def then(self, y: Tensor) -> Tensor:
        return y * torch.rand(y.shape, generator=self.generator)


@block
class DrawsFromPython(Block):
    def then(self, y: Tensor) -> Tensor:
        return (y * random.random()).tanh()


@block
class DrawsFromNumPy(Block):
    def then(self, y: Tensor) -> Tensor:
        return y * torch.from_numpy(numpy.random.rand(BATCH, WIDTH)).float()


@block
class RecallsItsCalls(Block):
    calls = 0

    def then(self, y: Tensor) -> Tensor:
        self.calls = self.calls % 2 + 1
        return (y * self.calls).tanh()


@block
class NormalisesBatches(Block):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def then(self, y: Tensor) -> Tensor:
        return self.norm(y)


@block
class IsRandomlyLeaky(Block):
    def then(self, y: Tensor) -> Tensor:
        return F.rrelu(y - 0.5, training=True)


@block
class NormalisesItsWeight(Block):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(self.layer)


@block
class ComputesInHalf(Block):
    def then(self, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.gelu(self.layer(y))


@block
class IsComplex(Block):
    def then(self, y: Tensor) -> Tensor:
        return torch.fft.ifft(torch.fft.fft(torch.complex(y, y)) * 1j).real


@block
class StopsGradients(Block):
    def then(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            gate = self.layer(y).sigmoid()
        return y * gate + y.detach().exp()


@block
class Routes(Block):
    def then(self, y: Tensor) -> Tensor:
        chosen = y.detach().sum(1) > y.detach().sum(1).median()
        out = torch.zeros_like(y)
        out[chosen] = self.layer(y[chosen])
        return out.index_add(0, torch.arange(4), y[:4])


@block
class HooksGradients(Block):
    def then(self, y: Tensor) -> Tensor:
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 2)
        return y


@block
class PeaksInPassing(Block):
    def then(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            scale = float(y.repeat(64, 1).square().mean())
        return y / (1 + scale)


@block
class RunsItsLayerTwice(Block):
    def then(self, y: Tensor) -> Tensor:
        return self.layer(self.layer(y).tanh())


@block
class IsFrozenInPart(Block):
    def __init__(self) -> None:
        super().__init__()
        self.layer.weight.requires_grad_(False)
        self.unused = nn.Parameter(torch.zeros(WIDTH))


OUTSIDE: dict[str, Tensor] = {}


@block
class KeepsOutside(Block):
    def then(self, y: Tensor) -> Tensor:
        OUTSIDE["last"] = y.detach() * 1
        return y


@block
class RepeatsAGenerator(Block):
    def then(self, y: Tensor) -> Tensor:
        return y + torch.randn(y.shape, generator=torch.Generator().manual_seed(5))


CALLS = count()


@block
class NeverDoesTheSame(Block):
    def then(self, y: Tensor) -> Tensor:
        return (y * (1 + next(CALLS) * 0.618 % 1)).tanh()


@block
class WritesToItsInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0) if self.layer.bias[0] > 9 else x.add_(1.0).square()


@block
class ChangesItsShapes(Block):
    size = 1

    def then(self, y: Tensor) -> Tensor:
        self.size = self.size % 2 + 1
        return y.repeat(1, self.size).tanh().exp()[:, :WIDTH]


@block
class RunsInAThread(Block):
    def then(self, y: Tensor) -> Tensor:
        found: list[Tensor] = []
        thread = threading.Thread(target=lambda: found.append(self.layer(y.detach()).exp()))
        thread.start()
        thread.join()
        return y * found[0]


class Penalised(Chain):
    """A penalty on the gradient of the output: backward through a backward."""

    def forward(self, x: Tensor) -> Any:
        output = super().forward(x)
        (slope,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return output, slope


class Shared(Chain):
    """Two blocks that share a weight."""

    def __init__(self) -> None:
        super().__init__(Block)
        first, _, last = self.blocks
        assert isinstance(first, Block)
        assert isinstance(last, Block)
        last.layer.weight = first.layer.weight


class Tokens(nn.Module):
    """A sparse embedding, whose gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, WIDTH, sparse=True)
        self.rest = Chain(Block)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.rest(self.embedding(tokens))


def _chain(make: Callable[[], nn.Module], outer: Callable[..., nn.Module] = Chain) -> Callable[[], Model]:
    return lambda: (outer(make), (leaf(BATCH, WIDTH),), ["blocks[0]", "blocks[2]"])


def _reference(name: str) -> Callable[[], Model]:
    def build() -> Model:
        module, batch, *_ = FACTORIES[name](batch=4)
        path = next(path for path, found in module.named_modules() if found is chain(module))
        count = len(chain(module))
        return module, batch, [f"{path}[{index}]" for index in range(0, count, 2)]

    return build


def library_models() -> Iterator[tuple[str, Callable[[], Model]]]:
    """Yield those of the libraries that are installed; importing these takes as long as all else."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        return
    tokens = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}

    def language(model: Any, config: Any, path: str) -> Callable[[], Model]:
        batch: dict[str, Any] = {"input_ids": tokens, "labels": tokens.clone()}
        if "Bert" not in model.__name__:
            batch["use_cache"] = False
        return lambda: (model(config).train(), batch, [f"{path}[0]", f"{path}[1]"])

    yield (
        "llama",
        language(
            transformers.LlamaForCausalLM, transformers.LlamaConfig(**sizes, intermediate_size=64), "model.layers"
        ),
    )
    gpt2 = transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=1)
    yield "gpt2", language(transformers.GPT2LMHeadModel, gpt2, "transformer.h")
    bert = transformers.BertConfig(**sizes, intermediate_size=64)
    yield "bert", language(transformers.BertForMaskedLM, bert, "bert.encoder.layer")
    t5 = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=64, decoder_start_token_id=0
    )
    yield "t5", language(transformers.T5ForConditionalGeneration, t5, "encoder.block")
    vit = transformers.ViTConfig(
        image_size=16,
        patch_size=4,
        **{name: size for name, size in sizes.items() if name != "vocab_size"},
        intermediate_size=64,
    )
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    yield "vit", lambda: (transformers.ViTModel(vit).train(), {"pixel_values": image}, ["layers[0]", "layers[1]"])
    try:
        diffusers: Any = importlib.import_module("diffusers")
    except ImportError:
        return
    channels: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    noise = {"sample": torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), "timestep": 1}

    def unet() -> Model:
        made = diffusers.UNet2DModel(
            sample_size=16,
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            dropout=0.1,
            **channels,
            **blocks,
        )
        return made.train(), {**noise, "return_dict": False}, ["mid_block", "down_blocks[0]"]

    yield "unet", unet


MODELS: dict[str, Callable[[], Model]] = {
    **{name: _reference(name) for name in FACTORIES if name != "intermediate.activation_only"},
    **{name: _chain(made) for name, made in BLOCKS.items()},
    "Penalised": _chain(Block, Penalised),
    "Shared": lambda: (Shared(), (leaf(BATCH, WIDTH),), ["blocks[0]", "blocks[1]"]),
    "Tokens": lambda: (Tokens(), (torch.randint(0, 64, (BATCH,)),), ["rest.blocks[0]", "rest.blocks[1]"]),
    **(dict(library_models()) if os.environ.get("REMATBENCH_COUNT_LIBRARIES") else {}),
}
