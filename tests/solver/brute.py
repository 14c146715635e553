"""Every schedule of a small chain, by listing them: the solver's independent opponent."""

from collections.abc import Iterator

from rematbench.solver.chain import UnitChain
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import simulate

Regions = tuple[UnitRegion, ...]


def schedules(chain: UnitChain) -> Iterator[Regions]:
    """Yield every way to place nested regions and selective choices, each once."""
    yield from _rows(chain, 0, len(chain.units), inside=None)


def _rows(chain: UnitChain, start: int, stop: int, inside: tuple[int, int] | None) -> Iterator[Regions]:
    """Yield every row of elements from start to stop, inside a region or at depth 0."""
    if start == stop:
        yield ()
        return
    for end in range(start + 1, stop + 1):
        for first in _firsts(chain, start, end, inside):
            for rest in _rows(chain, end, stop, inside):
                yield first + rest


def _firsts(chain: UnitChain, start: int, end: int, inside: tuple[int, int] | None) -> Iterator[Regions]:
    units = chain.units[start:end]
    if end == start + 1:
        yield ()
        allowed = [choice for choice in units[0].choices[1:] if inside is None or choice.nests]
        yield from ((UnitRegion(start=start, stop=end, save=choice.save),) for choice in allowed)
    may = units[0].begins and all(unit.can_be_region for unit in units) and all(chain.joins[start : end - 1])
    if may and inside != (start, end):
        yield from ((UnitRegion(start=start, stop=end), *inner) for inner in _rows(chain, start, end, (start, end)))


def best(chain: UnitChain) -> list[tuple[int, float]]:
    """Return the (peak, cost) of every schedule that no other beats, by rising peak."""
    every = sorted({(figures.peak_bytes, figures.cost) for figures in (simulate(chain, r) for r in schedules(chain))})
    kept: list[tuple[int, float]] = []
    for peak, cost in every:
        if not kept or cost < kept[-1][1]:
            kept.append((peak, cost))
    return kept
