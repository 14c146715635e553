"""What a recording says of a forward, by models whose calls are known."""

import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rematbench.placing.recorded import Recording, record
from rematbench.torch_internals import StorageReference
from rematbench.workload.step import Workload

from .networks import WIDTH, Looped


def linear() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def recorded(model: nn.Module, loss: Callable[[Any], Tensor] | None = None) -> Recording:
    x = torch.ones(3, WIDTH)
    return record(Workload(module=model, batch=(x,), loss_fn=loss), torch.device("cpu"))


def test_calls_stand_in_order_with_who_made_them_and_what_went_in_and_out() -> None:
    model = nn.Sequential(linear(), nn.Tanh(), nn.Sequential(nn.Tanh(), nn.Identity()))
    found = recorded(model)
    assert [(call.path, call.parent) for call in found.calls] == [
        *[("", None), ("0", 0), ("1", 0), ("2", 0), ("2.0", 3), ("2.1", 3)]
    ]
    whole, first, second, inner, tanh, identity = found.calls
    assert whole.taken == first.taken <= found.static
    assert first.made == second.taken
    assert second.made == inner.taken == tanh.taken
    assert tanh.made == identity.taken == identity.made == inner.made == whole.made
    assert [crossing.handed for crossing in (*identity.outputs, *tanh.outputs)] == [True, False]
    (crossing,) = first.outputs
    assert (crossing.shape, crossing.dtype, crossing.bytes) == ((3, WIDTH), torch.float32, 3 * WIDTH * 4)
    assert [call.follows for call in found.calls] == [False, False, True, True, False, True]
    assert [(call.container, call.position) for call in found.calls[:3]] == [(None, -1), ("", 0), ("", 1)]
    assert found.inside(4, 3)
    assert found.inside(4, 0)
    assert not found.inside(4, 1)


def skips(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = x + block(x)
    return x


def draws(draw: Callable[[], Any]) -> Callable[[Any, Tensor], Tensor]:
    def loop(blocks: Any, x: Tensor) -> Tensor:
        for block in blocks:
            draw()
            x = block(x)
        return x

    return loop


def backwards(blocks: Any, x: Tensor) -> Tensor:
    for block in reversed(blocks):
        x = block(x)
    return x


def others_between(blocks: Any, x: Tensor) -> Tensor:
    first, aside, last = blocks
    x = first(x)
    aside(torch.ones(1, WIDTH))
    return last(x)


@pytest.mark.parametrize(
    ("loop", "follows"),
    [
        (None, [False, True, True]),
        (skips, [False, False, False]),
        (draws(lambda: torch.rand(1)), [False, False, False]),
        (draws(random.random), [False, False, False]),
        (draws(lambda: torch.ones(1)), [False, True, True]),
        (backwards, [False, False, False]),
        (others_between, [False, False, False]),
    ],
    ids="plain skips torch-random python-random no-random backwards others-between".split(),
)
def test_what_follows_is_what_a_region_may_go_on_over(loop: Any, follows: list[bool]) -> None:
    found = recorded(Looped([linear() for _ in range(3)], loop))
    assert [call.follows for call in found.calls[1:]] == follows


def test_a_further_use_is_taken_down_with_who_made_it() -> None:
    def loop(blocks: Any, x: Tensor) -> Tensor:
        first = blocks[0](x)
        _ = first.shape, first.to(first.dtype)
        return blocks[1](first) + first.to(torch.float64)

    found = recorded(Looped([linear(), linear()], loop))
    model, first, second = found.calls
    (value,) = first.made
    uses = [(use.tick, use.call, use.writes) for use in found.uses if use.storage == value]
    assert uses == [(second.begin, second.number, False), (second.end, model.number, False)]


def test_the_output_is_used_at_the_end() -> None:
    found = recorded(nn.Sequential(linear(), linear()), loss=lambda output: output.sum())
    (output,) = found.calls[0].made
    assert {use.call for use in found.uses if use.storage == output} == {None}


@pytest.mark.parametrize("at", [0, 1])
def test_a_change_in_place_is_seen_and_where(at: int) -> None:
    blocks = [linear(), linear()]
    blocks.insert(at, nn.ReLU(inplace=True))
    found = recorded(nn.Sequential(*blocks))
    assert [call.changed for call in found.calls] == [at == 0, *(position == at for position in range(3))]
    (writer,) = {use.call for use in found.uses if use.writes and use.storage in found.calls[1 + at].taken} - {0}
    assert writer == 1 + at


def test_a_module_called_twice_is_two_calls_and_a_shared_one_has_its_first_path() -> None:
    shared = linear()
    found = recorded(nn.Sequential(shared, nn.Tanh(), shared))
    assert [(call.path, call.occurrence) for call in found.calls[1:]] == [("0", 0), ("1", 0), ("0", 1)]


def test_hooks_and_disabled_gradients_are_told() -> None:
    model = Looped([linear(), linear()])
    model.blocks[0].register_forward_hook(lambda *_: None)
    model.loop = lambda blocks, x: blocks[1](torch.no_grad()(blocks[0])(x))
    found = recorded(model)
    assert [(call.hooks, call.grad) for call in found.calls] == [(False, True), (True, False), (False, True)]


def test_nothing_is_kept_alive_and_the_model_is_as_it_was() -> None:
    seen: list[StorageReference] = []

    def loop(blocks: Any, x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
            seen.append(StorageReference(x))
        return x

    model = Looped([linear(), nn.ReLU(inplace=True), linear()], loop)
    gc.disable()
    try:
        found = recorded(model)
        assert seen
        assert not any(reference.is_alive for reference in seen)
    finally:
        gc.enable()
    assert found.calls
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_call_that_is_broken_off_is_one_without_a_result() -> None:
    class Failing(nn.Module):
        def forward(self, _x: Tensor) -> Tensor:
            raise ValueError

    def loop(blocks: Any, x: Tensor) -> Tensor:
        try:
            return blocks[0](x)
        except ValueError:
            return blocks[1](x)

    _, broken, taken = recorded(Looped([Failing(), linear()], loop)).calls
    assert (broken.outputs, taken.parent, len(taken.outputs)) == ((), 0, 1)


def test_nothing_is_recorded_of_a_compiled_model() -> None:
    model = nn.Sequential(linear())
    model.compile(backend="eager")
    assert recorded(model).calls == ()
