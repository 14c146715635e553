"""Counts against arithmetic on paper, the same network in matrix products, and the layers torch has."""

import copy
import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)
from torch.utils.flop_counter import flop_registry

from rematbench.measuring import flops
from rematbench.measuring.flops import FORMULAS, FREE_KERNELS, FlopCount, FlopMeter

aten = torch.ops.aten
LENGTH, BATCH, WIDTH, HIDDEN = 4, 3, 5, 7


def tensors_in(value: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def squares(output: Any) -> Tensor:
    return torch.stack([leaf.square().sum() for leaf in tensors_in(output) if leaf.requires_grad]).sum()


def metered(run: Callable[..., Any], *inputs: Any) -> tuple[int, int]:
    """FLOPs of the forward and of the whole step; nothing may be left uncounted."""
    with FlopMeter() as meter:
        loss = squares(run(*inputs))
        forward = meter.read()
        loss.backward()
    assert meter.read().uncounted_ops == ()
    return forward.flops, meter.read().flops


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def test_linear_counts_two_flops_a_multiply_accumulate() -> None:
    assert metered(nn.Linear(5, 7), leaf(3, 5)) == (2 * 3 * 5 * 7, 3 * 2 * 3 * 5 * 7)


def test_gradient_nobody_asks_for_is_not_counted() -> None:
    assert metered(nn.Linear(5, 7), torch.randn(3, 5)) == (2 * 3 * 5 * 7, 2 * 2 * 3 * 5 * 7)


@pytest.mark.parametrize(
    ("run", "shapes", "forward"),
    [
        (torch.bmm, [(2, 3, 4), (2, 4, 5)], 2 * 2 * 3 * 4 * 5),
        (torch.mv, [(3, 4), (4,)], 2 * 3 * 4),
        (torch.dot, [(6,), (6,)], 2 * 6),
        (torch.addmv, [(3,), (3, 4), (4,)], 2 * 3 * 4),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 2 * 2 * 3 * 4 * 5),
        (lambda a, b, c: a.clone().addmm_(b, c), [(3, 5), (3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (lambda a, b, c: a.clone().addmv_(b, c), [(3,), (3, 4), (4,)], 2 * 3 * 4),
        (lambda a, b, c: a.clone().baddbmm_(b, c), [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 2 * 3 * 4 * 5),
        (lambda a, b: torch.einsum("bij,bkj->ik", a, b), [(2, 3, 4), (2, 5, 4)], 2 * 2 * 3 * 4 * 5),
    ],
)
def test_matrix_products(run: Callable[..., Tensor], shapes: list[tuple[int, ...]], forward: int) -> None:
    assert metered(run, *(leaf(*shape) for shape in shapes))[0] == forward


@pytest.mark.parametrize(
    ("module", "shape", "forward"),
    [
        (nn.Conv1d(3, 4, 3), (2, 3, 8), 2 * 2 * 6 * (4 * 3 * 3)),
        (nn.Conv2d(3, 4, 3), (2, 3, 8, 8), 2 * 2 * 36 * (4 * 3 * 9)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 8, 8), 2 * 2 * 16 * (4 * 3 * 9)),
        (nn.Conv2d(6, 6, 3, groups=6), (2, 6, 8, 8), 2 * 2 * 36 * (6 * 9)),
        (nn.Conv2d(4, 6, 1, groups=2), (2, 4, 8, 8), 2 * 2 * 64 * (6 * 2)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 5), 2 * 2 * 25 * (4 * 6 * 4)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (2, 4, 5, 5), 2 * 2 * 25 * (4 * 3 * 4)),
    ],
)
def test_convolution_and_its_gradients_cost_the_same(module: nn.Module, shape: Any, forward: int) -> None:
    assert metered(module, leaf(*shape)) == (forward, 3 * forward)
    assert metered(module, torch.randn(*shape)) == (forward, 2 * forward)


def recurrent_forward(module: nn.RNNBase) -> int:
    """Gates from input and from hidden state, then the projection, for every layer, direction and token."""
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    directions = 1 + module.bidirectional
    state = module.proj_size or module.hidden_size
    total = 0
    for layer in range(module.num_layers):
        width = directions * state if layer else module.input_size
        gate_products = gates * module.hidden_size * (width + state)
        total += directions * (gate_products + module.hidden_size * module.proj_size)
    return 2 * LENGTH * BATCH * total


RECURRENT = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "no biases": {"num_layers": 2, "bidirectional": True, "bias": False},
}


@pytest.mark.parametrize("options", RECURRENT.values(), ids=RECURRENT)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_on_paper(kind: Any, options: dict[str, Any]) -> None:
    module = kind(WIDTH, HIDDEN, **options)
    tokens = (BATCH, LENGTH) if module.batch_first else (LENGTH, BATCH)
    assert metered(module, leaf(*tokens, WIDTH))[0] == recurrent_forward(module)


def unrolled_lstm(module: nn.LSTM, sequence: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """A one-layer `nn.LSTM` in matrix products, one time step after the other."""
    w_ih, w_hh, b_ih, b_hh = (parameter for _, parameter in module.named_parameters())
    outputs = []
    for token in sequence:
        gates = F.linear(token, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
        enter, forget, candidate, leave = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs)


def test_lstm_kernel_counts_as_its_matrix_products_do() -> None:
    module = nn.LSTM(WIDTH, HIDDEN)
    sequence, hidden, cell = leaf(LENGTH, BATCH, WIDTH), leaf(BATCH, HIDDEN), leaf(BATCH, HIDDEN)

    def fused(sequence: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
        return module(sequence, (hidden[None], cell[None]))[0]

    inputs = (sequence, hidden, cell)
    torch.testing.assert_close(fused(*inputs), unrolled_lstm(module, *inputs))
    forward, total = metered(fused, *inputs)
    assert (forward, total) == metered(unrolled_lstm, module, *inputs)
    assert total == 3 * forward


def test_lstm_kernel_computes_every_gradient_wanted_or_not() -> None:
    forward, total = metered(nn.LSTM(WIDTH, HIDDEN), torch.randn(LENGTH, BATCH, WIDTH))
    assert total == 3 * forward


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_lstm_on_cpu_is_matrix_products() -> None:
    module = nn.LSTM(WIDTH, HIDDEN, proj_size=2)
    assert metered(module, leaf(LENGTH, BATCH, WIDTH))[0] == recurrent_forward(module)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells_are_their_two_linear_maps(cell: Any) -> None:
    module = cell(WIDTH, HIDDEN)
    expected = 2 * BATCH * (module.weight_ih.numel() + module.weight_hh.numel())
    assert metered(module, leaf(BATCH, WIDTH))[0] == expected


CUDNN = {
    "lstm": nn.LSTM(WIDTH, HIDDEN, device="meta"),
    "deep": nn.LSTM(WIDTH, HIDDEN, 3, bidirectional=True, device="meta"),
    "projected": nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, proj_size=2, device="meta"),
    "no biases": nn.GRU(WIDTH, HIDDEN, 2, bias=False, device="meta"),
    "tanh": nn.RNN(WIDTH, HIDDEN, 2, device="meta"),
}


@pytest.mark.parametrize("shape", [(LENGTH, BATCH), (BATCH, LENGTH), (LENGTH * BATCH,)], ids=str)
@pytest.mark.parametrize("module", CUDNN.values(), ids=CUDNN)
def test_cudnn_formulas_on_paper(module: nn.RNNBase, shape: tuple[int, ...]) -> None:
    sequence, weights = torch.empty(*shape, WIDTH, device="meta"), module._flat_weights
    forward = recurrent_forward(module)
    assert FORMULAS[aten._cudnn_rnn](sequence, weights, 4, None, out_val=None) == forward
    backward = FORMULAS[aten._cudnn_rnn_backward]
    assert backward(sequence, weights, 4, None, [True, True, True, True], out_val=None) == 2 * forward
    assert backward(sequence, weights, 4, None, [True, False, False, False], out_val=None) == forward


def test_cudnn_operator_is_counted_where_it_runs() -> None:
    module = nn.LSTM(WIDTH, HIDDEN, 2, device="meta")
    sequence = torch.empty(LENGTH, BATCH, WIDTH, device="meta")
    state = torch.empty(2, BATCH, HIDDEN, device="meta")
    options: Any = 2, HIDDEN, 0, 2, False, 0.0, True, False, [], None
    with FlopMeter() as meter:
        aten._cudnn_rnn(sequence, module._flat_weights, 4, None, state, state, *options)
    assert meter.read() == FlopCount(flops=recurrent_forward(module), uncounted_ops=())


@pytest.mark.parametrize("key_heads", [4, 2], ids=["heads", "grouped"])
def test_fused_attention_is_its_matrix_products_and_the_scores_again(key_heads: int) -> None:
    inputs = leaf(2, 4, 5, 8), leaf(2, key_heads, 6, 8), leaf(2, key_heads, 6, 8)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    scores = 2 * (2 * 4 * 5) * 6 * 8
    with sdpa_kernel(SDPBackend.MATH):
        assert metered(attend, *inputs) == (2 * scores, 6 * scores)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert metered(attend, *inputs) == (2 * scores, 7 * scores)


def test_attention_agrees_with_torch_where_torch_has_a_formula() -> None:
    shapes = {"query": (5, 8), "key": (6, 8), "value": (6, 10), "out": (5, 10)}
    query, key, value, out = (torch.empty(2, 4, *shape, device="meta") for shape in shapes.values())
    forward = aten._scaled_dot_product_efficient_attention
    backward = aten._scaled_dot_product_efficient_attention_backward
    for kernel, inputs in ((forward, (query, key, value)), (backward, (out, query, key, value))):
        assert FORMULAS[kernel](*inputs, out_val=None) == flop_registry[kernel](*inputs, out_val=None)


def argument_names(operator: Any) -> list[str]:
    return [argument.name.rstrip("_") for argument in operator.default._schema.arguments]


@pytest.mark.parametrize("operator", [op for op in FORMULAS if "attention" in str(op)], ids=str)
def test_attention_formulas_read_the_arguments_they_think_they_do(operator: Any) -> None:
    first = 1 if str(operator).endswith("_backward") else 0
    assert argument_names(operator)[first : first + 3] == ["query", "key", "value"]


def test_cudnn_formulas_read_the_arguments_they_think_they_do() -> None:
    assert argument_names(aten._cudnn_rnn)[:2] == ["input", "weight"]
    assert argument_names(aten._cudnn_rnn_backward)[:2] == ["input", "weight"]
    assert argument_names(aten._cudnn_rnn_backward)[-1] == "output_mask"


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_on_paper(need_weights: bool) -> None:
    module, tokens = nn.MultiheadAttention(8, 2, batch_first=True), leaf(3, 5, 8)
    projections = 2 * (3 * 5) * 8 * (4 * 8)
    attention = 2 * 2 * (3 * 2 * 5) * 5 * 4
    forward, _ = metered(lambda x: module(x, x, x, need_weights=need_weights)[0], tokens)
    assert forward == projections + attention


PRODUCT = 2 * 3 * 8 * 8


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def products_saved() -> Any:
    return create_selective_checkpoint_contexts([aten.addmm.default])


CHECKPOINTS: dict[str, tuple[bool, dict[str, Any], int]] = {
    # the last product's result is needed by no gradient, so it is not made again
    "early stop": (True, {"use_reentrant": False}, PRODUCT),
    "to the end": (False, {"use_reentrant": False}, 2 * PRODUCT),
    "reentrant": (True, {"use_reentrant": True}, 2 * PRODUCT),
    "products saved": (False, {"use_reentrant": False, "context_fn": products_saved}, 0),
}


@pytest.mark.parametrize(("early_stop", "options", "recomputed"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoint_adds_what_it_recomputes(early_stop: bool, options: Any, recomputed: int) -> None:
    module, rows = block(), leaf(3, 8)
    assert metered(module, rows) == (2 * PRODUCT, 6 * PRODUCT)
    with set_checkpoint_early_stop(early_stop):
        forward, total = metered(lambda x: checkpoint(module, x, **options), rows)
    assert (forward, total) == (2 * PRODUCT, 6 * PRODUCT + recomputed)


def test_nested_checkpoints_recompute_twice_what_lies_twice_inside() -> None:
    inner, head = block(), nn.Linear(8, 8)

    def outer(rows: Tensor) -> Any:
        return head(checkpoint(inner, rows, use_reentrant=False))

    _, plain = metered(lambda rows: head(inner(rows)), leaf(3, 8))
    _, nested = metered(lambda rows: checkpoint(outer, rows, use_reentrant=False), leaf(3, 8))
    again_for_outer, again_for_inner = 2 * PRODUCT, PRODUCT
    assert nested - plain == again_for_outer + again_for_inner


@pytest.fixture
def library() -> Iterator[torch.library.Library]:
    with torch.library._scoped_library("flops_test", "FRAGMENT") as library:
        yield library


def define(library: torch.library.Library, schema: str, run: Callable[..., Any], *tags: torch.Tag) -> Any:
    name = schema.partition("(")[0]
    library.define(schema, tags=tags)
    library.impl(name, run, "CompositeExplicitAutograd")
    return getattr(torch.ops.flops_test, name)


def test_operator_without_formula_is_named_once(library: torch.library.Library) -> None:
    def clear(x: Tensor) -> None:
        x.zero_()

    mystery = define(library, "mystery(Tensor x) -> Tensor", torch.sin)
    fill = define(library, "fill(Tensor(a!) x) -> ()", clear)
    integers = define(library, "integers(Tensor x) -> Tensor", torch.clone)
    with FlopMeter() as meter:
        before = meter.read()
        mystery(mystery(torch.ones(3)))
        fill(torch.empty(2))
        integers(torch.arange(3))
        torch.fft.rfft(torch.ones(4))
        torch.linalg.inv(torch.eye(2))
    assert before == FlopCount(flops=0, uncounted_ops=())
    named = ("aten._fft_r2c", "aten.linalg_inv_ex", "flops_test.fill", "flops_test.mystery")
    assert meter.read() == FlopCount(flops=0, uncounted_ops=named)


def test_bilinear_layer_is_named_rather_than_zero() -> None:
    with FlopMeter() as meter:
        nn.Bilinear(3, 4, 5)(torch.randn(2, 3), torch.randn(2, 4))
    assert meter.read().uncounted_ops == ("aten._trilinear",)


def test_operator_tagged_pointwise_is_zero(library: torch.library.Library) -> None:
    wave = define(library, "wave(Tensor x) -> Tensor", torch.sin, torch.Tag.pointwise)
    with FlopMeter() as meter:
        wave(torch.ones(3))
    assert meter.read() == FlopCount(flops=0, uncounted_ops=())


def test_registered_formula_is_used(library: torch.library.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    known = define(library, "known(Tensor x) -> Tensor", torch.sin)
    monkeypatch.setitem(flop_registry, known, lambda x, out_val: 100 * x.numel() + out_val.numel())
    with FlopMeter() as meter:
        known(torch.ones(3))
    assert meter.read() == FlopCount(flops=303, uncounted_ops=())


def test_an_operator_whose_registered_formula_fails_is_named(
    library: torch.library.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(x: Any, out_val: Any) -> int:
        assert x is out_val, "torch's own formulas assert as well"
        return 0

    known = define(library, "known(Tensor x) -> Tensor", torch.sin)
    monkeypatch.setitem(flop_registry, known, failing)
    with FlopMeter() as meter:
        known(torch.ones(3))
    assert meter.read() == FlopCount(flops=0, uncounted_ops=("flops_test.known",))


def test_composite_operator_is_counted_in_inference_mode() -> None:
    with FlopMeter() as meter, torch.inference_mode():
        nn.LSTM(WIDTH, HIDDEN)(torch.randn(LENGTH, BATCH, WIDTH))
        nn.Linear(8, 8)(torch.randn(3, 8))
    expected = recurrent_forward(nn.LSTM(WIDTH, HIDDEN)) + PRODUCT
    assert meter.read() == FlopCount(flops=expected, uncounted_ops=())


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}], ids=str)
def test_optimizer_step_is_zero(options: dict[str, Any]) -> None:
    weight = leaf(3)
    weight.grad = torch.ones(3)
    with FlopMeter() as meter:
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        torch.optim.AdamW([weight], **options).step()
    assert meter.read() == FlopCount(flops=0, uncounted_ops=())


def test_higher_order_operator_is_named() -> None:
    with FlopMeter() as meter:
        torch.ops.higher_order.cond(torch.tensor(True), torch.sin, torch.cos, (torch.ones(2),))
    assert meter.read().uncounted_ops == ("higher_order.cond",)


def test_every_free_kernel_is_one_torch_has() -> None:
    operators = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    packets = [getattr(aten, name) for name in operators if hasattr(aten, name)]
    known = {flops._kernel_name(getattr(packet, packet.overloads()[0])) for packet in packets}
    patterns = " ".join(FREE_KERNELS.values()).split()
    assert [pattern for pattern in patterns if not fnmatch.filter(known, pattern)] == []


def test_no_contraction_is_free() -> None:
    uncounted = "_trilinear _grouped_mm _cdist_forward _fft_r2c _linalg_svd linear matmul lstm gru miopen_rnn"
    contractions = {*FORMULAS, *flop_registry, *(getattr(aten, name) for name in uncounted.split())}
    packets = [operator for operator in contractions if hasattr(operator, "overloads")]
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    assert [str(overload) for overload in overloads if flops._is_free(overload)] == []


class LossOfProbabilities(nn.BCELoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.sigmoid(), target)


ROWS, SEQUENCE, IMAGE, VOLUME = (4, 8), (2, 4, 12), (2, 4, 8, 8), (1, 4, 8, 8, 8)
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
ONE_HOT = torch.eye(8)[:4]
CLASSES = torch.tensor([1, 0, 7, 3])
SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0])
ROW_LAYERS = """
    ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish Sigmoid LogSigmoid Tanh Hardtanh Hardswish Hardsigmoid Hardshrink
    Softshrink Tanhshrink Softplus Softsign PReLU RReLU GLU Dropout AlphaDropout FeatureAlphaDropout Identity Flatten"""
ROW_LOSSES = """
    MSELoss L1Loss SmoothL1Loss HuberLoss BCEWithLogitsLoss SoftMarginLoss HingeEmbeddingLoss MultiLabelSoftMarginLoss
    PoissonNLLLoss CrossEntropyLoss"""
LAYERS: list[tuple[nn.Module, list[Any]]] = [
    *[(getattr(nn, name)(), [ROWS]) for name in ROW_LAYERS.split()],
    *[(layer, [ROWS]) for layer in (
        nn.ReLU(inplace=True), nn.GELU("tanh"), nn.Threshold(0.1, 0.0), nn.Softmax(1), nn.LogSoftmax(1),
        nn.Softmin(1), nn.LayerNorm(8), nn.RMSNorm(8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.LSTMCell(8, 4),
        nn.GRUCell(8, 4), nn.Unflatten(1, (2, 4)), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    )],
    *[(layer, [SEQUENCE]) for layer in (
        nn.MaxPool1d(2), nn.AvgPool1d(2), nn.LPPool1d(2, 2), nn.AdaptiveAvgPool1d(3), nn.AdaptiveMaxPool1d(3),
        nn.InstanceNorm1d(4, affine=True), nn.ReflectionPad1d(1), nn.ReplicationPad1d(1), nn.ZeroPad1d(1),
        nn.CircularPad1d(1), nn.Dropout1d(0.5), nn.Upsample(scale_factor=2), nn.Conv1d(4, 4, 3),
        nn.Upsample(scale_factor=2, mode="linear"), nn.LSTM(12, 4, 2, dropout=0.5), nn.GRU(12, 4), nn.RNN(12, 4),
        nn.TransformerEncoderLayer(12, 2, 16, batch_first=True),
    )],
    *[(layer, [IMAGE]) for layer in (
        nn.MaxPool2d(2), nn.MaxPool2d(2, return_indices=True), nn.AvgPool2d(2), nn.LPPool2d(2, 2),
        nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(3), nn.FractionalMaxPool2d(2, 3),
        nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LocalResponseNorm(2), nn.Softmax2d(),
        nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ZeroPad2d(1), nn.ConstantPad2d(1, 2.0),
        nn.CircularPad2d(1), nn.Dropout2d(0.5), nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2),
        nn.Unfold(3), nn.UpsamplingNearest2d(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bicubic"), nn.Upsample(scale_factor=2, mode="nearest-exact"),
        nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"), nn.ConvTranspose2d(4, 4, 2),
    )],
    *[(layer, [VOLUME]) for layer in (
        nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(3), nn.AdaptiveMaxPool3d(3), nn.Dropout3d(0.5),
        nn.FractionalMaxPool3d(2, 3), nn.BatchNorm3d(4), nn.ReflectionPad3d(1), nn.ReplicationPad3d(1),
        nn.Upsample(scale_factor=2, mode="trilinear"), nn.Conv3d(4, 4, 2),
    )],
    *[(getattr(nn, name)(), [ROWS, ONE_HOT]) for name in ROW_LOSSES.split()],
    (nn.KLDivLoss(reduction="batchmean"), [ROWS, ONE_HOT]),
    (LossOfProbabilities(), [ROWS, ONE_HOT]),
    *[(loss, [ROWS, CLASSES]) for loss in (nn.CrossEntropyLoss(), nn.NLLLoss(), nn.MultiMarginLoss())],
    (nn.MultiLabelMarginLoss(), [ROWS, ONE_HOT.long()]),
    (nn.NLLLoss(), [(2, 4, 3), torch.tensor([[1, 0, 3], [2, 2, 0]])]),
    (nn.MarginRankingLoss(), [(4,), (4,), SIGNS]),
    (nn.CosineEmbeddingLoss(), [ROWS, ROWS, SIGNS]),
    (nn.TripletMarginLoss(), [ROWS, ROWS, ROWS]),
    (nn.GaussianNLLLoss(), [ROWS, ROWS, torch.ones(4, 8)]),
    (nn.CTCLoss(), [(6, 2, 4), torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 6]), torch.tensor([2, 2])]),
    (nn.CosineSimilarity(), [ROWS, ROWS]),
    (nn.PairwiseDistance(), [ROWS, ROWS]),
    (nn.Fold((4, 4), 2), [(2, 8, 9)]),
    (nn.MaxUnpool2d(2), [(1, 1, 2, 2), torch.tensor([[[[0, 2], [8, 10]]]])]),
    (nn.Embedding(10, 8), [TOKENS]),
    (nn.EmbeddingBag(10, 8), [TOKENS]),
    (nn.EmbeddingBag(10, 8, mode="max"), [TOKENS]),
    (nn.MultiheadAttention(12, 2, dropout=0.5), [SEQUENCE, SEQUENCE, SEQUENCE]),
    (nn.TransformerDecoderLayer(12, 2, 16), [SEQUENCE, SEQUENCE]),
]  # fmt: skip


def step(layer: nn.Module, inputs: list[Any]) -> list[Tensor | None]:
    """Loss and every gradient of one seeded step; a shape stands for a random tensor."""
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    tensors = [leaf(*given) if isinstance(given, tuple) else given for given in inputs]
    loss = squares(layer(*[tensor.clone() for tensor in tensors]))  # a clone, for layers that work in place
    loss.backward()
    return [loss.detach(), *(tensor.grad for tensor in [*tensors, *layer.parameters()])]


@pytest.mark.parametrize(("layer", "inputs"), LAYERS, ids=[type(layer).__name__ for layer, _ in LAYERS])
def test_meter_leaves_nothing_uncounted_and_the_gradients_alone(layer: nn.Module, inputs: list[Any]) -> None:
    plain = step(layer, inputs)
    with FlopMeter() as meter:
        under_the_meter = step(layer, inputs)
    assert meter.read().uncounted_ops == ()
    assert len(plain) == len(under_the_meter)
    for expected, seen in zip(plain, under_the_meter, strict=True):
        torch.testing.assert_close(seen, expected, rtol=0, atol=0, equal_nan=True)
