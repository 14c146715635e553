"""From paths to modules: what nests, what is refused, and what is said of it."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn, ones

from rematbench.errors import PlacementError
from rematbench.placement.placement import Placement, Region
from rematbench.placement.registry import parse_strategy
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline
from rematbench.placing.sites import DEEPEST, Site, covered_modules, depth, find_sites

Span = tuple[int, int]
LENGTH = 7


class Net(nn.Module):
    """A stack of two-layer blocks, its last block also known by another name, and named branches."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(LENGTH)))
        self.alias = self.blocks[-1]
        self.heads = nn.ModuleDict({"1": nn.ReLU(), "0": nn.Tanh()})
        self.extra: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.heads["1"](self.blocks(x))


def placement(*regions: str | Region) -> Placement:
    made = (region if isinstance(region, Region) else Region(path=region) for region in regions)
    return Placement(name="test", regions=tuple(made))


def sites(*regions: str | Region) -> list[Site]:
    return find_sites(Net(), placement(*regions))


def written(span: Span) -> str:
    start, stop = span
    return f"blocks[{start}]" if stop == start + 1 else f"blocks[{start}:{stop}]"


def laminar(spans: list[Span]) -> bool:
    """Whether no two runs are the same or cross, each pair looked at as sets of positions."""
    sets = [set(range(*span)) for span in spans]
    pairs = ((a, b) for at, a in enumerate(sets) for b in sets[:at])
    return all(a != b and (a <= b or b <= a or not a & b) for a, b in pairs)


def parents(spans: list[Span]) -> dict[Span, Span | None]:
    """The smallest other run around each."""
    around = {a: [b for b in spans if b != a and b[0] <= a[0] and a[1] <= b[1]] for a in spans}
    return {span: min(outer, key=lambda b: b[1] - b[0], default=None) for span, outer in around.items()}


def edges(forest: Iterable[Site], parent: Span | None = None) -> Iterator[tuple[Span, Span | None]]:
    for site in forest:
        yield (site.start, site.stop), parent
        yield from edges(site.inner, (site.start, site.stop))


SPANS = st.tuples(st.integers(0, LENGTH - 1), st.integers(1, LENGTH)).filter(lambda span: span[0] < span[1])


@given(st.lists(SPANS, max_size=6))
def test_regions_are_accepted_just_where_they_nest_or_lie_apart(spans: list[Span]) -> None:
    model, asked = Net(), placement(*map(written, spans))
    if laminar(spans):
        assert dict(edges(find_sites(model, asked))) == parents(spans)
    else:
        with pytest.raises(PlacementError, match=r"overlap: nest one inside the other|are the same: leave one out"):
            find_sites(model, asked)


@given(SPANS, st.booleans(), st.booleans())
def test_a_site_holds_the_modules_of_its_slice(span: Span, from_end: bool, to_end: bool) -> None:
    model = Net()
    start, stop = span
    first = start - LENGTH if from_end else start
    last = "" if stop == LENGTH else stop - LENGTH if to_end else stop
    (site,) = find_sites(model, placement(f"blocks[{first}:{last}]"))
    assert (site.parent, site.start, site.stop) == ("blocks", start, stop)
    assert site.members == tuple(model.blocks)[start:stop]
    assert site.names == tuple(f"blocks.{at}" for at in range(LENGTH))[start:stop]
    assert all(model.get_submodule(name) is member for name, member in zip(site.names, site.members, strict=True))


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", [("",)]),
        ("blocks", [("blocks",)]),
        ("blocks[-1]", [("blocks.6",)]),
        ("blocks.1", [("blocks.1",)]),
        ("blocks[1][0]", [("blocks.1.0",)]),
        ("blocks.1.0", [("blocks.1.0",)]),
        ("blocks[5:9]", [("blocks.5", "blocks.6")]),
        ("blocks[::3]", [("blocks.0",), ("blocks.3",), ("blocks.6",)]),
        ("blocks[0:2].1", [("blocks.0.1",), ("blocks.1.1",)]),
        ("blocks[0:2][0:2]", [("blocks.0.0", "blocks.0.1"), ("blocks.1.0", "blocks.1.1")]),
        ("blocks[::6][1]", [("blocks.0.1",), ("blocks.6.1",)]),
        ("heads[0]", [("heads.1",)]),
        ("heads.0", [("heads.0",)]),
        ("heads[0:2]", [("heads.1", "heads.0")]),
    ],
)
def test_what_a_path_reaches(path: str, names: list[tuple[str, ...]]) -> None:
    assert [site.names for site in sites(path)] == names


def test_a_module_pattern_finds_what_it_matched_whatever_it_is_called() -> None:
    model = Net()
    (first, second) = find_sites(model, parse_strategy("modules:heads.*").resolve(outline(model)))
    assert (first.names, first.members) == (("heads.1",), (model.heads["1"],))
    assert (second.names, second.members) == (("heads.0",), (model.heads["0"],))


