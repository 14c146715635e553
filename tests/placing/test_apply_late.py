"""What torch finds out in backward only is told as what is wrong with a region; kinds of models that must just work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.placing.networks import WIDTH, Looped, equal, placement, step
from torch import Tensor, nn

from rematbench.errors import PlacementError
from rematbench.placement.placement import Placement
from rematbench.placing.apply import applied, apply

DEPTH = 4
Pass = Callable[[nn.Module, Tensor], Tensor]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x).tanh()) + x


class Overwriting(Block):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        target = x if mask is None else mask
        target.mul_(2)
        return self.linear(x)


class Counting(Block):
    """Does the same for more rows in its second run."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.linear(x.repeat(self.runs, 1)).tanh()


class Shifted(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + 1)


class Recursive(Block):
    def forward(self, x: Tensor, again: bool = True) -> Tensor:
        return self.forward(x, False).sin() if again else self.linear(x)


def net(kind: type[Block] = Block) -> Looped:
    torch.manual_seed(0)
    return Looped([Block(), kind(), Block(), Block()])


@pytest.mark.parametrize(("regions", "title"), [(["blocks[1]"], "blocks.1"), (["blocks[1:3]"], "blocks.1 to blocks.2")])
def test_a_region_that_overwrites_its_input_is_told_in_forward(regions: list[str], title: str) -> None:
    """torch would say so in backward, of no block."""
    model = net(Overwriting)
    assert step(model)
    with applied(model, placement(*regions)), pytest.raises(PlacementError) as caught:
        model(torch.randn(3, WIDTH))
    assert str(caught.value).startswith(f"{title} changes its input in place, in args[0]")
    with applied(model, placement(*regions, save="everything")):
        assert equal(step(model), step(net(Overwriting)))
    with applied(model, placement("blocks[0:2]", "blocks[2:4]")):
        assert equal(step(model), step(net(Overwriting)))


def test_an_overwritten_keyword_is_named() -> None:
    model = Overwriting()
    with applied(model, placement("")), pytest.raises(PlacementError, match=r"the model changes its input .* in mask"):
        model(torch.randn(3, WIDTH), mask=torch.ones(3))


def test_an_input_changed_after_the_region_is_told_by_the_region() -> None:
    """Backward of the plain model does not need it."""

    def changing(model: nn.Module, x: Tensor) -> Tensor:
        output = model(x)
        x.mul_(2)
        return output

    model = Looped([Shifted(), *net().blocks])
    with pytest.raises(PlacementError) as caught, applied(model, placement("blocks[0:2]", "blocks[2]")):
        step(model, changing)
    assert str(caught.value).startswith("what was given to blocks.0 to blocks.1 has been changed in place since")
    assert isinstance(caught.value.__cause__, RuntimeError)
    changed = [gradient.clone() for gradient in step(model, changing)]
    assert equal(changed, step(model))


def test_an_error_that_is_about_no_region_is_left_as_it_is() -> None:
    def exp_in_place(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x).exp()
        y.mul_(2)
        return y

    with pytest.raises(RuntimeError, match="modified by an inplace operation"), applied(net(), "each"):
        step(net(), exp_in_place)
    with pytest.raises(ZeroDivisionError), applied(net(), "each"):
        raise ZeroDivisionError


@pytest.mark.parametrize("regions", [["blocks[1]", "blocks[0]"], ["blocks[0:4]"], ["blocks[0:4]", "blocks[1]"]])
def test_a_recomputation_that_does_other_things_is_told_by_the_region(regions: list[str]) -> None:
    title = "blocks.1" if regions[0] == "blocks[1]" else "blocks.0 to blocks.3"
    with pytest.raises(PlacementError) as caught, applied(model := net(Counting), placement(*regions)):
        step(model)
    assert str(caught.value).startswith(f"{title} did other things when it was recomputed")


def test_a_block_that_calls_itself_runs_as_often_as_it_does() -> None:
    for regions in (["blocks[1]"], ["blocks[0:4]"], ["blocks[1:3]", "blocks[1]"]):
        with applied(model := net(Recursive), placement(*regions)):
            assert equal(step(model), step(net(Recursive)))


PLACEMENTS = [
    placement("blocks[0:2]", "blocks[3]"),
    placement("blocks[0:4]", "blocks[1:3]"),
    placement("blocks[1:3]", save="matmuls"),
]
every_placement = pytest.mark.parametrize("placing", ["each", *PLACEMENTS], ids=str)


def autocast(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


@every_placement
def test_autocast(placing: Placement | str) -> None:
    with applied(model := net(), placing):
        found = step(model, autocast)
    assert equal(found, step(net(), autocast))
    assert not equal(found, step(net()))


@every_placement
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(placing: Placement | str, dtype: torch.dtype) -> None:
    with applied(model := net().to(dtype), placing):
        assert equal(step(model, dtype=dtype), step(net().to(dtype), dtype=dtype))


class Cast(nn.Module):
    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.block, self.dtype = block.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.to(self.dtype))


@every_placement
def test_a_model_on_several_types(placing: Placement | str) -> None:
    def mixed() -> Looped:
        types = (torch.float32, torch.bfloat16, torch.float64, torch.float32)
        return Looped(Cast(block, dtype) for block, dtype in zip(net().blocks, types, strict=True))

    with applied(model := mixed(), placing):
        assert equal(step(model), step(mixed()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("placing", "still_compiled"), [("each", 0), (PLACEMENTS[0], 1)], ids=str)
def test_a_compiled_model(placing: Placement | str, still_compiled: int) -> None:
    """Compiled before or after: regions run eagerly, the blocks outside them stay compiled, and back again."""
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def through(compiled: Any) -> Pass:
        return lambda _, x: compiled(x)

    model, plain = net(), step(net())
    compiled = torch.compile(model, backend=backend)
    assert equal(step(model, through(compiled)), plain)
    assert len(graphs) == 1
    without = held(compiled)
    breaks = torch._dynamo.utils.counters["graph_break"]
    breaks.clear()
    with applied(model, placing):
        assert equal(step(model, through(compiled)), plain)
        assert len(graphs) == 1 + still_compiled
        assert equal(step(model, through(torch.compile(model, backend=backend))), plain)
        assert held(compiled) == held(model) < without
    assert not breaks, "nothing of ours is traced"
    assert equal(step(model, through(compiled)), plain)
    torch._dynamo.reset()


def held(call: Any) -> int:
    """How many tensors autograd keeps for backward."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(torch.randn(3, WIDTH))
    return len(kept)


def test_paths_of_a_compiled_model_begin_at_its_wrapper() -> None:
    compiled: Any = torch.compile(net(), backend="eager")
    with applied(compiled, "each") as handle:
        assert handle.blocks[0] == "_orig_mod.blocks.0"
    with pytest.raises(PlacementError, match=r"unknown module 'blocks': .*_orig_mod"):
        apply(compiled, PLACEMENTS[0])
