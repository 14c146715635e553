"""Networks written by hand, one for each kind that no library's small config shows by itself. They need torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from tests.zoo.network import Made, images, network, tokens
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

hand = partial(network, library="torch")
WIDTH = 64


class FeedForward(nn.Module):
    """A residual block, (…, width) -> (…, width)."""

    def __init__(self, width: int = WIDTH, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.norm(x)))))


class Attention(nn.Module):
    """Residual self-attention, (batch, length, width) -> the same; `bias` is added to the scores."""

    def __init__(self, width: int = WIDTH, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.inner, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        query, key, value = self.inner(self.norm(x)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, dim=1)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (scores if bias is None else scores + bias).softmax(-1) @ value
        return x + self.outer(mixed.transpose(1, 2).flatten(2))


def _rows(batch: int = 4, length: int = 64, width: int = WIDTH) -> Tensor:
    return torch.randn(batch, length, width)


class Coupling(nn.Module):
    """An affine coupling of a flow: takes and returns the sample and the sum of the log-determinants."""

    def __init__(self, width: int, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(width // 2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.out = nn.Linear(128, width)

    def forward(self, x: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        fixed, moved = x.chunk(2, dim=-1)[:: -1 if self.flip else 1]
        scale, shift = self.out(self.net(fixed)).chunk(2, dim=-1)
        moved = moved * scale.tanh().exp() + shift
        parts = (moved, fixed) if self.flip else (fixed, moved)
        return torch.cat(parts, dim=-1), log_det + scale.tanh().sum(-1)


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(WIDTH, bool(index % 2)) for index in range(8))

    def forward(self, x: Tensor) -> Tensor:
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, log_det = coupling(x, log_det)
        return (x.square().sum(-1) / 2 - log_det).mean()


@hand("tuples")
def flow() -> Made:
    return Flow(), (torch.randn(512, WIDTH),)


class Branches(nn.Module):
    """Three branches of unlike cost, concatenated and projected."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(channels, channels, 1)
        self.near = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(True))
        self.far = nn.Sequential(nn.Conv2d(channels, channels, 5, padding=2), nn.ReLU(True), nn.AvgPool2d(3, 1, 1))
        self.join = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.point(x), self.near(x), self.far(x)], dim=1))


@hand("parallel branches", "in-place activation")
def branches() -> Made:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(Branches(16) for _ in range(4))), (images(4, 32),)


class Joined(nn.Module):
    """Two encoders of unlike depth and what joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.ModuleList(Attention() for _ in range(3))
        self.image = nn.ModuleList(FeedForward() for _ in range(5))
        self.joiner = nn.Sequential(nn.Linear(2 * WIDTH, 4 * WIDTH), nn.Tanh(), nn.Linear(4 * WIDTH, 32))

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        for layer in self.text:
            text = layer(text)
        for layer in self.image:
            image = layer(image)
        pairs = [text[:, :, None].expand(-1, -1, image.shape[1], -1), image[:, None].expand(-1, text.shape[1], -1, -1)]
        return self.joiner(torch.cat(pairs, dim=-1))


@hand("two encoders")
def two_encoders() -> Made:
    return Joined(), (_rows(2, 24), _rows(2, 32))


class Recommender(nn.Module):
    """DLRM: bags of embeddings and a dense stack meet in their products with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.EmbeddingBag(200, 32, mode="sum") for _ in range(8))
        self.bottom = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32))
        self.top = nn.Sequential(nn.Linear(36 + 32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))

    def forward(self, dense: Tensor, chosen: Tensor) -> Tensor:
        lowest = self.bottom(dense)
        features = torch.stack([lowest, *(bag(chosen[:, at]) for at, bag in enumerate(self.embeddings))], dim=1)
        products = features @ features.transpose(1, 2)
        rows, columns = torch.tril_indices(9, 9, offset=-1).unbind()
        return self.top(torch.cat([lowest, products[:, rows, columns]], dim=1))


@hand("DLRM")
def dlrm() -> Made:
    return Recommender(), (torch.randn(1024, 16), torch.randint(0, 200, (1024, 8, 4)))


