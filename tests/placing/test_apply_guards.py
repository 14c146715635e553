"""Loops that do more than hand on: each is refused with a sentence, and the step after it is right."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from tests.placing.networks import WIDTH, Looped, equal, placement, step
from torch import Tensor, nn

from rematbench.errors import PlacementError
from rematbench.placing.apply import applied, apply

DEPTH = 4
Loop = Callable[[Any, Any], Any]


class Block(nn.Module):
    """sin(scale · Linear(x) + shifts), or of a pair's sum, the first of the pair handed on beside it."""

    def __init__(self, runs: list[int]) -> None:
        super().__init__()
        self.runs = runs
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any, scale: Any = 1.0, *, shifts: Sequence[Tensor] = ()) -> Any:
        self.runs.append(1)
        if isinstance(x, tuple):
            return self.forward(x[0] + x[1]), x[0]
        return (self.linear(x) * scale + sum(shifts)).sin()


class Net(Looped):
    """Its blocks note their runs in one list."""

    def __init__(self, loop: Loop) -> None:
        torch.manual_seed(0)
        runs: list[int] = []
        super().__init__((Block(runs) for _ in range(DEPTH)), loop)
        self.runs = runs


def plain(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x)
    return x


def changed(blocks: Any, x: Tensor) -> Any:
    x = blocks[1](blocks[0](x))
    return blocks[3](blocks[2](x * 2))


def changed_in_place(blocks: Any, x: Tensor) -> Any:
    x = blocks[1](blocks[0](x))
    x += 1
    return blocks[3](blocks[2](x))


def changed_state(blocks: Any, x: Tensor) -> Any:
    skip = x
    for block in blocks:
        x, skip = block((x, skip.clone()))
    return x


def mask_changed_in_place(blocks: Any, x: Tensor) -> Any:
    scale = torch.ones(())
    for block in blocks:
        x = block(x, scale)
        scale.mul_(2)
    return x


def other_scale(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x, torch.ones(()))
    return x


def other_number(blocks: Any, x: Tensor) -> Any:
    for number, block in enumerate(blocks):
        x = block(x, 1.0 + number)
    return x


def other_keyword(blocks: Any, x: Tensor) -> Any:
    for number, block in enumerate(blocks):
        x = block(x, shifts=[torch.ones(())] * number)
    return x


def more_arguments(blocks: Any, x: Tensor) -> Any:
    x = blocks[1](blocks[0](x))
    return blocks[3](blocks[2](x, 1.0))


def other_type(blocks: Any, x: Tensor) -> Any:
    x = blocks[1](blocks[0](x, 1.0), 1.0)
    return blocks[3](blocks[2](x, 1), 1)


def by_keyword(blocks: Any, x: Tensor) -> Any:
    x = blocks[1](blocks[0](x))
    return blocks[3](blocks[2](x=x))


def second_result(blocks: Any, x: Tensor) -> Any:
    """Takes the first of what a block returns, and pairs it with another tensor than the second."""
    skip = x
    for block in blocks:
        x, _ = block((x, skip))
        skip = x
    return x


def collecting(blocks: Any, x: Tensor) -> Any:
    collected = []
    for block in blocks:
        x = block(x)
        collected.append(x)
    return torch.stack(collected)


def residual(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x) + x
    return x


def auxiliary(blocks: Any, x: Tensor) -> Any:
    loss = torch.zeros(())
    for block in blocks:
        x = block(x)
        loss = loss + x.mean()
    return x + loss


def leaving_early(blocks: Any, x: Tensor) -> Any:
    return blocks[1](blocks[0](x)) * 2


def leaving_on_a_value(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x)
        if x.norm() < 0:
            break
    return x


def hooked(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x)
        x.register_hook(lambda gradient: gradient * 2)
    return x


def annotated(blocks: Any, x: Tensor) -> Any:
    for block in blocks:
        x = block(x)
        x.mask = 1  # type: ignore[attr-defined]
    return x


def without_gradients_at_first(blocks: Any, x: Tensor) -> Any:
    with torch.no_grad():
        x = blocks[1](blocks[0](x))
    return blocks[3](blocks[2](x))


def skipping(blocks: Any, x: Tensor) -> Any:
    return blocks[3](blocks[2](blocks[0](x)))


