"""The page on the architecture names every room, from the top floor down."""

import re

from tests.docs.blocks import ROOT
from tests.test_floors import FLOORS

PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = [room for row in re.findall(r"^\| (`.+?`) \|", PAGE, re.MULTILINE) for room in re.findall(r"`(\w+)/?`", row)]


def test_every_room_is_named_from_the_top_down() -> None:
    lowest = [room for floor in FLOORS[:2] for room in floor]
    above = {room: number for number, floor in enumerate(FLOORS[2:]) for room in floor}
    assert sorted(ROOMS) == sorted([*lowest, *above])
    order = [above[room] for room in ROOMS if room in above]
    assert order == sorted(order, reverse=True)


def test_every_function_on_the_way_to_a_cell_is_there() -> None:
    rows = re.findall(r"^\| \w+ \| (`.*`) \|", PAGE, flags=re.M)
    names = {name.rpartition(".")[2] for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    names -= {"each", "jsonl", "csv"}  # a strategy and two files
    assert len(names) > 30
    source = "\n".join(file.read_text() for file in (ROOT / "bench" / "rematbench").rglob("*.py"))
    assert not {name for name in names if not re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b", source, flags=re.M)}