def test_a_region_may_hold_parts_of_its_members() -> None:
    found = sites("blocks[0:2]", "blocks[0]", "blocks[0][0]", "blocks[1][0:2]", "blocks[1].1")
    assert dict(edges(site for site in found if site.parent == "blocks")) == {(0, 2): None, (0, 1): (0, 2)}
    assert [(site.parent, site.names) for site in found if site.parent != "blocks"] == [
        ("blocks.0", ("blocks.0.0",)),
        ("blocks.1", ("blocks.1.0", "blocks.1.1")),
    ]


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        (["block[0]"], ["'block[0]' matches nothing in the model", "did you mean 'blocks'", "alias, blocks, heads"]),
        (["blocks[0].mlp"], ["'blocks[0].mlp' matches nothing in blocks.0", "unknown module 'mlp'", "known are 0, 1"]),
        (["blocks.7"], ["'blocks.7' matches nothing in blocks", "known are 0, 1"]),
        (["blocks[7]"], ["'blocks[7]' matches nothing: blocks has 7 blocks"]),
        (["blocks[3:3]"], ["'blocks[3:3]' matches nothing: blocks has 7 blocks"]),
        (["blocks[0:2][5]"], ["'blocks[0:2][5]' matches nothing: blocks.0 has 2 blocks"]),
        (["[0]"], ["the model is a Net, not a chain", "blocks[0:7] × Sequential", "heads[0:2] × ReLU, Tanh"]),
        (["blocks[0][0][0]"], ["blocks.0.0 is a Linear, not a chain", "blocks[0:7]"]),
        (["extra"], ["unknown module 'extra'", "blocks"]),
        (["blocks[0:3]", "blocks[2:4]"], ["'blocks[0:3]'", "'blocks[2:4]'", "overlap", "nest one inside the other"]),
        (["blocks[0:2]", "blocks[:2]"], ["'blocks[0:2]'", "'blocks[:2]'", "are the same: leave one out"]),
        (["blocks[0]", "blocks.0"], ["'blocks[0]'", "'blocks.0'", "are the same"]),
        (["blocks[5:7]", "alias"], ["blocks.6 and alias are one module", "only one of them"]),
        (["heads"], ["'heads': heads is a ModuleDict, which has no forward", "inside it is 1, 0"]),
    ],
)
def test_a_refusal_says_what_there_is(regions: list[str], words: list[str]) -> None:
    with pytest.raises(PlacementError) as caught:
        sites(*regions)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_no_chain_at_all_is_said() -> None:
    with pytest.raises(PlacementError, match="the model is a Linear, not a chain; the model has no chain"):
        find_sites(nn.Linear(1, 1), placement("[0]"))


def test_one_module_twice_in_a_run_is_refused() -> None:
    relu = nn.ReLU()
    with pytest.raises(PlacementError, match="0 and 2 are one module"):
        find_sites(nn.Sequential(relu, nn.Tanh(), relu), placement("[0:3]"))


@pytest.mark.parametrize(
    ("module", "inside"),
    [
        (nn.ModuleList([nn.ReLU(), nn.Tanh()]), "0, 1"),
        (nn.ModuleList(nn.ReLU() for _ in range(50)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"),
        (nn.ParameterList(), "no module"),
    ],
)
def test_what_is_never_called_is_refused(module: nn.Module, inside: str) -> None:
    model = nn.Sequential(nn.ReLU(), module)
    name = type(module).__name__
    with pytest.raises(PlacementError, match=f"1 is a {name}, which has no forward .* inside it is {inside}$"):
        find_sites(model, placement("[0:2]"))


def test_a_list_with_a_forward_of_its_own_is_taken() -> None:
    blocks = nn.ModuleList([nn.ReLU()])
    blocks.forward = blocks[0].forward
    (site,) = find_sites(nn.Sequential(blocks), placement("[0]"))
    assert site.members == (blocks,)


def kept(path: str) -> Region:
    return Region(path=path, save="everything")


@pytest.mark.parametrize(
    ("regions", "covered"),
    [
        ([], ()),
        (["blocks[1]", "blocks[3:5]"], ("blocks.1", "blocks.3", "blocks.4")),
        (["blocks[0:2]", "blocks[0]", "blocks[1][0]"], ("blocks.0", "blocks.1")),
        ([kept("blocks[0:2]"), "blocks[1]"], ("blocks.1",)),
        ([kept("blocks[0]")], ()),
        (["blocks[0].1", "blocks"], ("blocks",)),
        (["", "blocks[0]"], ("",)),
    ],
)
def test_recomputed_modules_are_listed_outermost_only(regions: list[str | Region], covered: tuple[str, ...]) -> None:
    assert covered_modules(sites(*regions)) == covered


@pytest.mark.parametrize("count", [DEEPEST + 1, 3000])
def test_regions_that_nest_deeper_than_python_goes_are_refused(count: int) -> None:
    """Long before the millions of names that thousands of regions inside each other have."""
    model = nn.Sequential(*(nn.ReLU() for _ in range(count)))
    nested = Placement(name="deep", regions=tuple(Region(path=f"[{at}:{count}]") for at in range(count)))
    with pytest.raises(PlacementError, match=f"is inside {DEEPEST} others"):
        find_sites(model, nested)
    apart = Placement(name="each", regions=tuple(Region(path=f"[{at}]") for at in range(count)))
    assert depth(find_sites(model, apart)) == 1


def test_nesting_that_fits_is_run_and_what_does_not_is_a_sentence() -> None:
    def deep(at: int, value: Tensor) -> Tensor:
        return deep(at - 1, value) if at else value * 2

    class Deep(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return deep(500, value)

    regions = tuple(Region(path=f"[0:{at}]") for at in range(2, 60))
    flat = nn.Sequential(*(nn.Linear(1, 1) for _ in range(60)))
    with applied(flat, Placement(name="deep", regions=regions)):
        flat(ones(1, 1)).sum().backward()
    model = nn.Sequential(Deep(), *(nn.Linear(1, 1) for _ in range(60)))
    with (
        pytest.raises(PlacementError, match="regions nest 58 deep and each runs inside the one around it"),
        applied(model, Placement(name="deep", regions=regions)),
    ):
        model(ones(1, 1, requires_grad=True)).sum().backward()
