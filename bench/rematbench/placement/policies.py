"""Save policies, each declared once: its name, and the operators whose outputs a region keeps under it.

Named by what they keep, as in JAX's `checkpoint_policies`. A policy of one's own is a function, `module:attribute`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SavePolicy:
    """What a region keeps besides its inputs.

    Attributes:
        keeps: operators of `torch.ops.aten` by name; one that a release of torch does not have is never run by it.
    """

    name: str
    meaning: str
    keeps: tuple[str, ...] = ()


_DECLARED = (
    SavePolicy(name="nothing", meaning="nothing but its inputs: all of the region runs again in backward"),
    SavePolicy(
        name="matmuls",
        meaning="outputs of matrix products, convolutions and attention kernels: what is cheap runs again",
        # Their cost grows faster than their elements.
        keeps=(
            "mm",
            "addmm",
            "bmm",
            "baddbmm",
            "_scaled_mm",
            "convolution",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
        ),
    ),
    SavePolicy(name="everything", meaning="everything autograd saves: nothing runs again"),
)

SAVE_POLICIES = {policy.name: policy for policy in _DECLARED}

SELECTIVE = tuple(policy.name for policy in _DECLARED if policy.keeps)
"""Those between `nothing` and `everything`: what a planner may choose from for single blocks."""
