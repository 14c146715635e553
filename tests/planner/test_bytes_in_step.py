"""What a step has live beside its units is told by a plain one: with it peaks are those of every placement."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rematbench.errors import PlacementError
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.placing.parts import Mark
from rematbench.planner import profiling
from rematbench.planner.bytes_in_step import metered_in_step
from rematbench.planner.planner import Planner
from rematbench.planner.profiling import profile
from rematbench.planner.scheduled import placement_of
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import simulate
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
ROWS, WIDTH = 512, 32
VALUE = ROWS * WIDTH * 4


class Block(nn.Module):
    """What it saves last is the input of a product that is as wide as it gets: a recomputation ends before that."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outside(self.inside(x).tanh())


def blocks(count: int = 3) -> nn.ModuleList:
    return nn.ModuleList(Block() for _ in range(count))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = blocks()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Holding(Plain):
    """Holds tables while it runs its blocks, of which backward needs none."""

    def forward(self, x: Tensor) -> Tensor:
        tables = [torch.ones(ROWS, WIDTH) * at for at in range(3)]
        for at, block in enumerate(self.blocks):
            x = block(x + tables[at % 3])
        return x


class Summing(nn.Module):
    """Every block gives a part to a sum, as in a WaveNet: one gradient for all of them waits for the first block."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.skip = Block(), nn.Linear(WIDTH, 3 * WIDTH)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.block(x)
            return y, self.skip(y)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Part() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return total.relu()


class Pyramid(nn.Module):
    """Every block's value is read twice more, by what is no unit: its gradients are there before the block's own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.weight = blocks(), nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for block in self.blocks:
            x = block(x)
            levels.append(x)
        return torch.cat([level @ self.weight for level in levels] + [level.sigmoid() for level in levels])


class Skipping(nn.Module):
    """A value that passes two blocks by: no region over them keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = nn.Linear(WIDTH, 4 * WIDTH), blocks(2), nn.Linear(5 * WIDTH, WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        x = self.narrow(skip)
        for block in self.middle:
            x = block(x)
        return self.up(torch.cat([x, skip], dim=1))


class Cast(nn.Module):
    """In bfloat16 by autocast, which keeps what it has made of the weights, larger than what the blocks work on."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(128) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for block in self.blocks:
                x = block(x)
        return x


class Listed(nn.Module):
    """Returns all hidden values, which no gradient comes to but by the last."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = blocks()

    def forward(self, x: Tensor) -> dict[str, object]:
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        return {"loss": x.square().mean(), "seen": seen}


class Rows(nn.Module):
    """Looks rows up in a table whose gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(20_000, WIDTH, sparse=True), blocks()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.embed(x[:, 0].abs().long())
        for block in self.blocks:
            y = block(y)
        return y


class Ending(nn.Module):
    """What it returns is saved by its last block, and yet there to the end of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


KINDS = [Ending, Plain, Holding, Summing, Pyramid, Skipping, Cast, Listed, Rows]


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is inside units is measured besides, and has tests of its own."""
    monkeypatch.setattr(profiling, "_DEPTH", 0)


def session_of(model: nn.Module) -> Session:
    torch.manual_seed(0)
    batch = torch.randn(64 if isinstance(model, Cast) else ROWS, 128 if isinstance(model, Cast) else WIDTH)
    session = Session(Workload(module=model, batch=(batch,)), CPU)
    session.keep_plain()
    return session


