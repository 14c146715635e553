"""Strategies: how they are written, and where they put regions, against slices of a plain list."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

from rematbench.errors import PlacementError
from rematbench.placement.outline import Chain, Outline
from rematbench.placement.paths import Index, parse_path
from rematbench.placement.placement import Options, Region
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.placement.registry import STRATEGIES, parse_strategy
from rematbench.placing.outline import outline

Span = tuple[int, int]
WRITTEN = [known.form for known in STRATEGIES.values()]
PLACED = [known.form for known in STRATEGIES.values() if not known.stands_alone]
EXAMPLES = [written.replace(":N", ":2").replace("PATTERN", "*.*") for written in PLACED]


def chains(*lengths: int) -> Outline:
    """The outline of nothing but chains, called a, b, c, …"""
    found = tuple(Chain(path="abc"[at], blocks=("Block",) * length) for at, length in enumerate(lengths))
    return Outline(modules={}, chains=found, outermost=found)


def paths(text: str, model: Outline) -> list[str]:
    return [region.path for region in parse_strategy(text).resolve(model).regions]


def spans(text: str, length: int) -> list[Span]:
    """Where the regions of a strategy start and stop on a chain of that length."""
    return [span(path, length) for path in paths(text, chains(length))]


def span(path: str, length: int) -> Span:
    name, index = parse_path(path)
    assert name == "a"
    assert isinstance(index, Index)
    positions = index.positions(length)
    assert index.single == (len(positions) == 1)
    return positions.start, positions.stop


@pytest.mark.parametrize(
    ("text", "name", "arguments", "path", "options"),
    [
        ("each", "each", {}, None, {}),
        ("segments:4", "segments", {"n": 4}, None, {}),
        ("each@encoder.layers", "each", {}, "encoder.layers", {}),
        ("each@", "each", {}, "", {}),
        ("nested:2@h+save=matmuls", "nested", {"n": 2}, "h", {"save": "matmuls"}),
        ("each+batch_norm=once+early_stop=false", "each", {}, None, {"batch_norm": "once", "early_stop": False}),
        ("modules:h.*+preserve_rng=false", "modules", {"pattern": "h.*"}, None, {"preserve_rng": False}),
        ("modules:*.mlp@h+offload=true", "modules", {"pattern": "*.mlp"}, "h", {"offload": True}),
        ("all+save=folder/mine.py:policy", "all", {}, None, {"save": "folder/mine.py:policy"}),
        ("compile:budget=0.5", "compile", {"budget": 0.5}, None, {}),
    ],
)
def test_how_a_strategy_is_written(
    text: str, name: str, arguments: dict[str, object], path: str | None, options: dict[str, object]
) -> None:
    call = parse_strategy(text)
    assert (call.text, call.strategy.name, call.arguments, call.path) == (text, name, arguments, path)
    assert call.options.changed() == options


@given(
    st.builds(
        Options,
        save=st.sampled_from([*SAVE_POLICIES, "mine:policy"]),
        preserve_rng=st.booleans(),
        early_stop=st.booleans(),
        batch_norm=st.sampled_from(["as-is", "once"]),
        offload=st.booleans(),
    )
    | st.builds(Options, reentrant=st.just(True))
)
def test_options_read_back_as_a_region_writes_them(options: Options) -> None:
    written = str(Region(path="", **options.model_dump()))
    strategy = parse_strategy(f"each{written}")
    assert strategy.options == options
    placed = strategy.resolve(chains(2))
    assert placed.name == f"each{written}"
    assert placed.regions == tuple(Region(path=f"a[{at}]", **options.model_dump()) for at in (0, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eech", ["unknown placement 'eech'", "did you mean 'each'", "segments"]),
        ("", ["unknown placement ''", "each"]),
        ("each:3", ["'each:3'", "write it as each"]),
        ("each:", ["'each:'", "write it as each"]),
        ("segments", ["'segments'", "write it as segments:N"]),
        ("modules:", ["'modules:'", "write it as modules:PATTERN"]),
        ("segments:four", ["'segments:four'", "'four' should be a whole number from 1"]),
        ("segments:0", ["'0' should be a whole number from 1"]),
        ("first:-1", ["'-1' should be a whole number from 1"]),
        ("each+sav=matmuls", ["unknown option 'sav'", "did you mean 'save'", *Options.model_fields]),
        ("each+save", ["'each+save'", "write save=value"]),
        ("each+save=all", ["save: 'all' is not one of", *SAVE_POLICIES, "module:attribute"]),
        ("each+reentrant=yes", ["reentrant", "boolean"]),
        ("each+batch_norm=twice", ["batch_norm", "'as-is' or 'once'"]),
        ("each+save=matmuls+reentrant=true", ["save=matmuls", "leave out reentrant"]),
        ("compile", ["'compile'", "write it as compile:budget=SHARE"]),
        ("compile:0.5", ["write it as compile:budget=0.5"]),
        ("compile:budget=half", ["a share from 0 to 1"]),
        ("compile:budget=1.5", ["a share from 0 to 1"]),
        ("compile:budget=0.5@blocks", ["without regions and their options"]),
        ("compile:budget=0.5+save=matmuls", ["without regions and their options"]),
    ],
)
def test_what_cannot_be_read_is_told_with_what_can(text: str, words: list[str]) -> None:
    with pytest.raises(PlacementError) as caught:
        parse_strategy(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("text", "model", "words"),
    [
        ("segments:5", chains(4), ["segments:5: a has only 4 blocks"]),
        ("first:9", chains(4, 4), ["first:9: a has only 4 blocks"]),
        ("nested:1", chains(4), ["nested:N", "2 or more"]),
        ("each", chains(), ["each: the model has no Sequential", "modules:PATTERN"]),
        ("each@d", chains(2, 2), ["each@d: unknown chain 'd'", "known are a, b"]),
        ("modules:x.*", outline(nn.Sequential(nn.Linear(1, 1))), ["modules:x.*: no module matches", "begin 0"]),
    ],
)
def test_what_does_not_fit_the_model_is_told_with_what_it_has(text: str, model: Outline, words: list[str]) -> None:
    with pytest.raises(PlacementError) as caught:
        parse_strategy(text).resolve(model)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_every_strategy_is_listed_with_a_meaning() -> None:
    assert len(set(WRITTEN)) == len(WRITTEN)
    assert all(known.meaning and "\n" not in known.meaning for known in STRATEGIES.values())
    assert [written for written in WRITTEN if ":" in written] == [
        *("every:N", "segments:N", "checkpoint_sequential:N", "nested:N", "first:N", "last:N", "modules:PATTERN"),
        *("compile:budget=SHARE", "plan:BUDGET", "plan-flops:BUDGET", "ckptplan:BUDGET", "frontier:N"),
    ]


def test_a_compiled_model_has_a_budget_and_no_regions() -> None:
    placement = parse_strategy("compile:budget=0.25").resolve(chains(4))
    assert (placement.name, placement.regions, placement.compile_budget) == ("compile:budget=0.25", (), 0.25)
    assert str(placement) == "compiled, activation memory budget 0.25"


def test_what_a_planner_answers_needs_a_run() -> None:
    assert len(WRITTEN) - len(PLACED) == 5
    with pytest.raises(PlacementError, match="made by measuring: use it in a run"):
        parse_strategy("plan:1GiB").resolve(chains(4))


@pytest.mark.parametrize(("length", "count", "expected"), [(10, 6, [1] * 5), (12, 3, [4, 4]), (5, 2, [2]), (4, 1, [])])
def test_checkpoint_sequential_is_cut_as_torch_cuts_it(length: int, count: int, expected: list[int]) -> None:
    """Against torch itself: the modules between two checkpoints, seen from inside."""
    found = [stop - start for start, stop in spans(f"checkpoint_sequential:{count}", length)]
    assert found == expected
    recomputed = [0] * length

    class Count(nn.Module):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.at = at

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            recomputed[self.at] += 1
            return x.sin().sin()

    x = torch.ones(2, requires_grad=True)
    checkpoint_sequential([Count(at) for at in range(length)], count, x, use_reentrant=False).sum().backward()
    assert sum(found) == sum(calls == 2 for calls in recomputed)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_strategy_is_its_placements_name_and_takes_options(text: str) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(4)))
    placement = parse_strategy(f"{text}+early_stop=false").resolve(outline(model))
    assert placement.name == f"{text}+early_stop=false"
    assert bool(placement.regions) == (text != "none")
    assert all(region.changed() == {"early_stop": False} for region in placement.regions)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", ["a[0:4]", "b[0]"]),
        ("each", ["a[0]", "a[1]", "a[2]", "a[3]", "b[0]"]),
        ("each-but-last", ["a[0]", "a[1]", "a[2]"]),
        ("every:1", ["a[0]", "a[1]", "a[2]", "a[3]", "b[0]"]),
        ("segments:1", ["a[0:4]", "b[0]"]),
        ("sqrt", ["a[0:2]", "a[2:4]", "b[0]"]),
        ("nested:2@a", ["a[0:2]", "a[0]", "a[1]", "a[2:4]", "a[2]", "a[3]"]),
        ("first:1", ["a[0]", "b[0]"]),
        ("last:1", ["a[3]", "b[0]"]),
        ("last:3@a", ["a[1]", "a[2]", "a[3]"]),
        ("none", []),
    ],
)
def test_regions_on_a_chain_of_four_and_one_of_one(text: str, found: list[str]) -> None:
    assert paths(text, chains(4, 1)) == found


@pytest.mark.parametrize(
    ("text", "of_short"),
    [
        ("segments:3", ["b[0]", "b[1]"]),
        ("checkpoint_sequential:3", ["b[0]"]),
        ("nested:3", ["b[0]", "b[1]"]),
        ("every:3", ["b[0]"]),
        ("first:3", ["b[0]", "b[1]"]),
        ("last:3", ["b[0]", "b[1]"]),
    ],
)
def test_a_chain_with_fewer_blocks_than_asked_for_is_cut_as_far_as_it_goes(text: str, of_short: list[str]) -> None:
    placement = parse_strategy(text).resolve(chains(4, 2))
    assert [region.path for region in placement.regions if region.path.startswith("b")] == of_short
    assert placement.notes == ("b has only 2 blocks: cut as far as it goes",)
    assert parse_strategy(text).resolve(chains(4, 3)).notes == ()


def seen(length: int, runs: tuple[tuple[int, ...], ...], plain: dict[int, str]) -> Outline:
    """The outline of a chain as a step has shown it."""
    chain = Chain(path="a", blocks=("Block",) * length, runs=runs, plain=plain)
    return Outline(modules={}, chains=(chain,), outermost=(chain,))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("each", ["a[0]", "a[1]", "a[4]", "a[5]"]),
        ("each-but-last", ["a[0]", "a[1]", "a[4]"]),
        ("every:2", ["a[0]", "a[4]"]),
        ("last:3", ["a[4]", "a[5]"]),
        ("all", ["a[0:3]", "a[4:6]"]),
        ("segments:2", ["a[0]", "a[1:3]", "a[4]", "a[5]"]),
        ("checkpoint_sequential:2", ["a[0]", "a[4]"]),
        ("nested:2", ["a[0]", "a[1:3]", "a[4]", "a[5]"]),
        ("sqrt", ["a[0:3]", "a[4:6]"]),
    ],
)
def test_regions_keep_to_runs_and_begin_only_where_they_may(text: str, found: list[str]) -> None:
    """Of six blocks the first three are a run, of which none may begin at the third; the fourth cannot be a region."""
    outline = seen(6, ((0, 1, 3), (4, 5, 6)), {2: "changes its input in place", 3: "returns no tensor"})
    assert paths(text, outline) == found


def test_what_is_left_plain_is_told_with_why() -> None:
    plain = {2: "changes its input in place", 4: "changes its input in place", 3: "returns no tensor"}
    outline = seen(6, ((0, 1, 3), (5, 6)), plain)
    assert parse_strategy("each").resolve(outline).notes == (
        "a[2], a[4] left plain, as each changes its input in place",
        "a[3] left plain, as it returns no tensor",
    )
    assert parse_strategy("segments:2").resolve(outline).notes == (
        "a[3] left plain, as it returns no tensor",
        "a[4] left plain, as it changes its input in place",
    )
    assert parse_strategy("first:2").resolve(outline).notes == ()
    with pytest.raises(PlacementError, match=r"each: no block can be a region: a\[0\] left plain, as it returns no"):
        parse_strategy("each").resolve(seen(1, (), {0: "returns no tensor"}))


def test_modules_that_a_model_calls_stand_in_for_a_chain() -> None:
    outline = Outline(modules={"x": "X", "y": "Y"}, chains=(), outermost=(), loose=("x", "y"))
    assert [paths(text, outline) for text in ("each", "sqrt", "first:1", "checkpoint_sequential:2")] == [
        *(["x", "y"], ["x", "y"], ["x"], [])
    ]
    with pytest.raises(PlacementError, match="unknown chain 'z'"):
        parse_strategy("each@z").resolve(outline)


LENGTHS_AND_COUNTS = st.integers(1, 40).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))
SLICES: dict[str, Callable[[list[int], int], list[int]]] = {
    "each": lambda blocks, _: blocks,
    "each-but-last": lambda blocks, _: blocks[:-1],
    "every:N": lambda blocks, count: blocks[::count],
    "first:N": lambda blocks, count: blocks[:count],
    "last:N": lambda blocks, count: blocks[-count:],
}


@pytest.mark.parametrize("written", SLICES)
@given(size=LENGTHS_AND_COUNTS)
def test_regions_of_one_block_are_a_slice_of_the_chain(written: str, size: tuple[int, int]) -> None:
    length, count = size
    singles = SLICES[written](list(range(length)), count)
    assert spans(written.replace("N", str(count)), length) == [(at, at + 1) for at in singles]


@given(LENGTHS_AND_COUNTS)
def test_segments_cover_the_chain_evenly_the_longer_first(size: tuple[int, int]) -> None:
    length, count = size
    found = spans(f"segments:{count}", length)
    sizes = [stop - start for start, stop in found]
    assert [at for start, stop in found for at in range(start, stop)] == list(range(length))
    assert len(found) == count
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(st.integers(1, 300))
def test_sqrt_is_as_many_segments_as_the_nearest_whole_root(length: int) -> None:
    root = math.isqrt(length)
    nearest = root if length - root**2 <= root else root + 1
    assert spans("sqrt", length) == spans(f"segments:{nearest}", length)


@given(LENGTHS_AND_COUNTS.filter(lambda size: size[1] > 1))
def test_nested_regions_are_cut_into_segments_down_to_single_blocks(size: tuple[int, int]) -> None:
    length, count = size
    found = spans(f"nested:{count}", length)
    assert len(set(found)) == len(found)
    assert set(found) >= {(at, at + 1) for at in range(length)}
    for outer in [(0, length), *(region for region in found if region[1] - region[0] > 1)]:
        within = [inner for inner in found if inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]]
        direct = [inner for inner in within if not any(inner != other and inside(inner, other) for other in within)]
        size_of_outer = outer[1] - outer[0]
        shifted = [(start - outer[0], stop - outer[0]) for start, stop in direct]
        assert shifted == spans(f"segments:{min(count, size_of_outer)}", size_of_outer)


def inside(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def test_a_chain_inside_a_block_is_acted_on_when_asked_for() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(2)))
    assert paths("each", outline(model)) == ["[0]", "[1]"]
    assert paths("each@1", outline(model)) == ["1[0]", "1[1]"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("modules:*", ["0", "1"]),  # the model itself is no module inside it
        ("modules:**", ["0", "0.0", "0.1", "1", "1.0", "1.1"]),
        ("modules:*.1", ["0.1", "1.1"]),
        ("modules:**.1", ["0.1", "1", "1.1"]),
        ("modules:1@0", ["0.1"]),
        ("modules:*@1+save=matmuls", ["1.0", "1.1"]),
    ],
)
def test_modules_takes_every_path_that_matches(text: str, found: list[str]) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(2)))
    assert paths(text, outline(model)) == found


def test_a_wrong_pattern_lists_no_more_than_a_dozen_modules() -> None:
    model = nn.Sequential(*(nn.ReLU() for _ in range(100)))
    with pytest.raises(PlacementError, match=re.escape("begin 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11") + "$"):
        parse_strategy("modules:x").resolve(outline(model))
