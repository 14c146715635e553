"""One small module for each operator, or family of them, that allocates in a way of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Any, ...]]


class Op(nn.Module):
    """A function of the input and of parameters with the given shapes."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *self.weights)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def _of(function: Callable[..., Any], *shapes: tuple[int, ...], x: tuple[int, ...] = (16, 48)) -> Callable[[], Built]:
    return lambda: (Op(function, *shapes), (leaf(*x),))


def _module(make: Callable[[], nn.Module], *shape: int) -> Callable[[], Built]:
    return lambda: (make(), (leaf(*shape),))


def _tokens(make: Callable[[], nn.Module]) -> Callable[[], Built]:
    return lambda: (make(), (torch.randint(0, 100, (8, 12)),))


def _scatter(x: Tensor) -> Tensor:
    index = torch.arange(x.shape[1]).flip(0).expand_as(x)
    return torch.zeros_like(x).scatter_add(1, index, x) + x.gather(1, index)


def _index(x: Tensor) -> Tensor:
    rows = torch.tensor([3, 3, 1, 0])
    return x.index_select(0, rows).exp().sum() + x.new_zeros(16, 48).index_add(0, rows, x[:4]) + x[rows].sum()


def _in_place(x: Tensor) -> Tensor:
    y = x * 2
    y.add_(1.0).sigmoid_()
    y = y.clone()
    y[:, ::2] = 0.0
    return y.relu_()


