"""The order of a model's blocks and the tensors that skip some of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench.inspecting.structure import chains_of, structure_of
from rematbench.placement.outline import Chain, Outline
from rematbench.records.measurement import Skip
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import Workload


def structure(name: str, **arguments: int) -> tuple[tuple[str, ...], list[tuple[str, str, tuple[int, ...]]]]:
    ref = ModelRef.parse(name, Path.cwd(), **arguments)
    found = structure_of(build(ref, torch.device("cpu"), dtype=torch.float32, seed=0))
    assert all(skip.bytes == 4 * torch.Size(skip.shape).numel() for skip in found.skips)
    return found.blocks, [(skip.source, skip.target, skip.shape) for skip in found.skips]


def test_a_chain_has_blocks_and_no_skips() -> None:
    blocks, skips = structure("plain.mlp", depth=3)
    assert blocks == ("blocks.0", "blocks.1", "blocks.2", "head")
    assert skips == []


def test_a_unet_s_skips_nest() -> None:
    """Two levels down keep (batch, width, side, side) each for the level up that mirrors them."""
    blocks, skips = structure("concat_skip.unet", depth=2, width=4, batch=2, size=8)
    assert blocks == ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "head")
    assert skips == [("blocks.0", "blocks.4", (2, 4, 8, 8)), ("blocks.1", "blocks.3", (2, 8, 4, 4))]


def test_a_skip_from_the_stem_is_named_by_it() -> None:
    _, skips = structure("residual.linear", depth=6, span=3, width=5, batch=2)
    assert skips == [("stem", "blocks.2", (2, 5)), ("blocks.2", "blocks.5", (2, 5))]


class Loop(nn.Module):
    """Two blocks in a list and what the first made used by the head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Bilinear(4, 4, 1)

    def forward(self, *, x: Tensor) -> Tensor:
        first = self.blocks[0](x)
        return self.head(self.blocks[1](first), first)


def test_a_model_of_keywords_with_a_loop_of_its_own() -> None:
    found = structure_of(Workload(module=Loop(), batch={"x": torch.ones(3, 4)}))
    assert found.blocks == ("blocks.0", "blocks.1", "head")
    assert found.skips == (Skip(source="blocks.0", target="head", bytes=48, shape=(3, 4)),)


def test_a_model_that_differentiates_in_its_forward_has_a_structure() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).square().sum(), x, create_graph=True)
            return force

    assert structure_of(Workload(module=Force(), batch=(torch.randn(2, 3),))).blocks == ("energy",)


def chain(path: str, length: int, **said: Any) -> Chain:
    return Chain(path=path, blocks=("X",) * length, **said)


@pytest.mark.parametrize(
    ("chains", "outermost", "said"),
    [
        ([chain("blocks", 12)], 1, ["blocks 12 × X"]),
        ([chain("", 2), chain("0", 3), chain("1", 3)], 1, ["the model 2 × X, inside each of them 3"]),
        (
            [chain("b", 2), chain("b.0.mlp", 3), chain("b.1.mlp", 4), chain("head", 2)],
            1,
            ["b 2 × X, inside each mlp 3 or 4", "head 2 × X"],
        ),
        ([chain("l.0", 2), chain("l.1", 2)], 2, ["2 of l.* 2 × X"]),
        ([chain("b", 4, runs=((0, 1), (1, 2, 3), (3, 4)))], 1, ["b 4 × X in runs: 2 of 1 and 1 of 2"]),
        ([chain("b", 2, runs=((0, 1), (1, 2)))], 1, ["b 2 × X, no two in a row"]),
        ([], 0, []),
    ],
)
def test_chains_are_said_with_what_is_inside_their_blocks(chains: list[Chain], outermost: int, said: list[str]) -> None:
    outline = Outline(modules={}, chains=tuple(chains), outermost=tuple(chains[:outermost]))
    assert list(chains_of(outline)) == said
