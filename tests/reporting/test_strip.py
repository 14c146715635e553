from collections.abc import Sequence

import pytest

from rematbench.placement.placement import Placement, Region
from rematbench.records.measurement import Skip, Structure
from rematbench.reporting.strip import arcs, brackets, held

CHAIN = ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head")


def spans(blocks: Sequence[str], *paths: str) -> list[tuple[int, int, int]]:
    placement = Placement(name="any", regions=tuple(Region(path=path) for path in paths))
    return [(one.first, one.last, one.depth) for one in brackets(placement, blocks)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("blocks[0:2]", [(1, 2, 0)]),
        ("blocks[-1]", [(4, 4, 0)]),
        ("blocks[-2:]", [(3, 4, 0)]),
        ("blocks.2", [(3, 3, 0)]),
        ("blocks", [(1, 4, 0)]),
        ("", [(0, 5, 0)]),
        ("blocks[::2]", [(1, 1, 0), (3, 3, 0)]),
        ("blocks[0:2].mlp", [(1, 1, 0), (2, 2, 0)]),
        ("head", [(5, 5, 0)]),
        ("elsewhere[0]", []),
        ("blocks[9]", []),
    ],
)
def test_where_a_region_lies(path: str, expected: list[tuple[int, int, int]]) -> None:
    assert spans(CHAIN, path) == expected


def test_a_region_around_blocks_of_several_chains() -> None:
    blocks = ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0")
    assert spans(blocks, "encoder", "decoder.layers[0]") == [(0, 1, 0), (2, 2, 0)]


def test_nested_regions_lie_beneath_the_ones_around_them() -> None:
    assert spans(CHAIN, "blocks[0:4]", "blocks[0:2]", "blocks[0]", "blocks[2:4]") == [
        (1, 4, 0),
        (1, 2, 1),
        (1, 1, 2),
        (3, 4, 1),
    ]
    assert spans(CHAIN, "blocks[0]", "blocks[0].mlp") == [(1, 1, 0), (1, 1, 1)]


def test_a_bracket_says_what_the_region_is() -> None:
    placement = Placement(name="any", regions=(Region(path="blocks[1]", save="matmuls"),))
    assert brackets(placement, CHAIN)[0].text == "blocks[1]+save=matmuls"


def test_skips_are_between_blocks_and_may_come_with_the_batch() -> None:
    skips = [Skip(source=source, target="head", bytes=8, shape=(2,)) for source in ("", "blocks.1", "gone")]
    drawn = arcs(Structure(blocks=CHAIN, skips=tuple(skips)))
    assert [(arc.source, arc.target, arc.bytes, arc.shape) for arc in drawn] == [(-1, 5, 8, (2,)), (2, 5, 8, (2,))]


def test_every_byte_kept_is_some_blocks_or_nobodys() -> None:
    kept = {"blocks.0": 1, "blocks.0.mlp.fc": 2, "head": 4, "(loss)": 8, "": 16, "other": 32}
    assert held(kept, CHAIN) == [0, 3, 0, 0, 0, 4, 56]
    assert sum(held(kept, CHAIN)) == sum(kept.values())