def _views(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return torch.cat([left.t().reshape(-1), right.expand(2, 16, 24).permute(2, 0, 1).contiguous().flatten()])


def _positive(x: Tensor) -> Tensor:
    return x @ x.transpose(-1, -2) + 10 * torch.eye(x.shape[-2])


def _signal(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * 2) + torch.fft.fft2(torch.complex(x, x)).abs()


def _complex(x: Tensor, w: Tensor) -> Tensor:
    z = torch.complex(x, -x)
    return (z @ torch.complex(w, w)).conj() * 1j


def _grid(x: Tensor, offset: Tensor) -> Tensor:
    base = F.affine_grid(torch.eye(2, 3).expand(2, 2, 3), [2, 3, 6, 6], align_corners=False)
    return F.grid_sample(x, base + offset, align_corners=False)


def _sparse(x: Tensor) -> Tensor:
    index = torch.tensor([[0, 1, 2, 2], [1, 0, 3, 5]])
    return torch.sparse.mm(torch.sparse_coo_tensor(index, torch.ones(4), (4, 16), check_invariants=False), x)


def _ctc(x: Tensor) -> Tensor:
    targets = torch.randint(1, 10, (4, 5), generator=torch.Generator().manual_seed(0))
    return F.ctc_loss(x.log_softmax(-1), targets, torch.full((4,), 16), torch.full((4,), 5))


def _nested_where(x: Tensor) -> Tensor:
    return torch.where(x > 0, x.exp(), x.sin()).masked_fill(x < -1, 0.0).clamp(-2, 2)


def _low_precision(x: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.gelu(F.linear(x, w)) @ w


OPERATORS: dict[str, Callable[[], Built]] = {
    "linear": _module(lambda: nn.Linear(48, 32), 16, 48),
    "bilinear": lambda: (nn.Bilinear(24, 20, 8), (leaf(16, 24), leaf(16, 20))),
    "matmul batched": _of(torch.matmul, (4, 24, 12), x=(4, 16, 24)),
    "bmm": _of(torch.bmm, (4, 24, 12), x=(4, 16, 24)),
    "einsum": _of(lambda x, w: torch.einsum("bij,jk,bik->bk", x, w, x @ w), (24, 12), x=(4, 16, 24)),
    "addcmul": _of(lambda x, a, b: torch.addcmul(x, a, b).lerp(a, 0.3), (16, 48), (16, 48)),
    "conv1d": _module(lambda: nn.Conv1d(6, 8, 3, padding=1), 4, 6, 20),
    "conv2d": _module(lambda: nn.Conv2d(3, 8, 3, padding=1), 2, 3, 12, 12),
    "conv2d of groups": _module(lambda: nn.Conv2d(8, 8, 3, groups=8, dilation=2), 2, 8, 12, 12),
    "conv2d, channels last": _of(
        lambda x, w: F.conv2d(x.contiguous(memory_format=torch.channels_last), w), (8, 4, 3, 3), x=(2, 4, 12, 12)
    ),
    "conv3d": _module(lambda: nn.Conv3d(2, 4, 3), 1, 2, 6, 8, 8),
    "conv transposed 1d": _module(lambda: nn.ConvTranspose1d(6, 4, 4, stride=2), 2, 6, 10),
    "conv transposed 2d": _module(lambda: nn.ConvTranspose2d(6, 4, 4, stride=2), 2, 6, 8, 8),
    "embedding": _tokens(lambda: nn.Embedding(100, 16)),
    "embedding, sparse": _tokens(lambda: nn.Embedding(100, 16, sparse=True)),
    "embedding bag": _tokens(lambda: nn.EmbeddingBag(100, 16, mode="mean")),
    "lstm": _module(lambda: nn.LSTM(12, 16, num_layers=2, batch_first=True), 4, 10, 12),
    "lstm, bidirectional": _module(lambda: nn.LSTM(12, 16, bidirectional=True), 10, 4, 12),
    "gru": _module(lambda: nn.GRU(12, 16, num_layers=2), 10, 4, 12),
    "rnn": _module(lambda: nn.RNN(12, 16), 10, 4, 12),
    "lstm cell": lambda: (nn.LSTMCell(12, 16), (leaf(4, 12),)),
    "attention": _of(lambda x, w: F.scaled_dot_product_attention(x @ w, x, x), (16, 16), x=(2, 4, 20, 16)),
    "attention, causal": _of(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), x=(2, 4, 20, 16)),
    "attention with dropout": _of(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), x=(2, 2, 20, 16)),
    "multihead attention": lambda: (Attention(), (leaf(2, 12, 16),)),
    "transformer layer": _module(lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, 12, 16),
    "layer norm": _module(lambda: nn.LayerNorm(48), 16, 48),
    "rms norm": _module(lambda: nn.RMSNorm(48), 16, 48),
    "group norm": _module(lambda: nn.GroupNorm(2, 8), 4, 8, 6, 6),
    "batch norm": _module(lambda: nn.BatchNorm2d(8), 4, 8, 6, 6),
    "instance norm": _module(lambda: nn.InstanceNorm2d(8, affine=True), 4, 8, 6, 6),
    "weight norm": _module(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(48, 32)), 16, 48),
    "spectral norm": _module(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(48, 32)), 16, 48),
    "softmax": _of(lambda x: x.softmax(1) + x.log_softmax(0)),
    "cross entropy": _of(lambda x: F.cross_entropy(x, torch.arange(16), label_smoothing=0.1, reduction="none")),
    "losses": _of(lambda x, t: F.huber_loss(x, t) + F.kl_div(x.log_softmax(1), t.softmax(1)), (16, 48)),
    "ctc loss": _of(_ctc, x=(16, 4, 10)),
    "gather and scatter": _of(_scatter),
    "indexing": _of(_index),
    "sort and topk": _of(lambda x: x.sort(1).values + x.topk(3, 1).values.sum() + x.kthvalue(2, 1).values.sum()),
    "cumulative": _of(lambda x: x.cumsum(1) + x.sigmoid().cumprod(1) + x.logcumsumexp(0) + x.cummax(1).values),
    "reductions": _of(lambda x: x.std() + x.norm(dim=1).sum() + x.amax(0).sum() + x.logsumexp(1).prod() + x.median()),
    "fft": _of(_signal),
    "stft": _of(lambda x: torch.stft(x, 16, window=torch.hann_window(16), return_complex=True), x=(4, 80)),
    "solve": _of(lambda x, b: torch.linalg.solve(_positive(x), b), (12, 3), x=(4, 12, 12)),
    "cholesky": _of(lambda x: torch.linalg.cholesky(_positive(x)), x=(4, 12, 12)),
    "svd": _of(lambda x: torch.linalg.svdvals(x).sum() + torch.linalg.qr(x).Q.sum(), x=(4, 12, 8)),
    "eigh": _of(lambda x: torch.linalg.eigh(_positive(x)).eigenvalues + torch.linalg.inv(_positive(x))[..., 0]),
    "matrix exponential": _of(
        lambda x: torch.linalg.matrix_exp(x / 10) + torch.linalg.det(x)[:, None, None], x=(4, 8, 8)
    ),
    "interpolate": _of(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), x=(2, 3, 6, 6)),
    "grid sample": _of(_grid, (2, 6, 6, 2), x=(2, 3, 6, 6)),
    "unfold and fold": _of(lambda x: F.fold(F.unfold(x, 3), (8, 8), 3), x=(2, 3, 8, 8)),
    "max pool": _of(lambda x: F.max_pool2d(x, 2) + F.adaptive_max_pool2d(x, 4), x=(2, 3, 8, 8)),
    "average pool": _of(lambda x: F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 4), x=(2, 3, 8, 8)),
    "lp pool": _of(lambda x: F.lp_pool2d(x.abs() + 1, 2.0, 2) + F.pixel_unshuffle(x, 2)[:, :3], x=(2, 3, 8, 8)),
    "padding": _of(lambda x: F.pad(x, (1, 2, 1, 2), mode="reflect").roll(1, 2), x=(2, 3, 8, 8)),
    "dropout": _of(lambda x: F.dropout(x, 0.3) + F.alpha_dropout(x, 0.2)),
    "random numbers": _of(lambda x: x * torch.randn_like(x) + torch.rand(48) + torch.bernoulli(x.sigmoid())),
    "activations": _of(lambda x: F.gelu(x) + F.silu(x) + F.elu(x) + F.mish(x) + F.softplus(x) + F.hardswish(x)),
    "gated": _of(lambda x, a: F.glu(F.prelu(x, a)), (1,)),
    "rrelu": _of(lambda x: F.rrelu(x, training=True)),
    "cdist": _of(lambda x, y: torch.cdist(x, y) + torch.cosine_similarity(x, y, dim=1), (16, 48)),
    "pdist": _of(lambda x: F.pdist(x)),
    "where": _of(_nested_where),
    "in place": _of(_in_place),
    "views": _of(_views),
    "complex numbers": _of(_complex, (48, 24)),
    "bfloat16": lambda: (Op(lambda x: (x.bfloat16() @ x.bfloat16().t()).float().exp()), (leaf(16, 48),)),
    "autocast": _of(_low_precision, (48, 48)),
    "double": lambda: (nn.Linear(48, 32).double(), (leaf(16, 48, dtype=torch.float64),)),
    "sparse matrices": _of(_sparse),
    "stack and split": _of(lambda x: torch.stack(x.split(4)).unbind(1)[0] + x.tile(1, 2)[:4, :48]),
    "special functions": _of(lambda x: torch.special.erfcx(x) + torch.lgamma(x.abs() + 1) + torch.special.i0e(x)),
    "vmap": _of(lambda x, w: torch.vmap(lambda row: (w @ row).tanh())(x), (12, 48)),
}
