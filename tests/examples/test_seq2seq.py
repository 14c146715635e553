"""Sequence to sequence: cross-attention reads the encoder's output from every block of the decoder."""

from typing import Any

import pytest
import torch
from tests.examples.training import assert_nothing_changes, library, peak_bytes, regions, seeded, step

from rematbench import Placement, applied
from rematbench.errors import PlacementError

transformers = library("transformers")

TOKENS = torch.randint(3, 64, (4, 24), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": TOKENS, "labels": TOKENS[:, :12].clone(), "use_cache": False}


def t5() -> Any:
    config = transformers.T5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=3, num_heads=4, vocab_size=64, decoder_start_token_id=0
    )
    return seeded(lambda: transformers.T5ForConditionalGeneration(config))


def bart() -> Any:
    sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in SIZES.items()}
    config = transformers.BartConfig(d_model=64, vocab_size=64, max_position_embeddings=32, **sizes, **BART_TOKENS)
    return seeded(lambda: transformers.BartForConditionalGeneration(config))


SIZES = {"layers": 3, "attention_heads": 4, "ffn_dim": 128}
BART_TOKENS = {f"{name}_token_id": number for number, name in enumerate(["bos", "pad", "eos", "decoder_start"])}


@pytest.mark.parametrize(
    ("build", "placement"),
    [
        (t5, "each"),
        (t5, regions("encoder.block[1:3]", "decoder.block[1:3]", "decoder.block[1]")),
        (bart, "each"),
        (bart, regions("model.encoder.layers[0:2]", "model.decoder.layers[0:3]")),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_training_is_the_same(build: Any, placement: Placement | str) -> None:
    assert_nothing_changes(build(), BATCH, placement)


def test_a_strategy_takes_both_stacks() -> None:
    model = t5()
    plain = peak_bytes(model, BATCH)
    with applied(model, "each") as handle:
        assert [path.rpartition(".")[0] for path in handle.blocks] == ["encoder.block"] * 3 + ["decoder.block"] * 3
        assert peak_bytes(model, BATCH) < plain / 1.8


def test_the_first_blocks_bias_is_seen_to_reach_the_others() -> None:
    """T5's first block makes the position bias of all: a region may begin after it and not with it."""
    with (
        applied(model := t5(), regions("encoder.block[0:2]")),
        pytest.raises(PlacementError, match=r"encoder.block.1 got other .*, in args\[2\]: end the region before"),
    ):
        step(model, BATCH)


def test_a_cache_that_a_recomputation_writes_to_is_told_by_its_block() -> None:
    with (
        pytest.raises(PlacementError, match=r"decoder.block.2 did other things when .* \(a cache"),
        applied(model := t5(), "each"),
    ):
        step(model, BATCH | {"use_cache": True})
