"""Networks of diffusers, and of transformers and diffusers under adapters of PEFT, from small configs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tests.zoo.network import Made, images, network, package, tokens
from tests.zoo.transformers_nets import DECODER, SIZES

diffusers = partial(network, library="diffusers")
checkpointed = partial(
    diffusers, own=lambda model: model.enable_gradient_checkpointing(), own_call="enable_gradient_checkpointing()"
)
peft = partial(network, library="peft")
peft_checkpointed = partial(
    peft, own=lambda model: model.gradient_checkpointing_enable(), own_call="gradient_checkpointing_enable()"
)


def _built(name: str, **sizes: Any) -> Any:
    return getattr(package("diffusers"), name)(**sizes)


def _noise(side: int = 32, channels: int = 4, batch: int = 2) -> dict[str, Any]:
    return {"sample": torch.randn(batch, channels, side, side), "timestep": torch.arange(batch), "return_dict": False}


@checkpointed("skips", "lists of lists")
def unet() -> Made:
    model = _built(
        "UNet2DModel",
        sample_size=32,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    return model, _noise()


_CONDITIONAL: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}


@checkpointed("skips", "lists of lists", "tuples")
def unet_conditional() -> Made:
    return _built("UNet2DConditionModel", **_CONDITIONAL), _noise() | {"encoder_hidden_states": torch.randn(2, 16, 32)}


@checkpointed("skips", "two encoders")
def controlnet() -> Made:
    sizes = {
        key: value
        for key, value in _CONDITIONAL.items()
        if key not in ("sample_size", "out_channels", "up_block_types")
    }
    model = _built("ControlNetModel", conditioning_embedding_out_channels=(8, 16), **sizes)
    seen = {"encoder_hidden_states": torch.randn(2, 16, 32), "controlnet_cond": torch.randn(2, 3, 64, 64)}
    return model, _noise() | seen


@diffusers("stages by name", "skips")
def unet_1d() -> Made:
    model = _built(
        "UNet1DModel",
        sample_size=256,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        extra_in_channels=32,
    )
    return model, {"sample": torch.randn(2, 4, 256), "timestep": torch.tensor([1, 2]), "return_dict": False}


@checkpointed("plain chain", "tuples")
def dit() -> Made:
    model = _built(
        "DiTTransformer2DModel",
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=16,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    )
    batch = {"hidden_states": torch.randn(4, 4, 16, 16), "timestep": torch.arange(4), "class_labels": torch.arange(4)}
    return model, batch | {"return_dict": False}


@checkpointed("tuples", "two encoders")
def sd3_transformer() -> Made:
    """Image and text go through every block together."""
    model = _built(
        "SD3Transformer2DModel",
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pooled_projection_dim=32,
        out_channels=4,
    )
    batch = {"hidden_states": torch.randn(4, 4, 16, 16), "encoder_hidden_states": torch.randn(4, 16, 32)}
    return model, batch | {"pooled_projections": torch.randn(4, 32), "timestep": torch.arange(4), "return_dict": False}


@checkpointed("tuples", "two encoders")
def flux() -> Made:
    model = _built(
        "FluxTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    batch = {"hidden_states": torch.randn(2, 64, 16), "encoder_hidden_states": torch.randn(2, 16, 32)}
    batch |= {"pooled_projections": torch.randn(2, 32), "timestep": torch.tensor([0.1, 0.5])}
    batch |= {"img_ids": torch.zeros(64, 3), "txt_ids": torch.zeros(16, 3)}
    return model, batch | {"return_dict": False}


@checkpointed("plain chain")
def pixart() -> Made:
    model = _built(
        "PixArtTransformer2DModel",
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=16,
        cross_attention_dim=64,
        caption_channels=32,
        use_additional_conditions=False,
    )
    batch = {"hidden_states": torch.randn(2, 4, 16, 16), "encoder_hidden_states": torch.randn(2, 16, 32)}
    batch |= {"timestep": torch.arange(2)}
    seen = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}, "return_dict": False}
    return model, batch | seen


@checkpointed("plain chain")
def wan_video() -> Made:
    model = _built(
        "WanTransformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=96,
        num_layers=4,
    )
    batch = {"hidden_states": torch.randn(1, 4, 4, 16, 16), "encoder_hidden_states": torch.randn(1, 16, 32)}
    return model, batch | {"timestep": torch.tensor([1]), "return_dict": False}


@checkpointed("skips", "lists of lists")
def autoencoder() -> Made:
    model = _built(
        "AutoencoderKL",
        sample_size=32,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return model, {"sample": images(2, 32), "sample_posterior": True, "return_dict": False}


@diffusers("lists of lists")
def vq_model() -> Made:
    model = _built(
        "VQModel",
        sample_size=32,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        num_vq_embeddings=16,
        vq_embed_dim=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return model, {"sample": images(2, 32), "return_dict": False}


def _llama() -> Any:
    package_ = package("transformers")
    return package_.LlamaForCausalLM(package_.LlamaConfig(**DECODER))


def _adapted(model: Any, kind: str, **options: Any) -> Any:
    adapters = package("peft")
    return adapters.get_peft_model(model, getattr(adapters, kind)(**options))


def _causal() -> dict[str, Any]:
    drawn = tokens()
    return {"input_ids": drawn, "labels": drawn, "use_cache": False}


@peft_checkpointed("frozen base", "plain chain")
def lora_llama() -> Made:
    options: dict[str, Any] = {"r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj", "up_proj"]}
    return _adapted(_llama(), "LoraConfig", task_type="CAUSAL_LM", **options), _causal()


@peft_checkpointed("frozen base", "plain chain")
def ia3_bert() -> Made:
    library = package("transformers")
    model = library.BertForMaskedLM(library.BertConfig(**SIZES, max_position_embeddings=128))
    options = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
    drawn = tokens()
    return _adapted(model, "IA3Config", **options), {"input_ids": drawn, "labels": drawn}


@peft("frozen base", "tuples")
def prefix_llama() -> Made:
    options: dict[str, Any] = {"num_virtual_tokens": 8, "task_type": "CAUSAL_LM"}
    drawn = tokens()
    return _adapted(_llama(), "PrefixTuningConfig", **options), {"input_ids": drawn, "labels": drawn}


@peft("frozen base", "skips", "lists of lists")
def lora_unet() -> Made:
    model = _built("UNet2DConditionModel", **_CONDITIONAL)
    options: dict[str, Any] = {"r": 4, "target_modules": ["to_q", "to_v"], "init_lora_weights": "gaussian"}
    model.requires_grad_(False)
    model.add_adapter(package("peft").LoraConfig(**options))
    return model, _noise() | {"encoder_hidden_states": torch.randn(2, 16, 32)}