class Autocast(nn.Module):
    """Blocks under autocast; with `loss`, the loss as well."""

    def __init__(self, loss: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(Attention(), FeedForward()) for _ in range(4))
        self.head, self.loss = nn.Linear(WIDTH, 32), loss

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for block in self.blocks:
                x = block(x)
            found = self.head(x)
            return F.cross_entropy(found.flatten(0, 1), found.argmax(-1).flatten()) if self.loss else found


@hand("autocast inside")
def autocast() -> Made:
    return Autocast(loss=False), (_rows(),)


@hand("autocast inside")
def autocast_loss() -> Made:
    return Autocast(loss=True), (_rows(),)


class Critic(nn.Module):
    """WGAN-GP: the penalty on the gradient of the score with respect to the input is part of what forward returns."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 16, 32, 32, 64]
        pairs = pairwise(sizes)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.2)) for a, b in pairs)
        )
        self.head = nn.Linear(64, 1)

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        score = self.score(x).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return score / len(x) + 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@hand("gradient penalty inside", "double backward")
def critic() -> Made:
    return Critic(), (images(4, 24),)


class Forces(nn.Module):
    """A potential of positions whose forces, its gradient, are fitted: as in molecular dynamics."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, WIDTH)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU()) for _ in range(6))
        self.energy = nn.Linear(WIDTH, 1)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        distances = (positions[:, :, None] - positions[:, None]).square().sum(-1)
        x = self.embed((-distances[..., None] * torch.linspace(0.1, 2, 16)).exp())
        for block in self.blocks:
            x = x + block(x)
        energy = self.energy(x).sum()
        (forces,) = torch.autograd.grad(energy, positions, create_graph=True)
        return energy, forces


@hand("gradient of an input", "double backward")
def forces() -> Made:
    return Forces(), (torch.randn(4, 16, 3, requires_grad=True),)


class Universal(nn.Module):
    """One block called in every layer, and one dropout after each (a universal transformer)."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.depth, self.attention, self.feed_forward = depth, Attention(), FeedForward()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.depth):
            x = self.dropout(self.feed_forward(self.dropout(self.attention(x))))
        return x


@hand("shared layers", "module called several times")
def universal() -> Made:
    return Universal(), (_rows(),)


class Adaptive(nn.Module):
    """Adaptive computation: a block is called until the data say that it is enough."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.halt = FeedForward(), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, result = x.new_ones(*x.shape[:2], 1), torch.zeros_like(x)
        for _ in range(8):
            x = self.block(x)
            share = left * self.halt(x).sigmoid() * 0.6
            result, left = result + share * x, left - share
            if left.max() < 0.2:
                break
        return result + left * x


@hand("adaptive depth", "shared layers")
def adaptive() -> Made:
    return Adaptive(), (_rows(),)


class InPlace(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


@hand("in-place activation", "plain chain")
def conv_silu() -> Made:
    """Every convolution is followed by an activation in place."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(InPlace(16) for _ in range(8))), (images(4, 32),)


@hand("in-place activation", "plain chain")
def flat_relu() -> Made:
    """Convolutions, norms and in-place activations as children of one chain: an activation changes its input."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(6):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers), (images(4, 32),)


class Masked(nn.Module):
    """Hidden states written into before the blocks, and a view changed in place between them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.token = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH))
        self.layers = nn.ModuleList(FeedForward() for _ in range(6))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = self.inner(x)
        x[hidden] = self.token
        for layer in self.layers:
            x = layer(x)
            x[:, 0].mul_(0.5)
        return x


@hand("in-place view")
def written_into() -> Made:
    return Masked(), (_rows(), torch.rand(4, 64) < 0.2)


class Collected(nn.Module):
    """Results of blocks collected by hooks, and used in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FeedForward() for _ in range(6))
        self.seen: list[Tensor] = []
        for block in self.blocks:
            block.register_forward_hook(self._see)

    def _see(self, _module: nn.Module, _given: Any, result: Tensor) -> None:
        self.seen.append(result.mean())

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        for block in self.blocks:
            x = block(x)
        return x.square().mean() + torch.stack(self.seen).square().sum()


@hand("hooks")
def hooked() -> Made:
    return Collected(), (_rows(),)