def starting_later(blocks: Any, x: Tensor) -> Any:
    return blocks[3](blocks[2](x))


def backwards(blocks: Any, x: Tensor) -> Any:
    return plain(list(blocks)[::-1], x)


def repeating(blocks: Any, x: Tensor) -> Any:
    return plain([*blocks, blocks[3]], x)


GUARDED: dict[Loop, tuple[str, list[str]]] = {
    changed: ("the model uses what blocks.1 returns in mul", ["end the region before blocks.2"]),
    changed_in_place: ("the model uses what blocks.1 returns in add_", ["end the region before blocks.2"]),
    changed_state: ("blocks.1 did not get what blocks.0 returned", ["end the region before blocks.1"]),
    second_result: ("blocks.1 did not get what blocks.0 returned", ["end the region before blocks.1"]),
    collecting: ("the model uses what blocks.0 returns in stack", ["end the region before blocks.1"]),
    residual: ("the model uses what blocks.0 returns in add", ["end the region before blocks.1"]),
    auxiliary: ("the model uses what blocks.0 returns in mean", ["end the region before blocks.1"]),
    leaving_early: ("the model uses what blocks.1 returns in mul", ["end the region before blocks.2"]),
    leaving_on_a_value: ("the model uses what blocks.0 returns in norm", ["end the region before blocks.1"]),
    hooked: ("the model uses what blocks.0 returns in register_hook", ["end the region before blocks.1"]),
    annotated: ("the model uses what blocks.0 returns in attribute 'mask'", ["end the region before blocks.1"]),
    without_gradients_at_first: ("blocks.2 was called out of turn", ["follows blocks.1 in every step"]),
    by_keyword: ("blocks.2 got other further arguments than blocks.0, in args[0]", ["before blocks.2"]),
    mask_changed_in_place: ("blocks.1 got a tensor changed in place after blocks.0, in args[1]", ["before blocks.1"]),
    other_scale: ("blocks.1 got other further arguments than blocks.0, in args[1]", ["before blocks.1"]),
    other_number: ("blocks.1 got other further arguments than blocks.0, in args[1]", ["before blocks.1"]),
    other_keyword: ("blocks.1 got other further arguments than blocks.0, in shifts", ["before blocks.1"]),
    more_arguments: ("blocks.2 got other further arguments than blocks.0, in args[1]", ["before blocks.2"]),
    other_type: ("blocks.2 got other further arguments than blocks.0, in args[1]", ["before blocks.2"]),
    skipping: ("blocks.2 was called out of turn", ["follows blocks.1 in every step"]),
    starting_later: ("blocks.2 was called out of turn", ["follows blocks.1 in every step"]),
    backwards: ("blocks.3 was called out of turn", ["follows blocks.2 in every step"]),
    repeating: ("blocks.3 was called out of turn", ["follows blocks.2 in every step"]),
}


every_loop = pytest.mark.parametrize("loop", GUARDED, ids=lambda loop: loop.__name__)


@pytest.mark.parametrize("nested", [[], ["blocks[0:2]", "blocks[2:4]"]], ids=["flat", "nested"])
@every_loop
def test_a_loop_that_does_more_is_refused_and_the_next_step_is_right(loop: Loop, nested: list[str]) -> None:
    model = Net(loop)
    first, more = GUARDED[loop]
    with applied(model, placement("blocks[0:4]", *nested)):
        with pytest.raises(PlacementError) as caught:
            step(model)
        assert str(caught.value).startswith(first)
        assert all(word in str(caught.value) for word in more)
        model.loop = plain
        assert equal(step(model), step(Net(plain)))


@pytest.mark.parametrize("loop", [loop for loop in GUARDED if loop is not mask_changed_in_place])
def test_regions_of_one_block_bear_with_any_loop(loop: Loop) -> None:
    """Any but one, as what a region is recomputed from must not change afterwards."""
    model = Net(loop)
    with applied(model, placement(*(f"blocks[{number}]" for number in range(DEPTH)))):
        assert equal(step(model), step(Net(loop)))


