"""Which modules a model's memory is told by, and that marking them leaves no trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rematbench.errors import PlacementError
from rematbench.loading import reference_models
from rematbench.placement.registry import parse_strategy
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline
from rematbench.placing.parts import marked, parts, wholes
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.body = Body()
        self.tied = self.embed
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.tied(self.embed(x))))


def test_parts_are_blocks_and_what_stands_beside_them() -> None:
    assert list(parts(Net())) == ["embed", "body.layers.0", "body.layers.1", "body.norm", "head"]


def test_parts_may_be_the_blocks_of_one_chain() -> None:
    assert list(parts(Net(), "body.layers")) == list(parts(Net()))
    inner = ["body.layers.0.inner.0", "body.layers.0.inner.1", "body.layers.1", "body.norm"]
    assert list(parts(Net(), "body.layers.0.inner")) == ["embed", *inner, "head"]
    with pytest.raises(PlacementError, match="unknown chain 'body'"):
        parts(Net(), "body")


def test_wholes_are_the_parts_and_what_runs_them() -> None:
    assert list(wholes(Net())) == ["", "embed", "body", "body.layers.0", "body.layers.1", "body.norm", "head"]


def test_a_model_that_is_a_chain_has_its_blocks() -> None:
    model = nn.Sequential(Block(), Block())
    assert list(parts(model)) == ["0", "1"]
    assert list(wholes(model)) == ["", "0", "1"]


def test_a_model_without_chains_is_cut_into_its_children() -> None:
    layer = nn.Bilinear(2, 2, 2)
    assert list(parts(nn.TransformerEncoderLayer(4, 1))) == [
        "self_attn", "linear1", "dropout", "linear2", "norm1", "norm2", "dropout1", "dropout2",
    ]  # fmt: skip
    assert list(wholes(layer)) == [""]


def calls_of(model: nn.Module, placement: str = "none") -> list[str]:
    seen: list[str] = []

    @contextmanager
    def mark(path: str) -> Iterator[None]:
        seen.append(path)
        yield

    place = parse_strategy(placement).resolve(outline(model))
    with marked(model, mark), applied(model, place):
        model(torch.ones(3, 4, requires_grad=True)).sum().backward()
    return seen


def test_every_call_is_marked_the_shared_module_s_by_its_first_name() -> None:
    assert calls_of(Net()) == ["", "embed", "embed", "body", "body.layers.0", "body.layers.1", "body.norm", "head"]


@pytest.mark.parametrize("placement", ["each", "all"])
def test_what_is_recomputed_is_marked_again(placement: str) -> None:
    calls = calls_of(Net(), placement)
    assert [path for path in calls if path.startswith("body.layers")].count("body.layers.0") == 2


@pytest.mark.parametrize("name", reference_models())
def test_marking_leaves_no_trace_in_any_model(name: str) -> None:
    workload = build(ModelRef.parse(name, Path.cwd()), torch.device("cpu"), dtype=torch.float32, seed=0)
    before = {path: dict(vars(module)) for path, module in workload.module.named_modules()}

    def everything() -> dict[str, Any]:
        return {path: dict(vars(module)) for path, module in workload.module.named_modules()}

    with marked(workload.module, lambda _path: pytest.raises(KeyError)):
        assert any("forward" in vars(module) for module in workload.module.modules())
    assert {path: sorted(values) for path, values in everything().items()} == {
        path: sorted(values) for path, values in before.items()
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_is_a_part_like_any_other() -> None:
    model = nn.Sequential(Block(), torch.jit.script(nn.Linear(4, 4)), Block())
    assert list(wholes(model)) == calls_of(model) == ["", "0", "1", "2"]


def test_a_compiled_model_is_left_alone() -> None:
    model = Net()
    model.body._compiled_call_impl = model.body.forward  # what `Module.compile` leaves behind
    with marked(model, lambda _path: pytest.raises(KeyError)):
        assert not any("forward" in vars(module) for module in model.modules())
