"""FLOPs of a training step, counted operator by operator while it runs.

The convention is that of `torch.utils.flop_counter`: a multiply-accumulate is 2 FLOPs, and only contractions
(matrix products, convolutions, attention, recurrent layers) count. Work in proportion to an operator's
elements is zero.
"""

import fnmatch
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from rematbench.torch_internals import DispatchMode, Operator, flop_formulas, pytree, schema_of

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """What a `FlopMeter` has seen so far.

    flops: of all contractions, recomputed ones included.
    uncounted_ops: operators that moved floating-point tensors and have no formula, or one of torch's that failed,
        as `namespace.op`, sorted. Where there are any, `flops` is a lower bound.
    """

    flops: int
    uncounted_ops: tuple[str, ...]


REFUSAL = RuntimeError
"""What torch raises where it does not run something under a dispatch mode; of running out of memory it is a kind too.

`NotImplementedError`, which is one, for a higher-order operator without a rule for modes (torch/_ops.py); dynamo's own
(torch/_dynamo/exc.py) for one that compiles itself, as flex attention does. What is wrong in a formula is none.
"""


class FlopMeter(DispatchMode):
    """Counts the FLOPs of what runs inside the `with` block, backward and recomputation included.

        with FlopMeter() as meter:
            loss = model(x).sum()
            forward = meter.read()
            loss.backward()
            total = meter.read()

    `calls` are the contractions in their order, each with its FLOPs.

    What a selective checkpoint policy kept is not run again, so not counted again. Formulas registered with
    `torch.utils.flop_counter.register_flop_formula` before the meter is made are used.

    Count in a pass of its own. Results are left alone, but under any dispatch mode torch takes the gradients
    of `prod` and `cumprod` by another route, whose last bits may differ, and runs a `torch.compile`d region
    eagerly: what is counted for it is its eager step.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas: dict[Any, Callable[..., int]] = flop_formulas() | FORMULAS
        self.calls: list[tuple[str, int]] = []
        self._uncounted: set[str] = set()

    def read(self) -> FlopCount:
        """The count since the meter was made; counting goes on."""
        return FlopCount(flops=sum(flops for _, flops in self.calls), uncounted_ops=tuple(sorted(self._uncounted)))

    def __torch_dispatch__(
        self,
        func: Any,
        _types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operator = getattr(func, "overloadpacket", func)  # a formula is an operator's, not one overload's
        formula = self._formulas.get(operator)
        if formula is None and not _is_free(func):
            return self._run_without_formula(func, operator, args, kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            try:
                self.calls.append((_name_of(func, operator), formula(*args, **kwargs, out_val=out)))
            except Exception:
                if operator in FORMULAS:
                    raise
                # torch's formulas assert what not every call of their operator is, and a user's may do anything.
                traceback.print_exc()
                self._uncounted.add(_name_of(func, operator))
        return out

    def _run_without_formula(self, func: Any, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if torch.is_inference_mode_enabled() and isinstance(func, Operator):
            # Elsewhere autograd has already taken composite operators (`linear`, `lstm`) apart.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if any(_is_floating(leaf) for leaf in pytree.tree_leaves((args, kwargs, out))):
            self._uncounted.add(_name_of(func, operator))
        return out


def _name_of(func: Any, operator: Any) -> str:
    return f"{func.namespace}.{operator.__name__}"


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _times_vector(matrix: Tensor, *_: object, **__: object) -> int:
    return 2 * matrix.numel()


def _add_times_vector(_addend: Tensor, matrix: Tensor, *_: object, **__: object) -> int:
    return 2 * matrix.numel()


def _add_product(_addend: Tensor, left: Tensor, right: Tensor, *_: object, **__: object) -> int:
    return 2 * left.numel() * right.shape[-1]


def _convolution_backward(grad_out: Tensor, input: Tensor, weight: Tensor, *rest: Any, **_: object) -> int:
    """Each gradient, of the input and of the weight, repeats the forward's multiply-accumulates.

    Stands in for torch's formula, which as late as 2.13 counts the weight's gradient `groups` times.
    """
    *_before, transposed, _output_padding, _groups, (input_wanted, weight_wanted, _) = rest
    positions = prod((input if transposed else grad_out).shape[2:])
    forward = 2 * input.shape[0] * positions * weight.numel()
    return forward * (bool(input_wanted) + bool(weight_wanted))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    """Scores, then their product with the values; (batch, heads, length, width) each, masks not discounted.

    Stands in for torch's formula, which in 2.9 refuses grouped queries (more query heads than key heads).
    """
    return _score_products(query, key, query.shape[-1] + value.shape[-1])


def _attention_backward(_grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    """The scores again and the gradients of query, key, value and scores."""
    return _score_products(query, key, 3 * query.shape[-1] + 2 * value.shape[-1])


def _score_products(query: Tensor, key: Tensor, width: int) -> int:
    scores = prod(query.shape[:-1]) * key.shape[-2]
    return 2 * scores * width


def _recurrent(input: Tensor, weights: Sequence[Tensor], *_: object, **__: object) -> int:
    """Each weight matrix, of each layer and direction, multiplies each token; input is (..., width)."""
    tokens = prod(input.shape[:-1])
    return 2 * tokens * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _cudnn_rnn_backward(input: Tensor, weights: Sequence[Tensor], *rest: Any, **_: object) -> int:
    # The input's gradient is computed even where only the weights' is wanted (ATen/native/cudnn/RNN.cpp).
    output_mask: Sequence[bool] = rest[-1]
    return _recurrent(input, weights) * (1 + output_mask[3])


def _mkldnn_rnn(input: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: object, **__: object) -> int:
    # One layer, one direction. Without biases, weights of another direction stand in the biases' place.
    return _recurrent(input, (weight_ih, weight_hh))


def _mkldnn_rnn_backward(input: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: object, **__: object) -> int:
    # oneDNN computes the gradients of input, states and weights, wanted or not.
    return 2 * _recurrent(input, (weight_ih, weight_hh))


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.dot: _times_vector,
    aten.vdot: _times_vector,
    aten.mv: _times_vector,
    aten.addmv: _add_times_vector,
    aten.addmv_: _add_times_vector,
    aten.addmm_: _add_product,
    aten.addbmm: _add_product,
    aten.addbmm_: _add_product,
    aten.baddbmm_: _add_product,
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_fused_attention_overrideable_backward: _attention_backward,
    aten._cudnn_rnn: _recurrent,
    aten._cudnn_rnn_backward: _cudnn_rnn_backward,
    aten.mkldnn_rnn_layer: _mkldnn_rnn,
    aten.mkldnn_rnn_layer_backward: _mkldnn_rnn_backward,
}
"""FLOP formulas torch lacks, or has wrong in a supported version.