def test_nothing_of_a_refused_step_is_kept() -> None:
    outputs: list[weakref.ref[Tensor]] = []

    def loop(blocks: Any, x: Tensor) -> Any:
        x = blocks[0](x)
        outputs.append(weakref.ref(x))
        return blocks[1](x * 2)

    model = Net(loop)
    handle = apply(model, placement("blocks[0:2]"))
    with pytest.raises(PlacementError):
        step(model)
    handle.remove()
    assert outputs[0]() is None


def test_intermediate_values_may_be_kept_where_nobody_uses_them() -> None:
    """As a model does that always collects hidden states."""
    kept: list[Tensor] = []

    def loop(blocks: Any, x: Tensor) -> Any:
        for block in blocks:
            x = block(x)
            kept.append(x)
        return x

    model = Net(loop)
    with applied(model, placement("blocks[0:4]")):
        assert equal(step(model), step(Net(plain)))
        assert [tuple(value.shape) for value in kept] == [(3, WIDTH)] * DEPTH
        with pytest.raises(PlacementError, match=r"uses what blocks.2 returns in sum"):
            kept[2].sum()
        assert torch.isfinite(kept[3]).all()


def test_a_member_that_cannot_run_in_the_region_says_what_was_assumed() -> None:
    def loop(blocks: Any, x: Tensor) -> Any:
        return blocks[1](blocks[0](x, torch.ones(WIDTH)), torch.ones(2))

    model = Net(loop)
    model.blocks[1].linear = nn.Linear(3, 3)
    with applied(model, placement("blocks[0:2]")), pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        step(model)
    assert caught.value.__notes__ == [
        "blocks.0 to blocks.1 is one region: blocks.1 got what blocks.0 returned and else what blocks.0 was given"
    ]


def test_hooks_added_later_are_noticed_at_the_next_call() -> None:
    model = Net(plain)
    with applied(model, placement("blocks[0:4]")):
        step(model)
        hook = model.blocks[2].register_forward_hook(lambda *_: None)
        with pytest.raises(PlacementError, match=r"blocks.2 has hooks of its own"):
            step(model)
        hook.remove()
        assert equal(step(model), step(Net(plain)))


def test_an_error_between_the_blocks_leaves_the_next_step_right() -> None:
    def loop(blocks: Any, x: Tensor) -> Any:
        raise ZeroDivisionError(blocks[0](x))

    model = Net(loop)
    with applied(model, placement("blocks[0:4]")):
        with pytest.raises(ZeroDivisionError):
            step(model)
        model.loop = plain
        assert equal(step(model), step(Net(plain)))


def hooks(block: nn.Module) -> Iterator[Callable[[], Any]]:
    yield lambda: block.register_forward_hook(lambda *_: None)
    yield lambda: block.register_forward_pre_hook(lambda *_: None)
    yield lambda: block.register_full_backward_hook(lambda *_: None)
    yield lambda: block.register_full_backward_pre_hook(lambda *_: None)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("regions", [["blocks[1:3]"], ["blocks[0:4]", "blocks[1:3]"], ["blocks[0:3]", "blocks[2]"]])
def test_hooks_on_a_member_are_refused(regions: list[str], kind: int) -> None:
    model = Net(plain)
    hook = list(hooks(model.blocks[2]))[kind]()
    with pytest.raises(PlacementError, match=r"'blocks\[\d:\d\]': blocks.2 has hooks .* a region of its own"):
        apply(model, placement(*regions))
    assert not any("forward" in vars(block) for block in model.blocks)
    with applied(model, placement("blocks[0:2]", "blocks[2]")):
        assert equal(step(model), step(Net(plain)))
    hook.remove()
    with applied(model, placement(*regions)):
        assert equal(step(model), step(Net(plain)))


def test_hooks_inside_a_member_fire_as_often_as_it_runs() -> None:
    model = Net(plain)
    fired: list[int] = []
    for block in model.blocks:
        block.linear.register_forward_hook(lambda *_: fired.append(1))  # type: ignore[union-attr]
    with applied(model, placement("blocks[0:4]")):
        step(model)
    assert len(fired) == len(model.runs) == 2 * DEPTH


def test_a_member_also_called_from_elsewhere_is_out_of_turn() -> None:
    model = Net(lambda blocks, x: plain(blocks, blocks[2](x)))
    with applied(model, placement("blocks[1:4]")), pytest.raises(PlacementError, match=r"blocks.2 .* out of turn"):
        step(model)
