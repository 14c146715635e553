"""Units measured one by one predict whole steps: peaks within 1 % and almost never low, FLOPs exactly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from rematbench.errors import PlacementError
from rematbench.loading import reference_models
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement, Region
from rematbench.placement.registry import parse_goal, parse_strategy
from rematbench.placing.outline import outline
from rematbench.placing.sites import Site, find_sites
from rematbench.planner import profiling
from rematbench.planner.planner import Planner
from rematbench.planner.profile import Profile, UnitProfile, Way
from rematbench.planner.profiling import profile
from rematbench.planner.scheduled import placement_of
from rematbench.planner.signature import Recorder
from rematbench.planner.unit_call import UnitCall
from rematbench.planner.unit_meter import UnitMeter
from rematbench.planner.ways import Inside, UnitCosts, measure_unit
from rematbench.solver.schedule import UnitRegion
from rematbench.solver.simulate import simulate
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
SIZES = {
    "plain.mlp": {"depth": 6, "width": 32, "batch": 8000},
    "plain.cnn": {"depth": 3, "width": 8, "batch": 32},
    "plain.sequence": {"width": 32, "batch": 32, "steps": 64},
    "plain.gru": {"width": 64, "batch": 512, "depth": 4},
    "residual.linear": {"width": 64, "batch": 4000},
    "residual.conv_bn": {"width": 16, "batch": 16, "size": 32},
    "residual.conv_projection": {"width": 16, "batch": 16, "size": 32},
    "concat_skip.conv": {"width": 16, "batch": 16, "size": 32},
    "concat_skip.unet": {"width": 16, "batch": 8, "size": 32},
    "attention_fusion.attentive": {"width": 16, "batch": 16, "steps": 128},
    "attention_fusion.weighted": {"width": 32, "batch": 8000},
    "lstm_skip.lstm": {"width": 16, "batch": 64, "steps": 64, "hidden": 32},
    "intermediate.auxiliary": {"width": 64, "batch": 8000},
    "intermediate.hooked": {"width": 64, "batch": 8000},
    "intermediate.activation_only": {"batch": 256},
}
"""Large enough that the random states a region stashes (5 KiB each) do not count."""

SHARED_GRADIENT = 0.05
"""The blocks of plain.gru share one cell, whose gradient each of them is charged for."""


def regions_of(sites: list[Site], units: dict[str, int]) -> Iterator[UnitRegion]:
    for site in sites:
        yield UnitRegion(start=units[site.names[0]], stop=units[site.names[-1]] + 1, save=site.region.save)
        yield from regions_of(site.inner, units)


def test_every_reference_model_has_a_size() -> None:
    assert set(SIZES) == set(reference_models())


@pytest.mark.parametrize("name", SIZES)
def test_the_prediction_is_the_measurement(name: str) -> None:
    ref = ModelRef.parse(name, Path.cwd(), **SIZES[name])
    workload = build(ref, CPU, dtype=torch.float32, seed=0)
    session = Session(workload, CPU)
    session.keep_plain()
    session.fresh()
    found = profile(workload, CPU)
    chain = found.chain("flops")
    units = {unit.path: at for at, unit in enumerate(found.units)}
    margin = SHARED_GRADIENT if name == "plain.gru" else 0.01
    for text in ("none", "each", "sqrt"):
        placement = parse_strategy(text).resolve(outline(workload.module))
        measured = session.measure(placement)
        assert measured.flops is not None
        regions = list(regions_of(find_sites(workload.module, placement), units))
        predicted = simulate(chain, regions)
        assert predicted.peak_bytes == pytest.approx(measured.memory.peak_bytes, rel=margin), text
        assert predicted.peak_bytes >= measured.memory.peak_bytes * 0.998
        assert predicted.cost == measured.flops.recompute, text
        assert placement_of(text, found, regions).regions == placement.regions


def chain_of(*blocks: nn.Module) -> Profile:
    torch.manual_seed(0)
    return profile(Workload(module=nn.Sequential(*blocks), batch=(torch.randn(64, 8),)), CPU)


def test_a_linear_chain_by_hand() -> None:
    """Linear keeps its input for the weight's gradient, the loss its output; an activation is 64 × 8 floats."""
    found = chain_of(nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8)))
    first, second, loss = found.units
    assert [unit.path for unit in found.units] == ["0", "1", "(loss)"]
    assert (first.inputs, first.saved) == (frozenset(), frozenset())  # the batch is there anyway
    assert (second.inputs, second.saved, loss.saved) == (frozenset({0}), frozenset({0}), frozenset({1}))
    assert found.tensor_bytes == (64 * 8 * 4, 64 * 8 * 4)
    assert first.ways[0].saved_bytes == second.ways[0].saved_bytes == 0
    assert first.parameter_gradient_bytes == (8 * 8 + 8) * 4
    assert first.forward_flops == 2 * 64 * 8 * 8
    assert (first.rerun_flops, second.rerun_flops) == (0, 0)  # nothing saved behind the product: stopped before it
    assert second.follows
    assert not loss.can_be_region