Each takes its operator's arguments, tensors included, and as `out_val` what the operator returned.
"""

FREE_KERNELS = {
    # torch tags reductions too, but not yet in 2.9
    "reductions": """
        all amax amin aminmax any argmax argmin count_nonzero dist is_all_true is_any_true linalg_vector_norm
        logsumexp max mean median min mode nanmedian nansum norm prod std std_mean sum trace var var_mean""",
    "scans, sorting, searching": """
        bincount bucketize cum* histc isin kthvalue logcumsumexp searchsorted sort topk unique*""",
    "element-wise without the tag": """
        addr floor_divide glu hardswish leaky_relu linalg_cross log_sigmoid prelu_kernel rrelu*""",
    # their matrix products are operators of their own
    "gates of recurrent cells": "thnn_fused_*_cell",
    "softmax": "log_softmax masked_softmax safe_softmax softmax",
    "normalisation": """
        *batch_norm* fused_rms_norm native_group_norm native_layer_norm native_norm renorm
        weight_norm_interface""",
    "pooling": "*_pool?d* max_unpool?d",
    "losses": "*_loss *_loss2d binary_cross_entropy*",
    "dropout, random numbers": """
        bernoulli binomial cauchy dirichlet_grad exponential *_dropout geometric log_normal masked_scale
        multinomial normal poisson random sample_dirichlet standard_gamma* uniform""",
    "embedding, indexing": """
        embedding* gather index index_* masked_scatter masked_select nonzero* put scatter scatter_*
        segment_reduce take unsafe_index* unsafe_masked_index*""",
    "new tensors, copies": """
        *_like complex copy cudnn_rnn_flatten_weight fill lazy_clone lift new_* pin_memory polar record_stream
        reshape_copy resize resize_as set to_copy zero""",
    "rearrangement": """
        *_scatter block_diag cat channel_shuffle chunk_cat col2im diag_embed flip im2col
        jagged_to_padded_dense pack_padded_sequence padded_dense_to_jagged pixel_* repeat repeat_interleave
        roll rot90 stack tril triu unsafe_split* unsafe_view""",
    "padding, resampling": "*_pad?d *affine_grid_generator constant_pad_nd *grid_sampler* upsample_*",
    "optimizers, gradient scaling": "amp_* fused_ad* fused_sgd",
}
"""Kernels of aten whose work is in proportion to their elements, though no tag of torch's says so.

Spelled as `_kernel_name` spells them, so that a gradient or an in-place variant goes with its forward; `*`
and `?` match as they do in file names.
"""

_FREE_KERNEL = re.compile("|".join(fnmatch.translate(name) for name in " ".join(FREE_KERNELS.values()).split()))


@cache
def _is_free(func: Any) -> bool:
    """Whether the work is zero by convention: views, element-wise work, new tensors, plain questions."""
    if not isinstance(func, Operator):
        return False
    if func.namespace not in ("aten", "prim"):
        return _is_tagged(func)
    kernel, schema = _kernel_name(func), schema_of(func)
    takes_tensor = any("Tensor" in str(argument.type) for argument in schema.arguments)
    gives_tensor = schema.is_mutable or any("Tensor" in str(result.type) for result in schema.returns)
    if _FREE_KERNEL.match(kernel) or not takes_tensor or not gives_tensor:
        return True
    # Gradients, in-place and foreach variants often lack the tag of the operator they belong to.
    family = getattr(aten, kernel, func.overloadpacket)
    return _is_tagged(func) or any(_is_tagged(getattr(family, overload)) for overload in family.overloads())


def _kernel_name(func: Operator) -> str:
    """`abs_`, `_foreach_abs` -> `abs`; `_softmax_backward_data` -> `softmax`; `glu_backward` -> `glu`."""
    name = schema_of(func).name.partition("::")[2].strip("_").removeprefix("foreach_")
    return re.sub(r"_(backward|forward|functional)(_.*)?$", "", name)


def _is_tagged(func: Operator) -> bool:
    free_tags = (torch.Tag.pointwise, torch.Tag.view_copy, torch.Tag.inplace_view)
    return func.is_view or any(tag in func.tags for tag in free_tags)
