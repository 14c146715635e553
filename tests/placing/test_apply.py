"""A placement in force: the same step, blocks run as often as theory says, and the model as it was afterwards."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.placing.networks import WIDTH, equal, gradients, placement, step
from torch import Tensor, nn

from rematbench.errors import PlacementError
from rematbench.placement.placement import Region
from rematbench.placement.registry import parse_strategy
from rematbench.placing.apply import applied, apply
from rematbench.placing.outline import outline

Span = tuple[int, int]
DEPTH = 6


class Block(nn.Module):
    """Linear, batch norm, dropout, tanh; notes every run of its forward in a list it shares."""

    def __init__(self, number: int, runs: list[int]) -> None:
        super().__init__()
        self.number, self.runs = number, runs
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH, momentum=[0.1, None][number % 2])
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(self.number)
        return self.dropout(self.norm(self.linear(x))).tanh()


def chain() -> tuple[nn.Sequential, list[int]]:
    """The same chain each time, and where its blocks note their runs."""
    torch.manual_seed(0)
    runs: list[int] = []
    return nn.Sequential(*(Block(number, runs) for number in range(DEPTH))), runs


def state(model: nn.Module) -> list[Any]:
    """Every attribute of every module, dictionaries of hooks and parameters included, in order; tensors by identity."""
    attributes: list[Any] = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            attributes.append((name, key, list(value.items()) if isinstance(value, dict) else value))
    tensors = [(name, id(value)) for name, value in (*model.named_parameters(), *model.named_buffers())]
    return [attributes, tensors, list(model.state_dict()), [id(module) for module in model.modules()]]


SPANS = st.tuples(st.integers(0, DEPTH - 1), st.integers(1, DEPTH)).filter(lambda span: span[0] < span[1])
OPTIONS = st.fixed_dictionaries(
    {
        "save": st.sampled_from(["nothing", "nothing", "matmuls", "everything"]),
        "early_stop": st.booleans(),
        "batch_norm": st.sampled_from(["once", "as-is"]),
        "offload": st.booleans(),
    }
)


@st.composite
def nested_regions(draw: st.DrawFn) -> dict[Span, Region]:
    """Regions by where they start and stop, such that any two nest or lie apart."""
    found: dict[Span, Region] = {}
    for span, options in draw(st.lists(st.tuples(SPANS, OPTIONS), min_size=1, max_size=6)):
        if all(nest_or_apart(span, other) for other in found):
            found[span] = Region.model_validate({"path": f"[{span[0]}:{span[1]}]", **options})
    return found


def nest_or_apart(a: Span, b: Span) -> bool:
    return a != b and (inside(a, b) or inside(b, a) or a[1] <= b[0] or b[1] <= a[0])


def inside(a: Span, b: Span) -> bool:
    return b[0] <= a[0] and a[1] <= b[1]


def recomputations(regions: dict[Span, Region], block: int) -> list[Region]:
    """The regions whose recomputation runs a block.

    A region is run again once, if backward needs anything it dropped; when it stops early, up to the last such tensor.
    """
    ends: dict[Span, int] = {}
    for dropper, end in saved(regions):
        if dropper is not None:
            ends[dropper] = max(end, ends.get(dropper, 0))
    reach = {span: end if regions[span].early_stop else span[1] for span, end in ends.items()}
    return [regions[span] for span, end in reach.items() if span[0] <= block < end]


def saved(regions: dict[Span, Region]) -> Iterator[tuple[Span | None, int]]:
    """What backward needs, as (the region that drops it, where a run that makes it again may end).

    A block saves tensors as it runs, a recomputed region its input before its first block; offloaded ones stay.
    """
    for block in range(DEPTH):
        yield dropper(regions, (block, block + 1), regions), block + 1
    for span, region in regions.items():
        if region.save != "everything" and not region.offload:
            yield dropper(regions, span, regions.keys() - {span}), span[0]


def dropper(regions: dict[Span, Region], span: Span, candidates: Iterable[Span]) -> Span | None:
    around = sorted((outer for outer in candidates if inside(span, outer)), key=lambda outer: outer[1] - outer[0])
    for outer in around:
        if regions[outer].save != "everything":
            return outer
        if regions[outer].offload:
            return None
    return None


@settings(max_examples=50, deadline=None)
@given(nested_regions())
def test_any_nested_placement_keeps_the_step_and_runs_each_block_as_often_as_predicted(
    regions: dict[Span, Region],
) -> None:
    (plain, _), (model, runs) = chain(), chain()
    before, expected = state(model), step(plain)
    with applied(model, placement(*regions.values())) as handle:
        assert equal(step(model), expected)
    again = [recomputations(regions, block) for block in range(DEPTH)]
    assert Counter(runs) == {block: 1 + len(again[block]) for block in range(DEPTH)}
    assert handle.blocks == tuple(str(block) for block in range(DEPTH) if covered(regions, block))
    updates = [1 + sum(region.batch_norm == "as-is" for region in found) for found in again]
    assert [int(block.norm.num_batches_tracked) for block in model] == updates  # type: ignore[union-attr, arg-type]
    for block, other, count in zip(model, plain, updates, strict=True):
        assert equal(list(block.buffers()), list(other.buffers())) == (count == 1)
    assert state(model) == before


def covered(regions: dict[Span, Region], block: int) -> bool:
    return any(start <= block < stop and region.save != "everything" for (start, stop), region in regions.items())


def test_the_model_is_as_it_was_after_an_error_in_a_block() -> None:
    model, runs = chain()
    expected = step(chain()[0])
    model[3].forward = refuse
    before = state(model)
    with pytest.raises(ZeroDivisionError), applied(model, placement("[0:5]", "[2:4]", "[2].linear")):
        step(model)
    assert runs == [0, 1, 2]
    assert state(model) == before
    del model[3].forward
    model.load_state_dict(chain()[0].state_dict())
    assert equal(step(model), expected)


def refuse(_x: Tensor) -> Tensor:
    raise ZeroDivisionError


@pytest.mark.parametrize("region", ["[2]", "[1:4]"])
def test_a_forward_put_on_a_module_before_is_used_and_put_back(region: str) -> None:
    (plain, _), (model, runs) = chain(), chain()
    for block in (plain[2], model[2]):
        block.forward = negated(block.forward)
    before = state(model)
    with applied(model, placement(region)):
        assert equal(step(model), step(plain))
    assert state(model) == before
    assert runs.count(2) == 2
    assert not equal(step(model), step(chain()[0]))


def negated(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: -forward(x)


def test_a_placement_on_top_of_another_nests_in_it() -> None:
    (plain, _), (model, runs) = chain(), chain()
    before = state(model)
    with applied(model, placement("[0]")), applied(model, placement("[0:2]")):
        assert equal(step(model), step(plain))
    assert Counter(runs) == {0: 3, 1: 2} | dict.fromkeys(range(2, DEPTH), 1)
    assert state(model) == before


def test_a_second_removal_does_nothing() -> None:
    model, _ = chain()
    before = state(model)
    handle = apply(model, placement("[0]"))
    handle.remove()
    model[0].forward = refuse
    handle.remove()
    assert model[0].forward is refuse
    del model[0].forward
    assert state(model) == before


@pytest.mark.parametrize("wrong", ["[6]", "[0:2]", Region(path="[3]", save="nowhere:policy")])
def test_a_refused_placement_leaves_the_model_alone(wrong: str | Region) -> None:
    model, _ = chain()
    before = state(model)
    with pytest.raises(PlacementError):
        apply(model, placement("[1:3]", wrong))
    assert state(model) == before


def test_hooks_on_a_block_see_one_forward() -> None:
    model, runs = chain()
    seen: list[str] = []
    model[2].register_forward_pre_hook(lambda *_: seen.append("before"))
    model[2].register_forward_hook(lambda *_: seen.append("after"))
    with applied(model, placement("[2]", "[2].linear")):
        step(model)
    assert seen == ["before", "after"]
    assert runs.count(2) == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_nothing_is_checkpointed(mode: Callable[[], Any], *, training: bool) -> None:
    (plain, _), (model, runs) = chain(), chain()
    x = torch.randn(3, WIDTH)
    with applied(model, placement("[0:4]", "[1:3]", "[5]")):
        with mode():
            outputs = []
            for net in (plain, model):
                torch.manual_seed(2)
                outputs.append(net.train(training)(x))
        assert torch.equal(*outputs)
        assert runs == list(range(DEPTH))
        assert equal(step(model), step(plain))


def test_a_copy_of_an_applied_model_has_nothing_applied() -> None:
    model, runs = chain()
    expected = step(chain()[0])
    with applied(model, placement("[0:4]", "[0:2]", "[5]")):
        twin = copy.deepcopy(model)
        twin_runs = vars(twin[0])["runs"]
        assert equal(step(twin), expected)
        assert gradients(model) == []
        assert (len(runs), len(twin_runs)) == (0, DEPTH)
        with applied(twin, placement("[0:4]")):
            assert equal(step(copy.deepcopy(twin)), expected)
            step(twin)
    assert (len(runs), len(twin_runs)) == (0, DEPTH + DEPTH + 4)
    assert not {id(weight) for weight in model.parameters()} & {id(weight) for weight in twin.parameters()}


@pytest.mark.parametrize("text", ["each", "nested:2"])
def test_a_thousand_blocks_are_placed_and_freed(text: str) -> None:
    model = nn.Sequential(*(nn.ReLU() for _ in range(1000)))
    before = state(model)
    with applied(model, parse_strategy(text).resolve(outline(model))) as handle:
        assert handle.blocks == tuple(map(str, range(1000)))
        assert all("forward" in vars(block) for block in model)
    assert state(model) == before
