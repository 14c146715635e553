"""The even cuts that people try by hand, on chains of any joins."""

from hypothesis import given
from tests.solver.chains import chains, long_chain

from rematbench.solver.chain import UnitChain
from rematbench.solver.schedule import UnitRegion, even_cuts
from rematbench.solver.simulate import simulate


def spans(chain: UnitChain) -> set[tuple[tuple[int, int], ...]]:
    return {tuple((region.start, region.stop) for region in regions) for regions in even_cuts(chain)}


def test_the_cuts_of_a_chain_by_hand() -> None:
    found = spans(long_chain(5))
    assert {((0, 5),), ((0, 3), (3, 5)), ((0, 3),), ((0, 2),)} <= found  # in two; all but the last; as torch cuts it
    assert tuple((at, at + 1) for at in range(5)) in found
    assert tuple((at, at + 1) for at in range(4)) in found


@given(chains())
def test_every_cut_can_be_run(chain: UnitChain) -> None:
    for regions in even_cuts(chain):
        assert simulate(chain, regions).cost >= 0
        assert all(isinstance(region, UnitRegion) for region in regions)