class Windows(nn.Module):
    """Two kinds of masks in turn, and a loop that leaves blocks out."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.layers, self.drop = nn.ModuleList(Attention() for _ in range(6)), drop

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1])
        away = place[:, None] - place
        masks = [torch.where((away >= 0) & (away < width), 0.0, -1e4) for width in (8, 64)]
        for index, layer in enumerate(self.layers):
            if torch.rand(()) < self.drop:
                continue
            x = layer(x, bias=masks[index % 2])
        return x


@hand("masks by layer")
def windows() -> Made:
    return Windows(0.0), (_rows(),)


@hand("layer drop", "masks by layer")
def stochastic_depth() -> Made:
    return Windows(0.3), (_rows(),)


class UNet(nn.Module):
    """Skips across the middle, and an embedding of the time that every block is given."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [16, 32, 48]
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.down = nn.ModuleList(Conditioned(a, b) for a, b in zip([16, 16, 32], sizes, strict=True))
        self.middle = Conditioned(48, 48)
        self.up = nn.ModuleList(
            Conditioned(a + b, c) for a, b, c in zip([48, 32, 16], [48, 32, 16], [32, 16, 16], strict=True)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x, skips = self.first(x), []
        for block in self.down:
            x = block(x, time)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x, time)
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], dim=1), time=time)
        return self.last(x)


class Conditioned(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        self.norm, self.time = nn.GroupNorm(4, outer), nn.Linear(8, outer)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv2(F.silu(self.norm(self.conv1(x)) + self.time(time)[:, :, None, None]))


@hand("skips", "tuples")
def conditional_unet() -> Made:
    return UNet(), (images(4, 32), torch.randn(4, 8))


class Named(nn.Module):
    """Stages held as attributes and called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.early, self.middle, self.late = (FeedForward() for _ in range(4))
        self.attend, self.head = Attention(), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.attend(self.middle(self.early(self.stem(x))))))


@hand("stages by name")
def named_stages() -> Made:
    return Named(), (_rows(8),)


class Messages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        sent = F.relu(self.message(torch.cat([x[edges[0]], x[edges[1]]], dim=-1)))
        return x + F.relu(self.update(torch.cat([x, torch.zeros_like(x).index_add(0, edges[1], sent)], dim=-1)))


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth = (Messages() for _ in range(4))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.fourth(self.third(self.second(self.first(x, edges), edges), edges), edges)


@hand("graph network", "stages by name")
def message_passing() -> Made:
    return Graph(), (torch.randn(256, WIDTH), torch.randint(0, 256, (2, 2048)))


class Itself(nn.Module):
    """Blocks that the model checkpoints itself, as many do when told."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(Attention(), FeedForward()) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


@hand("own checkpoints")
def checkpoints_itself() -> Made:
    return Itself(), (_rows(),)


class Cached(nn.Module):
    """Blocks that append to a list they are all given, which forward returns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.keys = nn.ModuleList(FeedForward() for _ in range(6)), nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> dict[str, Any]:
        cache: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            cache.append(self.keys(x))
        return {"result": x, "cache": cache}


@hand("KV cache", "module called several times")
def returns_cache() -> Made:
    return Cached(), (_rows(),)


class Ensemble(nn.Module):
    """`torch.func` in forward: a small network called by `vmap` over a stack of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FeedForward() for _ in range(4))
        self.weights = nn.Parameter(torch.randn(4, WIDTH, WIDTH) / 8)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        many = torch.func.vmap(lambda weight: (x @ weight).tanh())(self.weights)
        return many.mean(0) + torch.func.jvp(lambda y: y.sin().square(), (x,), (torch.ones_like(x),))[1]


@hand("torch.func")
def ensemble() -> Made:
    return Ensemble(), (_rows(),)


class Spectral(nn.Module):
    """A Fourier layer: complex weights on the lowest frequencies."""

    def __init__(self, channels: int = 16, modes: int = 8) -> None:
        super().__init__()
        self.modes, self.local = modes, nn.Conv2d(channels, channels, 1)
        self.weight = nn.Parameter(torch.randn(channels, channels, modes, modes, dtype=torch.cfloat) / channels)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x)
        low = torch.einsum("bihw,iohw->bohw", spectrum[:, :, : self.modes, : self.modes], self.weight)
        kept = torch.zeros_like(spectrum)
        kept[:, :, : self.modes, : self.modes] = low
        return F.gelu(torch.fft.irfft2(kept, s=x.shape[-2:]) + self.local(x))