def test_what_is_saved_between_units_is_told_apart() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[1](self.blocks[0](x).sigmoid())

    found = profile(Workload(module=Net(), batch=(torch.randn(64, 8),)), CPU)
    assert [unit.between_bytes for unit in found.units] == [0, 64 * 8 * 4, 0]
    assert not found.units[1].follows


class LanguageModel(nn.Module):
    """Makes its loss itself, as those of transformers do: what the cross entropy holds is in no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(4))
        self.head = nn.Linear(16, 500)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("text", ["none", "each", "first:2+save=matmuls"])
def test_a_loss_inside_the_model_is_predicted_too(text: str) -> None:
    """Its gradients of the logits, twice, are the peak of the plain step; 16 KiB are left for random states."""
    torch.manual_seed(0)
    model, batch = LanguageModel(), {"x": torch.randn(1000, 16), "labels": torch.randint(0, 500, (1000,))}
    session = Session(Workload(module=model, batch=batch), CPU)
    found = profile(session.workload, CPU)
    assert all(weight.grad is None for weight in model.parameters())
    placement = parse_strategy(text).resolve(outline(model))
    units = {unit.path: at for at, unit in enumerate(found.units)}
    predicted = simulate(found.chain("flops"), regions_of(find_sites(model, placement), units))
    assert 0 <= predicted.peak_bytes - session.peak_bytes(placement) <= 2**14
    assert predicted.peak_bytes > 3 * 1000 * 500 * 4


def test_a_module_called_twice_is_two_units() -> None:
    block = nn.Sequential(nn.Linear(8, 8))

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([block, nn.Sequential(nn.Linear(8, 8))])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[1](self.blocks[0](self.blocks[0](x)))

    found = profile(Workload(module=Twice(), batch=(torch.randn(4, 8),)), CPU)
    assert [(unit.path, unit.can_be_region) for unit in found.units[:3]] == [
        ("blocks.0", True),
        ("blocks.0", True),
        ("blocks.1", True),
    ]


def test_a_value_used_in_between_parts_the_chain() -> None:
    class Collecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            seen = []
            for block in self.blocks:
                x = block(x)
                seen.append(x)
            return seen[1:]

    found = profile(Workload(module=Collecting(), batch=(torch.randn(4, 8),)), CPU)
    assert [unit.follows for unit in found.units[:3]] == [False, True, False]


def test_profiling_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), nn.Sequential(nn.Linear(8, 8)))
    before = torch.get_rng_state()
    workload = Workload(module=model, batch=(torch.randn(4, 8),))
    profile(workload, CPU)
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.randn(4, 8)
    model(*workload.batch)
    assert torch.equal(torch.get_rng_state(), after)  # one forward's worth of random numbers


def unit_of(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))


class Attentive(nn.Module):
    """Returns `(hidden, weights)`, as blocks with attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)
        self.body = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        weights = self.mix(hidden).softmax(-1)
        mixed = hidden * weights if mask is None else hidden * weights * mask
        return hidden + self.body(mixed), weights