def some_schedules(planner: Planner) -> Iterator[tuple[UnitRegion, ...]]:
    """Yield the plain step, all units as regions, and some of the frontier from its least peak on."""
    yield ()
    yield tuple(
        UnitRegion(start=at, stop=at + 1) for at, unit in enumerate(planner.profile.units) if unit.can_be_region
    )
    _, schedules = planner.frontier("flops")
    yield from islice((schedule.regions for schedule in schedules), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_peaks_are_predicted_but_for_random_states(kind: type[nn.Module]) -> None:
    """The plain step's is its own; with regions a state more or less (5 KiB) may be there at another moment."""
    session = session_of(kind())
    planner = Planner(session, CPU)
    chain = planner.profile.chain("flops")
    for regions in some_schedules(planner):
        try:
            measured = session.peak_bytes(placement_of("", planner.profile, regions))
        except PlacementError:  # not all units at once, where values in between are used
            continue
        predicted = simulate(chain, regions).peak_bytes
        assert abs(predicted - measured) <= 2 * planner.profile.region_bytes, regions
    none = session.plain_peak_bytes
    assert none is not None
    assert 0 <= simulate(chain, ()).peak_bytes - none <= planner.profile.region_bytes


@pytest.mark.parametrize("kind", [Holding, Summing, Pyramid, Listed, Rows])
def test_units_by_themselves_do_not_tell_it(kind: type[nn.Module]) -> None:
    """So that the test above is one."""
    session = session_of(kind())
    alone = profile(session.workload, CPU)
    found = metered_in_step(alone, session)
    told = [*found.further_bytes, *(unit.passing_bytes for unit in found.units)]
    assert max(map(abs, told)) > VALUE // 2
    assert found.chain("flops") != alone.chain("flops")


def test_what_the_code_holds_is_there_in_forward_alone() -> None:
    """Three tables, and the value that a sum with one of them was made of, which the loop's variable holds."""
    session = session_of(Holding())
    found = metered_in_step(profile(session.workload, CPU), session)
    assert [unit.passing_bytes for unit in found.units[:-1]] == [3 * VALUE, *[4 * VALUE] * 2]
    assert max(map(abs, found.further_bytes)) <= 16


def test_what_the_model_returns_is_no_less_kept() -> None:
    session = session_of(Ending())
    alone = profile(session.workload, CPU)
    found = metered_in_step(alone, session)
    assert [unit.ways[0].saved_bytes for unit in found.units] == [unit.ways[0].saved_bytes for unit in alone.units]
    assert max(abs(size) for unit in found.units for size in (unit.passing_bytes, *found.further_bytes)) <= 16


def test_a_gradient_that_waits_is_there_until_the_first_block() -> None:
    """That of the sum, by when the last block is at work no more than what comes out of the model has."""
    session = session_of(Summing())
    found = metered_in_step(profile(session.workload, CPU), session)
    assert [round(size / VALUE) for size in found.further_bytes[1:4]] == [3, 3, 0]


def test_what_autocast_keeps_of_a_block_goes_with_it() -> None:
    """The copies of both weights, in half the bytes, and of both biases; run plainly, backward needs the weights'."""
    found = profile(session_of(Cast()).workload, CPU)
    weights, biases = 2 * 128 * 256 * 2, (128 + 256) * 2
    assert [unit.cast_bytes for unit in found.units] == [*[weights + biases] * 3, None]
    assert [unit.ways[0].lingering_bytes for unit in found.units[1:-1]] == [biases] * 2


class Otherwise(Plain):
    """Runs its blocks the other way round every second time."""

    turn = 0

    def forward(self, x: Tensor) -> Tensor:
        self.turn += 1
        for block in list(self.blocks)[:: -1 if self.turn % 2 else 1]:
            x = block(x)
        return x


def test_a_step_of_other_calls_tells_nothing() -> None:
    session = session_of(Plain())
    found = profile(session.workload, CPU)
    others = profile(session_of(Rows()).workload, CPU)
    assert metered_in_step(others, session) == others
    assert metered_in_step(found, session) != found


def test_a_meter_without_a_trace_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(Plain())
    found = profile(session.workload, CPU)
    monkeypatch.setattr(Session, "trace", lambda *_: None)
    assert metered_in_step(found, session) == found


def test_the_model_is_left_as_it_was() -> None:
    session = session_of(Plain())
    metered_in_step(profile(session.workload, CPU), session)
    assert not any("forward" in vars(module) for module in session.workload.module.modules())


def test_a_trace_marks_what_it_is_told_to() -> None:
    session = session_of(Plain())

    @contextmanager
    def nothing(_model: nn.Module, mark: Mark) -> Iterator[None]:
        with mark("outside the step"):
            yield

    trace = session.trace(Placement(name="none"), nothing)
    assert trace is not None
    assert not any(span.is_block and span.name == "blocks.0" for span in trace.spans)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_backward_of_a_unit_runs_outside_of_the_model_s_autocast(depth: int) -> None:
    """As torch runs it; the products of its gradients would be cast, too."""
    seen: list[bool] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx: object, gradient: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return gradient

    class Watching(Plain):
        class Inner(Block):
            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = Watched.apply(F.relu(super().forward(x)))  # type: ignore[no-untyped-call]
                return result

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(self.Inner() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=depth > 0), torch.autocast("cpu", enabled=depth > 1):
                return super().forward(x)

    profile(session_of(Watching()).workload, CPU)
    assert seen
    assert not any(seen)