@hand("complex", "plain chain")
def fourier() -> Made:
    return nn.Sequential(nn.Conv2d(3, 16, 1), *(Spectral() for _ in range(4)), nn.Conv2d(16, 1, 1)), (images(4, 32),)


class ComplexLinear(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.polar(self.layer(x).abs().tanh(), x.angle())


@hand("complex", "plain chain")
def complex_chain() -> Made:
    """Complex numbers travel between the blocks."""
    return nn.Sequential(*(ComplexLinear() for _ in range(6))), (torch.randn(256, 48, dtype=torch.cfloat),)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.layers = nn.ModuleList(nn.GRU(WIDTH, WIDTH, batch_first=True) for _ in range(3))

    def forward(self, drawn: Tensor, lengths: Tensor) -> Tensor:
        x: PackedSequence = pack_padded_sequence(self.embed(drawn), lengths, batch_first=True, enforce_sorted=False)
        for layer in self.layers:
            x, _ = layer(x)
        return pad_packed_sequence(x, batch_first=True)[0]


@hand("packed sequence", "recurrence")
def packed() -> Made:
    return Packed(), (tokens(32, 64), torch.linspace(5, 64, 32).long())


class Layers(nn.Module):
    """As in many research repositories: a list of pairs, with skips in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([Attention(), FeedForward(dropout=0.1)]) for _ in range(6))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        pairs: Any = self.layers
        for attention, feed_forward in pairs:
            x = attention(x) + x
            x = feed_forward(x) + x
        return self.norm(x)


@hand("lists of lists")
def list_of_lists() -> Made:
    return Layers(), (_rows(),)


class Normed(nn.Module):
    def __init__(self, channels: int, how: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = (how(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def _normed(how: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(Normed(16, how) for _ in range(4)))


@hand("parametrizations", "plain chain")
def weight_norm() -> Made:
    return _normed(parametrizations.weight_norm), (images(4, 32),)


@hand("parametrizations", "EMA codebook", "plain chain", changes_state=True)
def spectral_norm() -> Made:
    """Every reading of a weight goes on with the power iteration: a buffer is read and written."""
    return _normed(parametrizations.spectral_norm), (images(4, 32),)


class Watch(nn.Module):
    """Returns nothing; counts what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shown", torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        self.shown: Tensor
        self.shown = x.detach().abs().mean()


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.watches = nn.ModuleList(), nn.ModuleList()
        for _ in range(6):
            self.blocks.append(FeedForward())
            self.watches.append(Watch())

    def forward(self, x: Tensor) -> Tensor:
        for block, watch in zip(self.blocks, self.watches, strict=True):
            x = block(x)
            watch(x)
        return x


@hand("returns None")
def returns_none() -> Made:
    return Watched(), (_rows(),)


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5000, WIDTH, sparse=True)
        self.blocks = nn.ModuleList(FeedForward() for _ in range(4))

    def forward(self, drawn: Tensor) -> Tensor:
        x = self.embed(drawn)
        for block in self.blocks:
            x = block(x)
        return x


@hand("sparse gradients")
def sparse() -> Made:
    return Sparse(), (tokens(4, 64, 5000),)


@dataclass
class Sample:
    """A batch of one's own, no tuple and no mapping."""

    rows: Tensor
    weights: Tensor


class OwnBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FeedForward() for _ in range(6))

    def forward(self, sample: Sample) -> Tensor:
        x = sample.rows
        for block in self.blocks:
            x = block(x)
        return x * sample.weights


@hand("custom batch")
def own_batch() -> Made:
    return OwnBatch(), (Sample(_rows(), torch.rand(4, 64, 1)),)


