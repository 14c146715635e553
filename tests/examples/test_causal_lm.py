"""A causal language model of the transformers library."""

import copy
from typing import Any

import pytest
import torch
from tests.examples.training import assert_nothing_changes, equal, flops, library, peak_bytes, regions, seeded, step
from torch import Tensor, nn

from rematbench import Placement, applied, apply, outline
from rematbench.errors import PlacementError
from rematbench.inspecting.caches import warnings_about

transformers = library("transformers")

LLAMA = {"num_key_value_heads": 2, "intermediate_size": 128}
TOKENS = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": TOKENS, "labels": TOKENS, "use_cache": False}
TWO_BLOCKS = regions("model.layers[1:3]")


def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, vocab_size=64, attention_dropout=0.1, **LLAMA
    )
    return seeded(lambda: transformers.LlamaForCausalLM(config))


def gpt2() -> Any:
    """With dropout everywhere, so that the random state has to be replayed."""
    config = transformers.GPT2Config(
        n_embd=64, n_layer=4, n_head=4, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return seeded(lambda: transformers.GPT2LMHeadModel(config))


@pytest.mark.parametrize("placement", ["each", "nested:2", "each+save=matmuls", "segments:2"])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_training_is_the_same(build: Any, placement: str) -> None:
    assert_nothing_changes(build(), BATCH, placement)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_each_is_the_librarys_own_checkpointing() -> None:
    """Known answer: what the library does when asked to checkpoint; both far below the plain step."""
    model, theirs = llama(), llama()
    plain = peak_bytes(model, BATCH)
    theirs.gradient_checkpointing_enable()
    with applied(model, "each"):
        assert equal(step(model, BATCH), step(theirs, BATCH))
        assert peak_bytes(model, BATCH) == pytest.approx(peak_bytes(theirs, BATCH), rel=0.01)
        assert peak_bytes(model, BATCH) < plain / 2


class Written(nn.Module):
    """The same blocks rewritten as a chain, as one would do who has no regions over neighbours."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        layers = self.model.model.layers
        self.model.model.layers = nn.ModuleList([layers[0], Chain([*layers[1:3]]), layers[3]])
        self.model.config.num_hidden_layers = 3

    def forward(self, **batch: Any) -> Any:
        return self.model(**batch)


class Chain(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, hidden: Tensor, **further: Any) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden, **further)
        return hidden


def test_a_region_of_two_blocks_costs_what_it_costs_in_a_chain() -> None:
    model = llama()
    chain = Written(model)
    plain = step(model, BATCH), peak_bytes(model, BATCH), flops(model, BATCH)
    with applied(chain, regions("model.model.layers[1]")):
        written = step(chain, BATCH), peak_bytes(chain, BATCH), flops(chain, BATCH)
    with applied(model, TWO_BLOCKS):
        assert equal(step(model, BATCH), plain[0])
        assert list(map(torch.equal, step(model, BATCH).values(), written[0].values())) == [True] * len(plain[0])
        assert peak_bytes(model, BATCH) == written[1] < plain[1]
        assert flops(model, BATCH) == written[2] > plain[2]


def test_hidden_states_that_are_collected_are_refused() -> None:
    """The library collects them by hooks that stay on the blocks; regions of one block do not mind."""
    model = llama()
    with applied(model, TWO_BLOCKS), pytest.raises(PlacementError, match=r"layers.1 has hooks of its own"):
        model(**BATCH, output_hidden_states=True)
    with applied(model, "each"):
        assert len(model(**BATCH, output_hidden_states=True).hidden_states) == 5
    assert_nothing_changes(model, BATCH, "each")


def test_a_cache_is_remarked() -> None:
    model = llama()
    with applied(model, "each"):
        cached, without = (model(**BATCH | {"use_cache": use}) for use in (True, False))
    held = 2 * 4 * TOKENS.numel() * 2 * 16 * 4  # keys and values of 4 blocks: tokens × 2 heads × 16, four bytes each
    assert warnings_about(without) == []
    (remark,) = warnings_about(cached)
    assert "past_key_values" in remark
    assert f"{held / 2**10:.0f} KiB" in remark
    assert "use_cache=False" in remark


def test_generation_is_left_alone() -> None:
    """Without gradients there is nothing to checkpoint: caches and loops do as they like."""
    model = llama().eval()
    wanted = model.generate(TOKENS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    with applied(model, TWO_BLOCKS):
        assert torch.equal(model.generate(TOKENS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0), wanted)


def test_a_placement_for_another_depth_is_refused() -> None:
    model = llama()
    placement = Placement(name="plan", regions=TWO_BLOCKS.regions, fingerprint=outline(model).fingerprint)
    apply(model, placement).remove()
    model.model.layers.append(copy.deepcopy(model.model.layers[0]))
    with pytest.raises(PlacementError, match=r"'plan' was made for another model \(\d+ modules then, \d+ .* now\)"):
        apply(model, placement)
