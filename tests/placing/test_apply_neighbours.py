"""Regions over neighbours whose loop is not ours: what it hands from block to block must be what the region assumed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.placing.networks import WIDTH, Looped, equal, placement, step
from torch import Tensor, nn

from rematbench.placing.apply import applied

DEPTH = 4
PLACEMENTS = [["blocks[0:4]"], ["blocks[1:3]"], ["blocks[0:4]", "blocks[0:3]", "blocks[1:3]", "blocks[1]"]]
every_placement = pytest.mark.parametrize("regions", PLACEMENTS, ids=["all", "inner", "nested"])


class Block(nn.Module):
    """Takes any of the shapes in which loops pass things on, and notes its runs."""

    def __init__(self, number: int, runs: list[int]) -> None:
        super().__init__()
        self.number, self.runs = number, runs
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Any, scale: Any = 1.0, *, shifts: Any = (), flag: Any = None) -> Any:
        self.runs.append(self.number)
        if isinstance(x, dict):
            return {"x": self.mixed(x["x"], scale, shifts), "skip": x["x"]}
        if isinstance(x, tuple):
            return self.mixed(x[0] + x[1], scale, shifts), x[0], flag
        if flag == "pair":
            return self.mixed(x, scale, shifts), x.detach().abs(), scale
        return self.mixed(x, scale, shifts)

    def mixed(self, x: Tensor, scale: Any, shifts: Any) -> Tensor:
        return self.dropout((self.linear(x) * scale + sum(shifts)).tanh())


Loop = Callable[[Any, Tensor], Any]


class Net(Looped):
    """Its blocks note their runs in one list."""

    def __init__(self, loop: Loop) -> None:
        torch.manual_seed(0)
        runs: list[int] = []
        super().__init__((Block(number, runs) for number in range(DEPTH)), loop)
        self.runs = runs


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.allclose, left, right))


def plain(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x)
    return x


def sequential(blocks: Any, x: Tensor) -> Any:
    return nn.Sequential(*blocks)(x)


def further(blocks: Any, x: Tensor) -> Any:
    scale, shifts = x.detach().sigmoid(), [x.sin(), x.cos()]
    for block in blocks:
        x = block(x, scale, shifts=list(shifts), flag=None)
    return x


def plain_values(blocks: Any, x: Tensor) -> Any:
    """Numbers and strings that are equal but made anew for every block."""
    for block in blocks:
        x = block(x, float("0.5"), shifts=(1, True), flag="".join(["a", "b"]))
    return x


def whole_state(blocks: Any, x: Tensor) -> Any:
    value: Any = (x, x, None)
    for block in blocks:
        value = block(value, flag=None)
    return value


def unpacked_state(blocks: Any, x: Tensor) -> Any:
    skip, flag = x, None
    for block in blocks:
        x, skip, flag = block((x, skip, flag))
    return x, skip


def dictionary(blocks: Any, x: Tensor) -> Any:
    value = {"x": x, "skip": x}
    for block in blocks:
        value = block(value)
    return value


def by_keyword(blocks: Any, x: Tensor) -> Any:
    scale = x.detach().sigmoid()
    for block in blocks:
        x = block(x=x, scale=scale)
    return x


def first_of_a_tuple(blocks: Any, x: Tensor) -> Any:
    """As the older blocks of the transformers library, whose second result is their attention weights."""
    for block in blocks:
        x = block(x, flag="pair")[0]
    return x


def first_of_a_tuple_by_keyword(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x, _, _ = block(x=x, flag="pair")
    return x


def handed_through(blocks: Any, x: Tensor) -> Any:
    """As in T5, where each block returns the position bias that the next one gets."""
    bias = x.cos()
    for block in blocks:
        x, _, bias = block(x, bias, flag="pair")
    return x * bias


def asking_for_the_kind(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        assert (x.shape, x.dtype, x.device.type, len(x)) == ((3, WIDTH), torch.float32, "cpu", 3)
        x = block(x.to(torch.float32).contiguous())
    return x


def changed_before_and_after(blocks: Any, x: Tensor) -> Any:
    return plain(blocks, x.cos()).sin()


def twice(blocks: Any, x: Tensor) -> Any:
    return plain(blocks, x) + plain(blocks, -x)


LOOPS = [
    *(plain, sequential, further, plain_values, whole_state, unpacked_state, dictionary),
    *(by_keyword, first_of_a_tuple, first_of_a_tuple_by_keyword, handed_through, asking_for_the_kind),
    *(changed_before_and_after, twice),
]


@every_placement
@pytest.mark.parametrize("options", [{}, {"save": "matmuls"}, {"save": "everything"}, {"reentrant": True}], ids=str)
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_loop_that_only_hands_on_keeps_its_step(loop: Loop, options: dict[str, Any], regions: list[str]) -> None:
    model, other = Net(loop), Net(loop)
    # A reentrant region adds up the gradients of a further argument before it hands them out: another order.
    same = close if options.get("reentrant") else equal
    with applied(model, placement(*regions, **options)):
        assert same(step(model, from_batch=True), step(other, from_batch=True))
        assert same(step(model, from_batch=True), step(other, from_batch=True))
    assert (len(model.runs) > len(other.runs)) == (options.get("save") != "everything")


@every_placement
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_loop_runs_each_block_once_without_gradients(loop: Loop, mode: Callable[[], Any], regions: list[str]) -> None:
    model, other = Net(loop).eval(), Net(loop).eval()
    x = torch.randn(3, WIDTH)
    with applied(model, placement(*regions)), mode():
        leaves = [torch.utils._pytree.tree_leaves(net(x)) for net in (model, other)]
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*leaves, strict=True))
    assert sorted(model.runs) == sorted(other.runs)


class Splitting(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x.cos()


class Joining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.linear(pair[0] * pair[1])


def test_a_sequential_hands_all_of_a_tuple_on() -> None:
    """In a list the first of it would be taken for what the loop hands on, as most such loops do."""
    torch.manual_seed(0)
    model = nn.Sequential(Splitting(), Joining())
    plain_step = [tensor.clone() for tensor in step(model, from_batch=True)]
    with applied(model, placement("[0:2]")):
        assert equal(step(model, from_batch=True), plain_step)


def test_a_member_that_returns_its_input_hands_the_input_out() -> None:
    """So a loop may use it: it is the right value, and there all the time."""

    def loop(blocks: Any, x: Tensor) -> Any:
        handed = blocks[0](x)
        return blocks[1](handed) + handed

    torch.manual_seed(0)
    model = Net(loop)
    model.blocks = nn.ModuleList([nn.Identity(), nn.Linear(WIDTH, WIDTH)])
    plain_step = [tensor.clone() for tensor in step(model, from_batch=True)]
    with applied(model, placement("blocks[0:2]")):
        assert equal(step(model, from_batch=True), plain_step)