class Loop(nn.Module):
    """A model's loop over such blocks; what it does besides is a subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attentive() for _ in range(6))

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x, _ = block(x)
        return x


class Collecting(Loop):
    def forward(self, x: torch.Tensor) -> Any:
        every = []
        for block in self.blocks:
            x, weights = block(x)
            every.append(weights)
        return x, every


class Penalising(Loop):
    """Works on the weights between its blocks; autograd saves nothing of it."""

    def forward(self, x: torch.Tensor) -> Any:
        penalty = torch.zeros(())
        for block in self.blocks:
            x, weights = block(x)
            penalty = penalty + weights.mean()
        return x.square().mean() + penalty


class Looking(Loop):
    """Works on them for nobody."""

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x, weights = block(x)
            weights.detach().max().item()
        return x


class Asking(Loop):
    """Asks for shapes, which a region answers too."""

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x, weights = block(x)
            assert weights.shape == x.shape
        return x


class Named(Loop):
    """Hands on by keyword, with a mask that it makes itself."""

    def forward(self, x: torch.Tensor) -> Any:
        mask = (x > 0).float()
        for block in self.blocks:
            x, _ = block(hidden=x, mask=mask)
        return x


class Remasking(Loop):
    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x, _ = block(hidden=x, mask=torch.ones(16))
        return x


class Hooked(Loop):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[2].register_forward_hook(lambda *_: None)


def workload_of(model: nn.Module) -> Workload:
    torch.manual_seed(0)
    return Workload(module=model, batch=(torch.randn(512, 16),))


ALL = [False, True, True, True, True, True, False]
NONE = [False] * 7


@pytest.mark.parametrize(
    ("model", "follows"),
    [
        (Loop, ALL),
        (Asking, ALL),
        (Named, ALL),
        (Collecting, NONE),
        (Penalising, NONE),
        (Looking, NONE),
        (Remasking, NONE),
        (Hooked, [False, True, False, False, True, True, False]),
    ],
)
def test_blocks_that_return_more_join_where_nobody_uses_it(model: type[Loop], follows: list[bool]) -> None:
    """And where they do not join, it is because a region over them would be refused."""
    workload = workload_of(model())
    found = profile(workload, CPU)
    assert [unit.follows for unit in found.units] == follows
    session = Session(workload, CPU)
    for at, joined in list(enumerate(follows))[1:6]:
        placement = Placement(name="two", regions=(Region(path=f"blocks[{at - 1}:{at + 1}]"),))
        if joined:
            session.peak_bytes(placement)
        elif model is not Collecting or at < 5:
            with pytest.raises(PlacementError):
                session.peak_bytes(placement)


@pytest.mark.parametrize("model", [Loop, Named])
def test_a_plan_spans_blocks_that_return_hidden_and_weights(model: type[Loop]) -> None:
    session = Session(workload_of(model()), CPU)
    session.keep_plain()
    planned = Planner(session, CPU).plan(parse_goal("frontier:1/3"))
    assert any(":" in region.path for region in planned.placement.regions)
    found = session.measure(planned.placement)
    assert found.equality is not None
    assert found.equality.gradients == "bitwise"
    assert found.memory.peak_bytes == planned.facts.measured_peak_bytes
    assert planned.facts.predicted_peak_bytes == pytest.approx(found.memory.peak_bytes, rel=0.02)


def measured(monkeypatch: pytest.MonkeyPatch, workload: Workload) -> tuple[Profile, int]:
    """Return a profile, and how many of its units were measured."""
    calls: list[UnitCall] = []

    def counting(
        meter: UnitMeter,
        call: UnitCall,
        saves: Sequence[str],
        insides: Callable[[Way], Iterable[Inside]] = lambda _plain: (),
        **options: Any,
    ) -> UnitCosts:
        calls.append(call)
        return measure_unit(meter, call, saves, insides, **options)

    monkeypatch.setattr(profiling, "measure_unit", counting)
    monkeypatch.setattr(profiling, "_DEPTH", 0)  # what is inside units is measured besides
    return profile(workload, CPU), len(calls)


def without_seconds(found: Profile) -> Profile:
    def unit(one: UnitProfile) -> UnitProfile:
        ways = tuple(replace(way, recompute_s=0.0) for way in one.ways)
        return replace(one, forward_s=0.0, rerun_s=0.0, ways=ways)

    return replace(found, units=tuple(map(unit, found.units)))


def reference(name: str) -> Workload:
    return build(ModelRef.parse(name, Path.cwd(), **SIZES[name]), CPU, dtype=torch.float32, seed=0)


@pytest.mark.parametrize("name", ["plain.mlp", "residual.conv_bn", "concat_skip.conv", "attention_fusion.weighted"])
def test_equal_units_are_measured_once_and_come_to_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, few = measured(monkeypatch, reference(name))
    monkeypatch.setattr(Recorder, "digest", lambda _self: None)
    alone, all_of_them = measured(monkeypatch, reference(name))
    assert without_seconds(shared) == without_seconds(alone)
    assert few < all_of_them == len(shared.units)


class Kind(nn.Module):
    """One class, whose instances differ in what the arguments say."""

    def __init__(self, width: int = 16, p: float = 0.5, *, keep: bool = False, save: bool = True) -> None:
        super().__init__()
        self.inside = nn.Linear(16, width)
        self.outside = nn.Linear(width, 16)
        self.dropout = nn.Dropout(p)
        self.keep, self.save = keep, save
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.inside(x).relu()
        if self.keep:
            self.kept = hidden.detach()
        if not self.save:
            hidden = hidden.detach()
        y: torch.Tensor = self.dropout(self.outside(hidden))
        return y


def convolution(stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, stride=stride, padding=1), nn.ReLU())


@pytest.mark.parametrize(
    ("blocks", "batch", "count"),
    [
        ([Kind() for _ in range(5)], (64, 16), 2),  # the first one's input requires no gradient
        ([Kind(), Kind(), Kind(p=0.25), Kind()], (64, 16), 3),
        ([Kind(), Kind(), Kind(width=24), Kind()], (64, 16), 3),
        ([Kind(), Kind(), Kind(keep=True), Kind()], (64, 16), 3),
        ([Kind(), Kind(), Kind(save=False), Kind()], (64, 16), 3),
        ([convolution(stride) for stride in (1, 1, 2, 1, 1)], (2, 4, 16, 16), 4),
    ],
    ids=["equal", "dropout", "width", "a hidden flag", "what is saved", "stride and size"],
)
def test_units_that_differ_are_measured_apart(
    blocks: list[nn.Module], batch: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, calls = measured(monkeypatch, Workload(module=nn.Sequential(*blocks), batch=(torch.randn(batch),)))
    assert calls == count + 1  # the loss is measured too
    assert len(found.units) == len(blocks) + 1


class Refusing(Kind):
    """Raises under a dispatch mode of a kind, and only while `when()`."""

    def __init__(self, mode: str, error: Exception) -> None:
        super().__init__()
        self.mode, self.error = mode, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(self.mode in type(mode).__name__ for mode in _get_current_dispatch_mode_stack()):
            raise self.error
        return super().forward(x)


def test_a_unit_without_a_signature_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [Refusing("Recorder", NotImplementedError("no rule for this mode")) for _ in range(4)]
    found, calls = measured(monkeypatch, Workload(module=nn.Sequential(*blocks), batch=(torch.randn(4, 16),)))
    assert calls == 5
    assert all(unit.can_be_region for unit in found.units[:4])


def test_an_argument_of_a_kind_of_its_own_has_no_signature() -> None:
    call = UnitCall(forward=lambda x, _: (x * 2,), leaves=(torch.ones(2), object()), members=())
    assert UnitMeter(CPU).traced(call, signed=True).digest is None
    assert UnitMeter(CPU).traced(replace(call, leaves=(torch.ones(2), None)), signed=True).digest is not None


def test_each_way_of_a_unit_fails_by_itself() -> None:
    """A save policy works under dispatch modes, which a unit may refuse; it can be recomputed all the same."""
    refusing = Refusing("_CachingTorchDispatchMode", NotImplementedError("no rule for this mode"))
    found = profile(Workload(module=nn.Sequential(unit_of(), refusing), batch=(torch.randn(512, 16),)), CPU)
    first, second, loss = found.units
    assert first.refusals == {}
    assert second.can_be_region
    assert [way.save for way in second.ways] == ["everything"]
    assert second.refusals == {"matmuls": "NotImplementedError: no rule for this mode"}
    assert (loss.can_be_region, loss.refusals) == (False, {"nothing": "it is the loss"})


class Growing(Kind):
    """Saves a larger tensor every time that it runs."""

    runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        x = x.expand(self.runs % 7 + 1, *x.shape).sigmoid()[0]
        return super().forward(x)


class Overwriting(Kind):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(0.5))


def test_the_reason_why_a_unit_cannot_be_a_region_is_kept() -> None:
    blocks = nn.Sequential(unit_of(), Kind(), Growing(), Overwriting(), nn.Flatten())
    for parameter in blocks[0].parameters():
        parameter.requires_grad_(False)
    found = profile(Workload(module=blocks, batch=(torch.randn(512, 16),)), CPU)
    assert [unit.can_be_region and unit.begins for unit in found.units] == [False, True, False, False, True, False]
    reasons = [unit.refusals.get("beginning") or unit.refusals.get("nothing") or "" for unit in found.units]
    assert reasons[0] == "none of its outputs requires a gradient"
    assert reasons[2].startswith("CheckpointError: ")
    assert reasons[3] == "it changes its input in place"


@pytest.mark.parametrize("error", [KeyError("a bug of ours"), torch.OutOfMemoryError("no memory")])
def test_a_bug_of_ours_is_no_property_of_a_unit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> float:
        raise error

    monkeypatch.setattr(UnitMeter, "read_unsaved", broken)
    with pytest.raises(type(error)):
        chain_of(unit_of(8))


def test_out_of_memory_under_a_checkpoint_is_no_property_of_a_unit() -> None:
    refusing = Refusing("_CachingTorchDispatchMode", torch.OutOfMemoryError("no memory"))
    with pytest.raises(torch.OutOfMemoryError):
        profile(Workload(module=nn.Sequential(refusing), batch=(torch.randn(4, 16),)), CPU)


def test_units_are_the_blocks_of_the_chain_that_is_asked_for() -> None:
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)]
    workload = Workload(module=nn.Sequential(*blocks), batch=(torch.randn(4, 8),))
    assert [unit.path for unit in profile(workload, CPU).units] == ["0", "1", "(loss)"]
    assert [unit.path for unit in profile(workload, CPU, "0").units] == ["0.0", "0.1", "1", "(loss)"]
    plan = Planner(Session(workload, CPU), CPU, at="1").plan(parse_goal("frontier:1/2"))
    assert all(region.path.startswith(("0", "1[")) for region in plan.placement.regions)