class Codebook(nn.Module):
    """The nearest of a buffer's rows, which then move to what chose them: running it again chooses among others."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.inner = FeedForward()
        self.code: Tensor
        self.register_buffer("code", torch.randn(size, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        with torch.no_grad():
            index = torch.cdist(x.flatten(0, 1), self.code).argmin(-1)
            self.code.index_add_(0, index, 0.1 * (x.flatten(0, 1) - self.code[index]))
        chosen = self.code[index].view_as(x).clone()
        return x + (chosen - x) * x.sigmoid()


@hand("EMA codebook", changes_state=True)
def codebook() -> Made:
    return nn.Sequential(FeedForward(), *(Codebook() for _ in range(3)), FeedForward()), (_rows(),)


@hand("compiled blocks")
def compiled_blocks() -> Made:
    blocks = nn.ModuleList(FeedForward() for _ in range(4))
    model = Chain(blocks)
    for at, block in enumerate(blocks):
        blocks[at] = torch.compile(block, backend="aot_eager")  # type: ignore[assignment]
    return model, (_rows(),)


class Chain(nn.Module):
    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Pyramid(nn.Module):
    """Heads of a `ModuleList` run on every level: a chain by its type, and no chain by how it is run."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 16, 32, 64]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(True)) for a, b in pairwise(sizes)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(size, 16, 1) for size in sizes[1:])
        self.heads = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(True)) for _ in range(3))
        self.shared = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [x := stage(x) for stage in self.stages]
        top: Tensor | None = None
        found = []
        for lateral, head, level in zip(self.lateral, self.heads, levels, strict=True):
            here = lateral(level)
            top = here if top is None else here + F.adaptive_avg_pool2d(top, here.shape[-1])
            found.append(self.shared(head(top)))
        return found


@hand("feature pyramid", "in-place activation")
def pyramid() -> Made:
    return Pyramid(), (images(4, 96),)


class Dense(nn.Module):
    """Each block is given all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(16 * (at + 1), 16, 3, padding=1) for at in range(6))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for block in self.blocks:
            features.append(F.relu(block(torch.cat(features, dim=1))))
        return torch.cat(features, dim=1)


@hand("skips")
def dense() -> Made:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Dense(), nn.Conv2d(112, 16, 1), Dense()), (images(4, 24),)


class Aux(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = (nn.ModuleList(FeedForward() for _ in range(3)) for _ in range(2))
        self.side, self.head = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.early:
            x = block(x)
        side = self.side(x)
        for block in self.late:
            x = block(x)
        return self.head(x), side


@hand("auxiliary head", "tuples")
def auxiliary() -> Made:
    return Aux(), (_rows(),)


class Gated(nn.Module):
    """WaveNet: every block gives a part to the sum of the skips."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(32, 64, 3, padding=dilation, dilation=dilation)
        self.skip, self.on = nn.Conv1d(32, 32, 1), nn.Conv1d(32, 32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, value = self.conv(x).chunk(2, dim=1)
        y = gate.sigmoid() * value.tanh()
        return x + self.on(y), self.skip(y)


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Gated(2**at) for at in range(6)), nn.Conv1d(32, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        assert isinstance(total, Tensor)
        return self.head(total.relu())


@hand("tuples", "skips")
def wavenet() -> Made:
    return WaveNet(), (torch.randn(4, 32, 512),)


class Experts(nn.Module):
    """A router sends each token to one expert; what an expert gets depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, 4), nn.ModuleList(FeedForward() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.router(x).softmax(-1).max(-1)
        result = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            where = chosen == index
            result[where] = shares[where][:, None] * expert(x[where])
        return x + result


@hand("mixture of experts", "in-place view")
def experts() -> Made:
    return nn.Sequential(*(Experts() for _ in range(3))), (_rows(),)


class Unrolled(nn.Module):
    """A cell called once a time step, its state a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(32, WIDTH), nn.Linear(WIDTH, 32)

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(len(x), WIDTH), x.new_zeros(len(x), WIDTH))
        found = []
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
            found.append(self.head(state[0]))
        return torch.stack(found, dim=1)


@hand("recurrence", "module called several times", "tuples")
def lstm_cell() -> Made:
    return Unrolled(), (torch.randn(64, 24, 32),)


class Ode(nn.Module):
    """Runge-Kutta: a field called four times a step."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 32))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(6):
            one = self.field(x)
            two = self.field(x + one / 12)
            three = self.field(x + two / 12)
            x = x + (one + 2 * two + 2 * three + self.field(x + three / 6)) / 36
        return x


@hand("module called several times", "shared layers")
def neural_ode() -> Made:
    return Ode(), (torch.randn(512, 32),)


class Siamese(nn.Module):
    """One encoder called on both of two inputs, one of which the loss differentiates by."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(FeedForward() for _ in range(4)))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(self.encoder(left), self.encoder(right), dim=-1)


@hand("module called several times", "two encoders")
def siamese() -> Made:
    return Siamese(), (_rows(2), _rows(2).requires_grad_())
