"""Networks of transformers, from small configs, checkpointed by `gradient_checkpointing_enable()`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tests.zoo.network import Made, images, network, package, tokens

transformers = partial(network, library="transformers")
checkpointed = partial(
    transformers,
    own=lambda model: model.gradient_checkpointing_enable(),
    own_call="gradient_checkpointing_enable()",
)

SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
"""What most configs call the sizes of a small transformer."""

DECODER = SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0}


def _built(name: str, **sizes: Any) -> Any:
    """Build `NameFor…` from its config, whose class the model's class names."""
    model = getattr(package("transformers"), name)
    return model(model.config_class(**sizes))


def _causal(**further: Any) -> tuple[dict[str, Any], ...]:
    drawn = tokens()
    return ({"input_ids": drawn, "labels": drawn, "use_cache": False} | further,)


def _masked(**further: Any) -> dict[str, Any]:
    drawn = tokens()
    mask = torch.ones_like(drawn)
    mask[0, -16:] = 0
    return {"input_ids": drawn, "attention_mask": mask, "labels": drawn} | further


@checkpointed("plain chain")
def gpt2() -> Made:
    return _built("GPT2LMHeadModel", n_embd=64, n_layer=6, n_head=4, vocab_size=256, n_positions=128), *_causal()


@checkpointed("plain chain")
def llama() -> Made:
    return _built("LlamaForCausalLM", **DECODER), *_causal()


@checkpointed("KV cache")
def llama_cache() -> Made:
    return _built("LlamaForCausalLM", **DECODER), *_causal(use_cache=True)


@checkpointed("hooks")
def llama_hidden_states() -> Made:
    """Every layer's result is collected, by hooks of the library."""
    return _built("LlamaForCausalLM", **DECODER), *_causal(output_hidden_states=True)


@checkpointed("plain chain")
def qwen3() -> Made:
    return _built("Qwen3ForCausalLM", **DECODER, head_dim=16), *_causal()


@checkpointed("masks by layer")
def gemma2() -> Made:
    """Every second layer sees a window of 16 tokens only."""
    return _built("Gemma2ForCausalLM", **DECODER, head_dim=16, sliding_window=16), *_causal()


@checkpointed("masks by layer")
def gemma3() -> Made:
    model = _built("Gemma3ForCausalLM", **DECODER, head_dim=16, sliding_window=16, sliding_window_pattern=3)
    return model, *_causal()


@checkpointed("masks by layer")
def gpt_neo() -> Made:
    sizes: dict[str, Any] = {"hidden_size": 64, "num_layers": 6, "num_heads": 4, "window_size": 16, "vocab_size": 256}
    model = _built(
        "GPTNeoForCausalLM", attention_types=[[["global", "local"], 3]], max_position_embeddings=128, **sizes
    )
    return model, *_causal()


@checkpointed("hooks", "mixture of experts")
def mixtral() -> Made:
    model = _built("MixtralForCausalLM", **DECODER, num_local_experts=4, output_router_logits=True)
    return model, *_causal(output_router_logits=True)


@checkpointed("hooks", "mixture of experts")
def olmoe() -> Made:
    model = _built("OlmoeForCausalLM", **DECODER, num_experts=4, num_experts_per_tok=2, output_router_logits=True)
    return model, *_causal(output_router_logits=True)


@checkpointed("plain chain", "parallel branches")
def gpt_neox() -> Made:
    """Attention and feed-forward side by side."""
    return _built("GPTNeoXForCausalLM", **SIZES, max_position_embeddings=128), *_causal()


@checkpointed("plain chain")
def bloom() -> Made:
    return _built("BloomForCausalLM", vocab_size=256, hidden_size=64, n_layer=6, n_head=4), *_causal()


@checkpointed("recurrence")
def mamba() -> Made:
    model = _built("MambaForCausalLM", vocab_size=256, hidden_size=48, num_hidden_layers=4, state_size=8)
    drawn = tokens(2, 24)
    return model, {"input_ids": drawn, "labels": drawn, "use_cache": False}


@checkpointed("plain chain")
def bert() -> Made:
    return _built("BertForMaskedLM", **SIZES, max_position_embeddings=128), _masked()


@transformers("shared layers")
def albert() -> Made:
    model = _built("AlbertForMaskedLM", **SIZES, embedding_size=32, max_position_embeddings=128)
    return model, _masked()


@checkpointed("plain chain")
def distilbert() -> Made:
    model = _built(
        "DistilBertForMaskedLM",
        vocab_size=256,
        dim=64,
        n_layers=6,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=128,
    )
    return model, _masked()


