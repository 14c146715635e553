"""A placement as data: its text, its files, and what is said of one that is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rematbench.errors import PlacementError
from rematbench.placement.placement import Options, Placement, Region
from rematbench.placement.policies import SAVE_POLICIES

CHANGED = {
    "save": "matmuls",
    "reentrant": True,
    "preserve_rng": False,
    "early_stop": False,
    "batch_norm": "once",
    "offload": True,
}
SAVES = st.sampled_from([*SAVE_POLICIES, "policies:mine", "folder/policies.py:mine"])
BOOLEANS = {name: st.booleans() for name in ("preserve_rng", "early_stop", "offload")}
NORMS = st.sampled_from(["as-is", "once"])
PATHS = st.sampled_from(["", "blocks", "blocks[3]", "blocks[0:4]", "h[::2]", "encoder.layers[-1].mlp"])
REGIONS = st.builds(Region, path=PATHS, save=SAVES, batch_norm=NORMS, **BOOLEANS) | st.builds(
    Region, path=PATHS, reentrant=st.just(True), batch_norm=NORMS, **BOOLEANS
)
PLACEMENTS = st.builds(Placement, name=st.text(), regions=st.lists(REGIONS, max_size=3).map(tuple))


def test_every_option_is_known_here() -> None:
    assert list(Options.model_fields) == list(CHANGED)


@pytest.mark.parametrize("option", Options.model_fields)
def test_a_region_names_the_options_that_differ(option: str) -> None:
    region = Region(path="blocks[0:4]", **{option: CHANGED[option]})  # type: ignore[arg-type]
    assert region.changed() == {option: CHANGED[option]}
    assert str(region) == f"blocks[0:4]+{option}={str(CHANGED[option]).lower()}"
    assert Region(path="blocks[0:4]").changed() == {}


def test_a_long_placement_shows_its_ends_and_its_length() -> None:
    regions = tuple(Region(path=f"blocks[{position}]") for position in range(9))
    assert str(Placement(name="eight", regions=regions[:8])) == " ".join(f"blocks[{n}]" for n in range(8))
    assert str(Placement(name="nine", regions=regions)) == "blocks[0] blocks[1] blocks[2] … blocks[8] (9 regions)"
    assert str(Placement(name="none")) == ""


def test_a_compiled_placement_loads_back_and_has_no_regions() -> None:
    compiled = Placement(name="half", compile_budget=0.5)
    compiled.save("half.json")
    assert Placement.load("half.json") == compiled
    assert "compile_budget" not in Placement(name="none").model_dump()
    with pytest.raises(ValueError, match="a compiled model takes no regions"):
        Placement(name="both", compile_budget=0.5, regions=(Region(path="blocks[0]"),))


@given(PLACEMENTS)
def test_a_saved_placement_loads_back(placement: Placement) -> None:
    path = Path("placement.json")
    placement.save(path)
    assert Placement.load(path) == placement
    written = json.loads(path.read_text())["regions"]
    assert [set(region) - {"path"} for region in written] == [set(region.changed()) for region in placement.regions]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


TOML = """
[[regions]]
path = "blocks[0:4]"
save = "matmuls"

[[regions]]
path = "blocks[0:2]"
early_stop = false
"""


def test_toml_and_json_say_the_same() -> None:
    regions = [{"path": "blocks[0:4]", "save": "matmuls"}, {"path": "blocks[0:2]", "early_stop": False}]
    Path("inner-outer.toml").write_text(TOML)
    Path("other.json").write_text(json.dumps({"name": "inner-outer", "regions": regions}))
    placement = Placement.load("inner-outer.toml")
    assert placement.name == "inner-outer"
    assert placement == Placement.load("other.json")
    assert placement.regions == tuple(Region(**region) for region in regions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[regions]]\npath = 'blocks[x]'", ["regions[0].path", "'blocks[x]' cannot be read", "blocks[0:4]"]),
        ("[[regions]]\npath = 'b'\n[[regions]]\npath = 'c'\nsave = 'all'", ["regions[1].save: 'all'", *SAVE_POLICIES]),
        ("[[regions]]\npath = 'b'\nsaves = 'matmuls'", ["regions[0].saves: no such key"]),
        ("[[regions]]\nsave = 'matmuls'", ["regions[0].path", "required"]),
        ("[[regions]]\npath = 'b'\nearly_stop = 'no'", ["regions[0].early_stop", "boolean"]),
        ("[[regions]]\npath = 'b'\nbatch_norm = 'twice'", ["regions[0].batch_norm", "'as-is' or 'once'"]),
        ("[[regions]]\npath = 'b'\nreentrant = true\nsave = 'matmuls'", ["regions[0]", "leave out reentrant"]),
        ("region = []", ["region: no such key"]),
        ("regions = 3", ["regions"]),
        ("regions = [", ["placement file"]),
    ],
)
def test_a_wrong_file_is_told_by_its_key(text: str, words: list[str]) -> None:
    Path("wrong.toml").write_text(text)
    with pytest.raises(PlacementError) as caught:
        Placement.load("wrong.toml")
    assert str(caught.value).count("\n") == 0
    assert all(word in str(caught.value) for word in ["wrong.toml", *words])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.json", b"[]", ["list.json", "expected a name and regions", "list"]),
        ("torn.json", b'{"regions": [', ["torn.json"]),
        ("picture.toml", b"\xff\xd8\xff", ["picture.toml", "utf-8"]),
        ("nowhere.toml", None, ["nowhere.toml", "No such file"]),
    ],
)
def test_a_file_that_is_none_is_named(name: str, content: bytes | None, words: list[str]) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(PlacementError) as caught:
        Placement.load(name)
    assert all(word in str(caught.value) for word in ["placement file", *words])


def test_a_placement_is_not_changed_once_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Placement(name="each").name = "all"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        Region(path="blocks").path = "head"  # type: ignore[misc]
