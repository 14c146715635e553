"""A U-Net of the diffusers library: long skips that are concatenated, and attention."""

from typing import Any

import pytest
import torch
from tests.examples.training import assert_nothing_changes, library, peak_bytes, regions, seeded, step

from rematbench import Placement, applied
from rematbench.errors import PlacementError

diffusers = library("diffusers")

BATCH = {"sample": torch.randn(2, 1, 16, 16), "timestep": torch.tensor([1, 2]), "return_dict": False}


def unet() -> Any:
    return seeded(
        lambda: diffusers.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            dropout=0.1,
        )
    )


@pytest.mark.parametrize(
    "placement", ["each", "modules:**.resnets.*", regions("mid_block", "down_blocks[1].resnets[0]")], ids=str
)
def test_training_is_the_same(placement: Placement | str) -> None:
    assert_nothing_changes(unet(), BATCH, placement)


def test_a_strategy_takes_the_way_down_and_up() -> None:
    model = unet()
    plain = peak_bytes(model, BATCH)
    with applied(model, "each") as handle:
        assert {"down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1"} <= set(handle.blocks)
        assert peak_bytes(model, BATCH) < plain / 1.5


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("down_blocks[0:2]", "what down_blocks.0 returns in cat"),
        ("down_blocks[0].resnets", "what down_blocks.0.resnets.0 returns in"),
        ("mid_block.resnets", "what mid_block.resnets.0 returns in"),
    ],
)
def test_a_skip_out_of_a_region_is_told_by_its_block(path: str, named: str) -> None:
    """Every skip leaves from between two blocks, and `mid_block` puts attention between its two."""
    path = path if path.endswith("]") else f"{path}[0:2]"
    with applied(model := unet(), regions(path)), pytest.raises(PlacementError, match=named):
        step(model, BATCH)


def test_blocks_that_take_different_skips_are_no_region() -> None:
    with applied(model := unet(), regions("up_blocks[0:2]")), pytest.raises(RuntimeError) as caught:
        step(model, BATCH)
    assert "up_blocks.1 got what up_blocks.0 returned and else what up_blocks.0 was given" in caught.value.__notes__[0]