@checkpointed("tuples", "masks by layer")
def deberta_v2() -> Made:
    sizes: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
    return _built("DebertaV2ForMaskedLM", **SIZES, **sizes, max_position_embeddings=128), _masked()


@checkpointed("tuples", "module called several times", "two encoders")
def t5() -> Made:
    """One dropout is called before and after each stack; the position bias goes from the first layer to all."""
    sizes: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_heads": 4}
    model = _built("T5ForConditionalGeneration", vocab_size=256, decoder_start_token_id=0, **sizes)
    return model, _masked(use_cache=False)


_SEQ2SEQ: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 256,
}


@checkpointed("layer drop", "two encoders")
def bart_layerdrop() -> Made:
    model = _built(
        "BartForConditionalGeneration",
        **_SEQ2SEQ,
        max_position_embeddings=128,
        encoder_layerdrop=0.3,
        decoder_layerdrop=0.3,
    )
    return model, _masked(use_cache=False)


@checkpointed("two encoders")
def whisper() -> Made:
    model = _built(
        "WhisperForConditionalGeneration",
        **_SEQ2SEQ,
        num_mel_bins=16,
        max_source_positions=64,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return model, {"input_features": torch.randn(2, 16, 128), "labels": tokens(2, 32), "use_cache": False}


@checkpointed("in-place view", "layer drop")
def wav2vec2() -> Made:
    """Time steps are masked by writing into the hidden states; layers are left out at random."""
    sizes: dict[str, Any] = {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 4, 4)}
    sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.2}
    model = _built("Wav2Vec2ForCTC", **SIZES | {"vocab_size": 32}, **sizes, ctc_loss_reduction="mean")
    return model, {"input_values": torch.randn(2, 8000), "labels": torch.randint(1, 32, (2, 8))}


@checkpointed("plain chain")
def vit() -> Made:
    model = _built("ViTForImageClassification", **SIZES, image_size=64, patch_size=8, num_labels=10)
    return model, {"pixel_values": images(), "labels": torch.tensor([1, 2, 3, 4])}


@checkpointed("chains in chains", "tuples")
def swin() -> Made:
    sizes: dict[str, Any] = {"image_size": 64, "patch_size": 2, "window_size": 4, "embed_dim": 24, "num_labels": 10}
    model = _built("SwinForImageClassification", depths=[2, 4, 2], num_heads=[2, 4, 8], **sizes)
    return model, {"pixel_values": images(), "labels": torch.tensor([1, 2, 3, 4])}


@checkpointed("lists of lists", "tuples")
def segformer() -> Made:
    sizes: dict[str, Any] = {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2], "decoder_hidden_size": 32}
    model = _built("SegformerForSemanticSegmentation", num_attention_heads=[1, 2, 3, 4], num_labels=5, **sizes)
    return model, {"pixel_values": images(2), "labels": torch.randint(0, 5, (2, 64, 64))}


@transformers("chains in chains")
def convnext_v2() -> Made:
    sizes: dict[str, Any] = {"hidden_sizes": [16, 32, 64, 96], "depths": [2, 2, 4, 2], "image_size": 64}
    model = _built("ConvNextV2ForImageClassification", num_labels=10, **sizes)
    return model, {"pixel_values": images(), "labels": torch.tensor([1, 2, 3, 4])}


@checkpointed("two encoders")
def clip() -> Made:
    text = SIZES | {"max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    seen = SIZES | {"image_size": 64, "patch_size": 8}
    del seen["vocab_size"]
    model = _built("CLIPModel", text_config=text, vision_config=seen, projection_dim=32)
    return model, {"input_ids": tokens(4, 32), "pixel_values": images(), "return_loss": True}


@transformers("adaptive depth", "skips", "tuples")
def funnel() -> Made:
    sizes: dict[str, Any] = {"d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [2, 2, 2]}
    return _built("FunnelForMaskedLM", vocab_size=256, num_decoder_layers=2, **sizes), _masked()


@transformers("tuples", "masks by layer")
def xlnet() -> Made:
    sizes: dict[str, Any] = {"d_model": 64, "n_layer": 6, "n_head": 4, "d_inner": 128}
    drawn = tokens()
    return _built("XLNetLMHeadModel", vocab_size=256, **sizes), {"input_ids": drawn, "labels": drawn}


@transformers("plain chain")
def patch_tst() -> Made:
    sizes: dict[str, Any] = {"context_length": 64, "patch_length": 8, "patch_stride": 4, "prediction_length": 8}
    model = _built("PatchTSTForPrediction", num_input_channels=4, d_model=48, ffn_dim=96, num_hidden_layers=4, **sizes)
    return model, {"past_values": torch.randn(4, 64, 4), "future_values": torch.randn(4, 8, 4)}
