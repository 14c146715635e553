"""What strategies act on where a step was recorded: networks of each kind, and that they train the same under it."""

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from rematbench.errors import PlacementError
from rematbench.placement.outline import Outline
from rematbench.placement.registry import parse_strategy
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline
from rematbench.placing.recorded import record
from rematbench.workload.step import Workload

from .networks import WIDTH, Looped, equal, step

USUAL = ("all", "each", "each-but-last", "every:2", "segments:2", "checkpoint_sequential:2", "sqrt", "nested:2")


class Block(nn.Module):
    """A linear layer with dropout, which tells any change in the order of random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x)).tanh()


class Written(nn.Module):
    """A model whose forward is a function of its modules and the batch."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **children: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, child in children.items():
            self.register_module(name, child)

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def of_step(model: nn.Module) -> Outline:
    torch.manual_seed(1)
    x = torch.randn(3, WIDTH)
    return outline(model, record(Workload(module=model, batch=(x,)), torch.device("cpu")))


def resolved(text: str, model: nn.Module) -> list[str]:
    return [region.path for region in parse_strategy(text).resolve(of_step(model)).regions]


def blocks(count: int) -> nn.ModuleList:
    return nn.ModuleList(Block() for _ in range(count))


def through(modules: Any, x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def lists_of_lists() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        for attention, feed_forward in model.layers:
            x = x + attention(x)
            x = x + feed_forward(x)
        return x

    return Written(forward, layers=nn.ModuleList(blocks(2) for _ in range(2)))


def lists_of_lists_in_a_row() -> nn.Module:
    return Written(
        lambda model, x: through([inner for outer in model.layers for inner in outer], x),
        layers=nn.ModuleList(blocks(2) for _ in range(2)),
    )


def pyramid_heads() -> nn.Module:
    def forward(model: Any, x: Tensor) -> list[Tensor]:
        levels = [x]
        for stage in model.stages:
            levels.append(stage(levels[-1]))
        return [head(level) for head, level in zip(model.heads, levels[1:], strict=True)]

    return Written(forward, stages=blocks(3), heads=blocks(3))


def skip_in_the_loop() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        for at, block in enumerate(model.blocks):
            x = x + block(x) if at == 1 else block(x)
        return x

    return Written(forward, blocks=blocks(4))


def u_net() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        skips = []
        for block in model.down:
            x = block(x)
            skips.append(x)
        for block in model.up:
            x = block(x + skips.pop())
        return x

    return Written(forward, down=blocks(2), up=blocks(2))


def dropped_at_random() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        for block in model.blocks:
            if random.random() >= 0.3:
                x = block(x)
        return x

    return Written(forward, blocks=blocks(4))


def one_is_not_called() -> nn.Module:
    return Written(lambda model, x: through([model.blocks[0], *model.blocks[2:]], x), blocks=blocks(4))


def none_is_called() -> nn.Module:
    return Written(lambda model, x: through(model.blocks, x), unused=blocks(2), blocks=blocks(2))


def dictionary() -> nn.Module:
    named = nn.ModuleDict({"a": Block(), "b": Block(), "c": Block()})
    return Written(lambda model, x: through([model.blocks[name] for name in "abc"], x), blocks=named)


def dictionary_in_another_order() -> nn.Module:
    named = nn.ModuleDict({"a": Block(), "b": Block(), "c": Block()})
    return Written(lambda model, x: through([model.blocks[name] for name in "bca"], x), blocks=named)


def reused() -> nn.Module:
    return Written(lambda model, x: through([*model.blocks, *model.blocks], x), blocks=blocks(2))


def one_reused() -> nn.Module:
    return Written(lambda model, x: through([model.blocks[0], model.blocks[0], model.blocks[1]], x), blocks=blocks(2))


def listed_twice() -> nn.Module:
    shared = Block()
    return nn.Sequential(shared, Block(), shared, Block())


class Pair(Block):
    def forward(self, x: Any) -> Any:
        first, second = x if isinstance(x, tuple) else (x, x)
        return super().forward(first), first * second


def tuples() -> nn.Module:
    return nn.Sequential(Pair(), Pair(), Pair())


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(WIDTH, WIDTH)

    def forward(self, x: PackedSequence) -> Any:
        return self.cell(x)[0]


def packed() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        sequence = pack_padded_sequence(x.unsqueeze(1).expand(3, 2, WIDTH), torch.tensor([3, 2]))
        return through(model.blocks, sequence).data

    return Written(forward, blocks=nn.ModuleList(Packed() for _ in range(3)))


class Silent(nn.Module):
    def forward(self, _x: Tensor) -> None:
        """Return nothing."""


def without_result() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        for block in model.blocks:
            result = block(x)
            x = x if result is None else result
        return x

    return Written(forward, blocks=nn.ModuleList([Block(), Silent(), Block()]))


def layer() -> nn.Module:
    """A block that does not need its result in backward, so that it may be changed."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2))


def in_place() -> nn.Module:
    return nn.Sequential(layer(), nn.ReLU(inplace=True), layer(), layer(), nn.ReLU(inplace=True))


def in_place_first() -> nn.Module:
    return Written(
        lambda model, x: model.body(model.stem(x)),
        stem=layer(),
        body=nn.Sequential(nn.ReLU(inplace=True), Block(), Block()),
    )


def changed_later() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        x = x + 0
        y = model.blocks[0](x)
        x.mul_(2)
        return model.blocks[1](x + y)

    return Written(forward, blocks=nn.ModuleList([nn.AvgPool1d(1), Block()]))


def with_a_hook() -> nn.Module:
    model = Looped([Block() for _ in range(4)])
    model.blocks[1].register_forward_hook(lambda *_: None)
    return model


def without_gradients() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = through(model.frozen, x)
        return through(model.blocks, x)

    return Written(forward, frozen=blocks(2), blocks=blocks(2))


def handed_through() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        x = x + 0
        return model.body(x) + x

    return Written(forward, body=nn.Sequential(nn.Identity(), Block(), Block()))


def attributes() -> nn.Module:
    def forward(model: Any, x: Tensor) -> Tensor:
        return model.second(model.first(x)) + x

    return Written(lambda model, x: model.inner(x), inner=Written(forward, first=Block(), second=Block()))


def parametrized() -> nn.Module:
    return Looped([parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)) for _ in range(3)])


def one_block() -> nn.Module:
    return Written(lambda model, x: through([*model.layers] * 3, x), layers=blocks(1))


def short_and_long() -> nn.Module:
    return Written(lambda model, x: through([*model.a, *model.b], x), a=blocks(1), b=blocks(4))


KINDS: dict[Callable[[], nn.Module], dict[str, list[str]]] = {
    lists_of_lists: {
        "each": ["layers.0[0]", "layers.0[1]", "layers.1[0]", "layers.1[1]"],
        "all": ["layers.0[0]", "layers.0[1]", "layers.1[0]", "layers.1[1]"],
    },
    lists_of_lists_in_a_row: {"all": ["layers.0[0:2]", "layers.1[0:2]"]},
    pyramid_heads: {
        "all": ["stages[0]", "stages[1]", "stages[2]", "heads[0]", "heads[1]", "heads[2]"],
        "first:1": ["stages[0]", "heads[0]"],
    },
    skip_in_the_loop: {"all": ["blocks[0]", "blocks[1]", "blocks[2:4]"]},
    u_net: {"all": ["down[0]", "down[1]", "up[0]", "up[1]"]},
    dropped_at_random: {},
    one_is_not_called: {"all": ["blocks[0]", "blocks[2:4]"], "each": ["blocks[0]", "blocks[2]", "blocks[3]"]},
    none_is_called: {"all": ["blocks[0:2]"]},
    dictionary: {"all": ["blocks[0:3]"], "sqrt": ["blocks[0:2]", "blocks[2]"]},
    dictionary_in_another_order: {"all": ["blocks[0]", "blocks[1:3]"]},
    reused: {"all": ["blocks[0:2]"], "each": ["blocks[0]", "blocks[1]"]},
    one_reused: {"all": ["blocks[0]", "blocks[1]"]},
    listed_twice: {"each": ["[0]", "[1]", "[3]"]},
    packed: {"all": ["blocks[0:3]"]},
    tuples: {"each": ["[0]", "[1]", "[2]"], "all": ["[0:3]"]},
    without_result: {"each": ["blocks[0]", "blocks[2]"]},
    in_place: {"each": ["[0]", "[2]", "[3]"], "all": ["[0:5]"], "segments:3": ["[0:2]", "[2]", "[3:5]"]},
    in_place_first: {"each": ["body[1]", "body[2]"], "all": ["body[1:3]"]},
    changed_later: {"each": ["blocks[1]"]},
    with_a_hook: {"all": ["blocks[0]", "blocks[1]", "blocks[2:4]"]},
    without_gradients: {"each": ["blocks[0]", "blocks[1]"]},
    handed_through: {"all": ["body[0:3]"]},
    attributes: {"each": ["inner.first", "inner.second"], "sqrt": ["inner.first", "inner.second"]},
    parametrized: {"each": ["blocks[0]", "blocks[1]", "blocks[2]"], "all": ["blocks[0:3]"]},
    one_block: {"segments:2": ["layers[0]"], "nested:2": ["layers[0]"], "checkpoint_sequential:2": []},
    short_and_long: {"segments:2": ["a[0]", "b[0:2]", "b[2:4]"]},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_regions_are_those_that_the_step_allows(kind: Callable[[], nn.Module]) -> None:
    random.seed(2)
    model = kind()
    assert {text: resolved(text, model) for text in KINDS[kind]} == KINDS[kind]


def trains(model: nn.Module, text: str) -> bool:
    """Tell whether a step under a placement of the recorded outline is the plain step, bit for bit."""

    def seeded() -> list[Tensor]:
        random.seed(2)
        return step(model)

    random.seed(2)
    placement = parse_strategy(text).resolve(of_step(model))
    plain = seeded()
    with applied(model, placement):
        return equal(plain, seeded())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_usual_placement_applies_and_trains_the_same(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    for text in USUAL:
        assert trains(kind(), text), text


def test_a_container_that_is_not_called_is_no_chain() -> None:
    found = of_step(none_is_called())
    assert [chain.path for chain in found.chains] == ["blocks"]
    with pytest.raises(PlacementError, match="each@unused: unused is no chain: none of its children is called"):
        parse_strategy("each@unused").resolve(found)


def test_the_step_says_why_blocks_are_left_plain() -> None:
    reasons = {
        in_place: {1: "changes its input in place", 4: "changes its input in place"},
        changed_later: {0: "is given what is changed in place later"},
        without_result: {1: "returns no tensor"},
        one_is_not_called: {1: "is not called in the step"},
        with_a_hook: {},
    }
    assert {kind: of_step(kind()).outermost[0].plain for kind in reasons} == reasons
    frozen, _ = of_step(without_gradients()).outermost
    assert frozen.plain == dict.fromkeys((0, 1), "runs without gradients")


def test_what_makes_a_weight_is_no_chain_in_any_outline() -> None:
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)))
    assert [chain.path for chain in outline(model).chains] == [chain.path for chain in of_step(model).chains] == [""]


# --- any nesting ----------------------------------------------------------------------------------------------------


class Shaped(nn.Module):
    """A container of any kind, with a loop of any kind over what is in it."""

    def __init__(self, loop: str, held: nn.Module) -> None:
        super().__init__()
        self.loop, self.held = loop, held

    def forward(self, x: Tensor) -> Tensor:
        modules = list(self.held.children())
        x = x + 0
        total = x
        for at, module in enumerate(reversed(modules) if self.loop == "backwards" else modules):
            if self.loop == "random" and torch.rand(()) < 0.3:
                continue
            before, x = x, module(x)
            if self.loop == "skip" or (self.loop == "some skips" and at % 2):
                x = x + before
            elif self.loop == "collects":
                total = total + x
            elif self.loop == "twice":
                x = module(x)
            elif self.loop == "in place":
                x = x.mul_(0.5) if at % 2 else x
        return x + total


LOOPS = ("plain", "backwards", "random", "skip", "some skips", "collects", "twice", "in place")


def held(kind: str, children: list[nn.Module]) -> nn.Module:
    named = OrderedDict((f"m{at}", child) for at, child in enumerate(children))
    return nn.ModuleDict(named) if kind == "dict" else nn.ModuleList(children)


LEAVES = st.one_of(
    st.builds(Block), st.builds(nn.Tanh), st.builds(nn.Identity), st.builds(layer), st.builds(nn.ReLU, st.just(True))
)


NETWORKS = st.recursive(
    LEAVES,
    lambda below: (
        st.builds(
            Shaped,
            st.sampled_from(LOOPS),
            st.builds(held, st.sampled_from(["list", "dict"]), st.lists(below, min_size=1, max_size=4)),
        )
        | st.lists(below, min_size=1, max_size=3).map(lambda children: nn.Sequential(*children))
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(NETWORKS, st.sampled_from(USUAL))
def test_whatever_is_nested_is_cut_so_that_it_trains_the_same(network: nn.Module, text: str) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), network)
    torch.manual_seed(0)
    for weight in model.parameters():
        nn.init.uniform_(weight, -1, 1)
    try:
        plain = step(model)
    except RuntimeError:  # a change in place that autograd cannot bear
        return
    found = of_step(model)
    if not any(chain.runs for chain in found.outermost):
        with pytest.raises(PlacementError, match="no block can be a region"):
            parse_strategy(text).resolve(found)
        return
    placement = parse_strategy(text).resolve(found)
    with applied(model, placement):
        assert equal(plain, step(model))
