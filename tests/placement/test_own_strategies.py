"""Strategies of a user's own: a function, a function in a file or a package, one registered by name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from rematbench import Placement, applied, apply, strategy
from rematbench.errors import PlacementError
from rematbench.placement.outline import Outline
from rematbench.placement.placement import Region
from rematbench.placement.registry import STRATEGIES, parse_strategy
from rematbench.placing.outline import outline
from rematbench.suite.case import Case

SOURCE = """
LIMIT = 3

def every_other(outline, n=2):
    for chain in outline.outermost:
        yield from (f"{chain.path}[{at}]" for at in range(0, len(chain), n))

def whole(outline):
    from rematbench import Placement
    return Placement.model_validate({"name": "x", "regions": [{"path": "[0:2]", "save": "matmuls"}]})

def broken(outline):
    return 1 / 0

def nothing(outline):
    return None

def numbers(outline):
    return [1, 2]

def elsewhere(outline):
    return ["blocks["]
"""


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(5)))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "rematbench_test_cuts").mkdir()
    (tmp_path / "rematbench_test_cuts" / "cuts.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def paths(placement: Placement) -> list[str]:
    return [region.path for region in placement.regions]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mine.py:every_other", ["[0]", "[2]", "[4]"]),
        ("mine.py:every_other?n=3", ["[0]", "[3]"]),
        ("./mine.py:every_other?n=4", ["[0]", "[4]"]),
        ("rematbench_test_cuts.cuts:every_other?n=3", ["[0]", "[3]"]),
        ("mine.py:every_other?n=1@1", ["1[0]", "1[1]"]),
        ("mine.py:whole", ["[0:2]"]),
    ],
)
def test_a_function_is_named_by_where_it_is(model: nn.Module, text: str, found: list[str]) -> None:
    placement = parse_strategy(text).resolve(outline(model))
    assert (placement.name, paths(placement)) == (text, found)
    with applied(model, text) as handle:
        assert handle.blocks


def test_options_hold_where_its_regions_say_nothing_else(model: nn.Module) -> None:
    found = parse_strategy("mine.py:every_other?n=3+save=everything").resolve(outline(model))
    assert [region.save for region in found.regions] == ["everything"] * 2
    found = parse_strategy("mine.py:whole+save=everything+early_stop=false").resolve(outline(model))
    assert [(region.save, region.early_stop) for region in found.regions] == [("matmuls", False)]


def test_a_case_takes_it_and_writes_it_back(model: nn.Module) -> None:
    case = Case.model_validate({"strategy": "mine.py:every_other?n=3", "save": "matmuls"})
    assert Case.model_validate(case.model_dump(exclude_defaults=True)) == case
    assert Case.model_validate_json(case.model_dump_json()) == case
    placement = case.resolve(outline(model))
    assert placement.name == "mine.py:every_other?n=3+save=matmuls"
    assert [str(region) for region in placement.regions] == ["[0]+save=matmuls", "[3]+save=matmuls"]


def test_a_function_itself_is_taken(model: nn.Module) -> None:
    def ends(outline: Outline) -> Iterator[Region | str]:
        yield Region(path="[0]", save="matmuls")
        yield f"[{len(outline.outermost[0]) - 1}]"

    handle = apply(model, ends)
    assert handle.blocks == ("0", "4")
    handle.remove()
    with applied(model, lambda _outline: ["[1:3]"]) as handle:
        assert handle.blocks == ("1", "2")


def test_a_registered_one_stands_like_ours(model: nn.Module) -> None:
    @strategy("thirds:N", "the Nth of three parts")
    def thirds(outline: Outline, n: int) -> list[str]:
        size = len(outline.outermost[0]) // 3
        return [f"[{(n - 1) * size}:{n * size}]"]

    try:
        assert paths(parse_strategy("thirds:2").resolve(outline(model))) == ["[1:2]"]
        with pytest.raises(PlacementError, match="'two' should be a whole number from 1"):
            parse_strategy("thirds:two")
        with pytest.raises(ValueError, match="'thirds' already"):
            strategy("thirds", "again")
    finally:
        del STRATEGIES["thirds"]


def test_a_placement_file_is_taken_by_its_path(model: nn.Module) -> None:
    Placement.model_validate({"name": "two", "regions": [{"path": "[1:3]"}]}).save("two.json")
    with applied(model, "two.json") as handle:
        assert handle.blocks == ("1", "2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gone.py:every_other", ["gone.py: no such file"]),
        ("rematbench_no_such:every_other", ["unknown placement 'rematbench_no_such'", "file.py:function"]),
        ("modles:mlp", ["unknown placement 'modles'", "did you mean 'modules'"]),
        ("mine.py:every_other?n", ["write arguments as ?depth=24"]),
        ("mine.py", ["unknown placement 'mine.py'"]),
    ],
)
def test_what_is_plainly_not_there_is_refused_when_read(text: str, words: list[str]) -> None:
    with pytest.raises(PlacementError) as caught:
        parse_strategy(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mine.py:every_othre", ["unknown attribute 'every_othre'", "did you mean 'every_other'"]),
        ("mine.py:LIMIT", ["is a int: expected a function of the outline"]),
        ("mine.py:broken", ["ZeroDivisionError"]),
        ("mine.py:nothing", ["TypeError"]),
        ("mine.py:numbers", ["a int is no region"]),
        ("mine.py:elsewhere", ["region path 'blocks[' cannot be read"]),
        ("mine.py:every_other?m=2", ["TypeError", "unexpected keyword argument 'm'"]),
        ("mine.py:every_other@nowhere", ["unknown chain 'nowhere'"]),
    ],
)
def test_what_goes_wrong_in_it_is_one_sentence_about_it(model: nn.Module, text: str, words: list[str]) -> None:
    call = parse_strategy(text)
    with pytest.raises(PlacementError) as caught:
        call.resolve(outline(model))
    assert str(caught.value).startswith(text.partition("@")[0])
    assert all(word in str(caught.value) for word in words), str(caught.value)
