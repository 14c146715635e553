"""Each cause is found in a model that has just this trouble, and not in its twin that has none or another.

All that is found in each model of the table stands there, so that each is a twin to all the others.
"""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import rematbench
from rematbench import Diagnosis, Placement, outline
from rematbench.errors import PlacementError, RematbenchError
from rematbench.inspecting.evidence import evidence_of, static_of
from rematbench.loading import reference_models
from rematbench.measuring.session import Session
from rematbench.placement.registry import parse_strategy
from rematbench.records.causes import CAUSES, causes_of
from rematbench.records.peak import CHUNKS, peak_of
from rematbench.suite.model_ref import ModelRef
from rematbench.traces.caching_allocator import by_segment_kind
from rematbench.workload.building import build, static_bytes
from rematbench.workload.devices import find_device
from rematbench.workload.step import Workload

CPU = torch.device("cpu")
FLOAT = 4


class Block(nn.Module):
    """x + narrow(relu(wide(x))), (B, W) -> (B, W)."""

    def __init__(self, width: int = 32, wide: int = 0) -> None:
        super().__init__()
        self.wide = nn.Linear(width, wide or 4 * width)
        self.narrow = nn.Linear(wide or 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.wide(x).relu())


class Storing(Block):
    """Keeps what is inside it as an attribute."""

    last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.wide(x).relu()
        return x + self.narrow(self.last)


class Collecting(Block):
    """Keeps the beginning of its input with every call."""

    def __init__(self) -> None:
        super().__init__(32, 32)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach()[:16].clone())
        return super().forward(x)


class Halves(nn.Module):
    """A layer and a ReLU by itself, so that it can be a region, (B, W) -> (B, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(32, 32), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.layer(x))


class Pieces(nn.Module):
    """Takes and frees pieces of memory one after the other, of so many MiB each."""

    def __init__(self, *mib: int) -> None:
        super().__init__()
        self.mib = mib

    def forward(self, x: Tensor) -> Tensor:
        for mib in self.mib:
            torch.empty(mib * 2**20, dtype=torch.uint8)
        return x * 2


class Net(nn.Module):
    """Blocks in a row, a stem and a head where there is one, (B, W) -> (B, W or classes)."""

    def __init__(self, *blocks: nn.Module, stem: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Any:
        x = self.blocks(self.stem(x) if self.stem is not None else x)
        return self.head(x) if self.head is not None else x


class Returning(Net):
    """Returns what is inside its blocks, as a model of transformers returns its cache."""

    def forward(self, x: Tensor) -> Any:
        inner = []
        for block in self.blocks:
            x = block(x)
            inner.append(block.last)
            del block.last
        return {"logits": x, "past_key_values": inner}


def blocks(number: int = 12, width: int = 32, kind: type[nn.Module] = Block) -> list[nn.Module]:
    return [kind(width) for _ in range(number)]


def thin(number: int) -> list[nn.Module]:
    """Blocks that take little while they are at work."""
    return [Block(32, 32) for _ in range(number)]


def frozen(*modules: nn.Module) -> list[nn.Module]:
    return [module.requires_grad_(requires_grad=False) for module in modules]


def with_spare(*, trained: bool) -> nn.Module:
    net = Net(*thin(12))
    net.spare = nn.Linear(32, 32).requires_grad_(requires_grad=trained)
    return net


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A model, how it is run, and the kinds of all that is to be found there, the verdict first."""

    build: Callable[[], nn.Module]
    kinds: tuple[str, ...]
    rows: int = 2048
    width: int = 32
    placement: str = "each"
    adam: bool = False
    accumulate: int = 1


def stem() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 32))


REENTRANT = "each+reentrant=true"
HEALTHY = Planted(build=lambda: Net(*thin(12)), kinds=("kept",))

TROUBLES: dict[str, tuple[Planted, Planted]] = {
    "loss": (
        Planted(build=lambda: Net(*blocks(), head=nn.Linear(32, 4096)), kinds=("loss",), rows=512),
        Planted(build=lambda: Net(*thin(12), head=nn.Linear(32, 8)), kinds=("kept",)),
    ),
    "optimizer": (
        Planted(build=lambda: Net(*blocks(4, 256)), kinds=("optimizer", "gradients"), rows=16, width=256, adam=True),
        Planted(build=lambda: Net(*thin(12)), kinds=("kept",), adam=True),
    ),
    "gradients": (
        Planted(build=lambda: Net(*blocks(4, 256)), kinds=("gradients",), rows=16, width=256),
        HEALTHY,
    ),
    "parameters": (
        Planted(
            build=lambda: Net(*blocks(1, 256), *frozen(*blocks(4, 256))),
            kinds=("parameters", "gradients"),
            rows=128,
            width=256,
        ),
        Planted(
            build=lambda: Net(*blocks(1, 256), *frozen(*blocks(4, 256))), kinds=("block", "kept"), rows=1024, width=256
        ),
    ),
    "block": (Planted(build=lambda: Net(*blocks(6), Block(32, 2048), *blocks(6)), kinds=("block",)), HEALTHY),
    "outside": (
        Planted(build=lambda: Net(*blocks(), stem=stem()), kinds=("outside", "kept")),
        Planted(build=lambda: Net(*thin(12), stem=nn.Linear(32, 32)), kinds=("kept",)),
    ),
    "kept": (
        Planted(build=lambda: Net(*blocks()), kinds=("kept",), placement="none"),
        Planted(build=lambda: Net(*blocks(6), head=nn.Linear(32, 4096)), kinds=("loss",), placement="none", rows=512),
    ),
    "no-saving": (
        Planted(
            build=lambda: Net(*(Halves() for _ in range(12))),
            kinds=("no-saving", "outside"),
            placement="modules:**.relu",
        ),
        Planted(build=lambda: Net(*(Halves() for _ in range(12))), kinds=("kept",), placement="segments:6"),
    ),
    "frozen": (
        Planted(build=lambda: Net(*frozen(*thin(6)), *thin(12)), kinds=("kept", "frozen")),
        Planted(build=lambda: Net(*thin(6), *frozen(*blocks(6))), kinds=("block", "kept")),
    ),
    "cache": (Planted(build=lambda: Net(*blocks(kind=Storing)), kinds=("cache",)), HEALTHY),
    "unreached": (
        Planted(build=lambda: with_spare(trained=True), kinds=("kept", "unreached")),
        Planted(build=lambda: with_spare(trained=False), kinds=("kept",)),
    ),
    "reserved": (
        Planted(build=lambda: Net(*blocks(4), Pieces(11, 13, 15, 17, 19, 21)), kinds=("reserved", "block")),
        Planted(build=lambda: Net(*blocks(4), Pieces(21, 21, 21, 21, 21, 21)), kinds=("block",)),
    ),
    "growth": (Planted(build=lambda: Net(*thin(12), Collecting()), kinds=("growth", "kept")), HEALTHY),
}
"""By cause: a model with the trouble, and its twin."""


@pytest.fixture(autouse=True, scope="module")
def still() -> Iterator[None]:
    """Spare the collector what was there before, as the worker does: it runs before every pass."""
    diagnosed(HEALTHY)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@functools.cache
def diagnosed(planted: Planted) -> Diagnosis:
    torch.manual_seed(0)
    model = planted.build()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return rematbench.why(
        model,
        (torch.randn(planted.rows, planted.width),),
        placement=planted.placement,
        optimizer=torch.optim.Adam(trained) if planted.adam else None,
        accumulate=planted.accumulate,
    )


def test_there_is_a_model_for_every_cause() -> None:
    assert list(TROUBLES) == list(CAUSES)


@pytest.mark.parametrize("kind", CAUSES)
def test_a_trouble_is_found_and_its_twin_has_none(kind: str) -> None:
    planted, twin = TROUBLES[kind]
    assert kind in planted.kinds
    assert kind not in twin.kinds
    for model in (planted, twin):
        diagnosis = diagnosed(model)
        assert tuple(cause.kind for cause in diagnosis.causes) == model.kinds, diagnosis.explain()
        assert all(cause.says and cause.next for cause in diagnosis.causes)
        assert sum(diagnosis.at_peak.values()) == diagnosis.peak_bytes


def figures(kind: str) -> dict[str, int]:
    planted, _ = TROUBLES[kind]
    (cause,) = (cause for cause in diagnosed(planted).causes if cause.kind == kind)
    return {**cause.figures, "bytes": cause.bytes}


# What each figure comes to by hand: rows × columns × 4 bytes; LARGE is the parameters of a block of width 256.
LARGE = 2 * 256 * 1024 + 1024 + 256
KNOWN: dict[str, dict[str, int]] = {
    # The logits, their squares, and of the squares' backward two as large.
    "loss": {"logits_bytes": 512 * 4096 * FLOAT, "bytes": 4 * 512 * 4096 * FLOAT},
    # Two moments of each parameter and a count of steps for each of 16 tensors.
    "optimizer": {"state_bytes": (2 * 4 * LARGE + 16) * FLOAT},
    "gradients": {"gradient_bytes": 4 * LARGE * FLOAT},
    "parameters": {"parameter_bytes": 5 * LARGE * FLOAT, "buffer_bytes": 0, "batch_bytes": 128 * 256 * FLOAT},
    # What GELU's input and output take, the stem's output, and the loss.
    "outside": {"bytes": 2048 * (2 * 256 + 32) * FLOAT + FLOAT},
    # Of 12 ReLUs each keeps its result; in regions their inputs too, and each region the state of random numbers;
    # and three numbers of the loss.
    "no-saving": {
        "regions": 12,
        "plain_held_bytes": 12 * 2048 * 32 * FLOAT + 3 * FLOAT,
        "held_bytes": 12 * (2 * 2048 * 32 * FLOAT + torch.get_rng_state().nbytes) + 3 * FLOAT,
    },
    "frozen": {"regions": 6},
    "cache": {"cached_bytes": 12 * 2048 * 128 * FLOAT, "left_bytes": 12 * 2048 * 128 * FLOAT},
    "unreached": {"bytes": (32 * 32 + 32) * FLOAT, "lost_parameters": 0, "unreached_parameters": 2},
    # In its forward, and again where its region recomputes it.
    "growth": {f"step_{step}_left_bytes": 2 * 16 * 32 * FLOAT for step in (1, 2, 3)},
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_figure_is_what_it_comes_to_by_hand(kind: str) -> None:
    told = figures(kind)
    assert {name: told[name] for name in KNOWN[kind]} == KNOWN[kind]


# --- the loss in chunks


class Language(nn.Module):
    """Blocks, a head and cross-entropy: the loss as a whole or in chunks, each recomputed in backward; -> scalar."""

    def __init__(self, classes: int, chunks: int) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(*thin(4)), nn.Linear(32, classes)
        self.chunks = chunks

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        hidden = self.blocks(x)
        if self.chunks == 1:
            return self._loss(hidden, targets)
        pairs = zip(hidden.chunk(self.chunks), targets.chunk(self.chunks), strict=True)
        losses = [checkpoint(self._loss, *pair, use_reentrant=False) for pair in pairs]
        return torch.stack(losses).mean()

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.head(hidden), targets)


@pytest.mark.parametrize(("rows", "classes", "placement"), [(1024, 4096, "each"), (4096, 512, "none")])
def test_what_a_loss_in_chunks_saves_is_what_it_saves_when_it_is_done(rows: int, classes: int, placement: str) -> None:
    batch = (torch.randn(rows, 32), torch.randint(classes, (rows,)))
    whole, chunked = (rematbench.why(Language(classes, n), batch, placement=placement) for n in (1, CHUNKS))
    (cause,) = (cause for cause in whole.causes if cause.kind == "loss")
    assert cause.at == ("head",)
    assert cause.figures["logits_bytes"] == rows * classes * FLOAT
    # The logarithm of their softmax, which is all that is kept, its gradient and theirs.
    assert cause.bytes == 3 * rows * classes * FLOAT
    assert cause.figures["saved_by_chunking_bytes"] == pytest.approx(whole.peak_bytes - chunked.peak_bytes, rel=0.01)
    assert "loss" not in [cause.kind for cause in chunked.causes]


# --- gradients that regions lose


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradients_that_reentrant_regions_lose_come_before_all_else() -> None:
    found = rematbench.why(Net(*thin(4), head=nn.Linear(32, 32)), (torch.randn(64, 32),), placement=REENTRANT)
    assert found.verdict.kind == "unreached"
    assert found.verdict.figures == {"lost_parameters": 16, "unreached_parameters": 0}
    assert "they are not trained" in found.verdict.says
    default = rematbench.why(Net(*thin(4), head=nn.Linear(32, 32)), (torch.randn(64, 32),))
    assert "unreached" not in [cause.kind for cause in default.causes]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_where_all_gradients_are_lost_a_sentence_says_so() -> None:
    with pytest.raises(PlacementError, match=r"no gradient reaches any parameter.*reentrant=false"):
        rematbench.why(Net(*thin(4)), (torch.randn(64, 32),), placement=REENTRANT)


# --- caches


def test_what_a_model_returns_beside_its_loss_is_named() -> None:
    (cause,) = (
        cause
        for cause in rematbench.why(Returning(*blocks(4, kind=Storing)), (torch.randn(512, 32),)).causes
        if cause.kind == "cache"
    )
    assert cause.at == ("output.past_key_values",)
    assert cause.figures["cached_bytes"] == 4 * 512 * 128 * FLOAT
    assert "use_cache=False" in cause.next


LISTED: list[Tensor] = []


class Elsewhere(Block):
    """Keeps what is inside it where no model can be asked for it."""

    def forward(self, x: Tensor) -> Tensor:
        if len(LISTED) >= 8:
            LISTED.clear()
        inner = self.wide(x).relu()
        LISTED.append(inner.detach())
        return x + self.narrow(inner)


def test_a_cache_that_no_module_holds_is_found_by_its_bytes() -> None:
    LISTED.clear()
    found = rematbench.why(Net(*blocks(4, kind=Elsewhere)), (torch.randn(512, 32),))
    (cause,) = (cause for cause in found.causes if cause.kind == "cache")
    assert cause.says.startswith("something outside its modules keeps 1 MiB")
    LISTED.clear()


def test_hidden_states_that_are_inputs_of_regions_anyway_are_no_cache() -> None:
    class Hidden(Net):
        def forward(self, x: Tensor) -> Any:
            states = [x := block(x) for block in self.blocks]
            return {"logits": x, "hidden_states": states}

    found = rematbench.why(Hidden(*thin(12)), (torch.randn(2048, 32),), loss_fn=lambda output: output["logits"].sum())
    assert [cause.kind for cause in found.causes] == ["kept"]


# --- growth


class Waiting(Collecting):
    """Lets go of what it collected when a step begins, at which its gradients are None."""

    def forward(self, x: Tensor) -> Tensor:
        if self.wide.weight.grad is None:
            self.seen.clear()
        return super().forward(x)


PIECE = 16 * 32 * FLOAT


@pytest.mark.parametrize(
    ("block", "accumulate", "left"),
    [(Collecting, 1, 1 * PIECE), (Collecting, 4, 4 * PIECE), (Waiting, 4, 0)],
)
def test_growth_over_micro_batches(block: type[nn.Module], accumulate: int, left: int) -> None:
    batch = (torch.randn(64, 32),)
    found = rematbench.why(Net(block(), *thin(3)), batch, placement="none", accumulate=accumulate)
    assert found.steps_left_bytes[1:] == (left, left)
    assert found.verdict.kind == "growth"
    assert found.verdict.bytes == (left or PIECE)
    assert found.verdict.at == ("blocks.0",) if left else True
    assert ("micro-batch" in found.verdict.says) == (left == 0)


def test_gradients_lie_beneath_every_further_micro_batch() -> None:
    model, batch = Net(*blocks(4, 256)), (torch.randn(64, 256),)
    once, twice = (rematbench.why(model, batch, accumulate=count) for count in (1, 2))
    in_all = sum(parameter.nbytes for parameter in model.parameters())
    assert max(once.steps_peak_bytes) == once.peak_bytes == twice.peak_bytes
    assert once.peak_bytes < max(twice.steps_peak_bytes) <= once.peak_bytes + in_all
    (cause,) = (cause for cause in twice.causes if cause.kind == "gradients")
    assert cause.bytes == in_all
    assert not any(step for step in twice.steps_left_bytes)
    assert "a step of 2 micro-batches peaks at" in str(twice)


# --- what is as it was, and what adds up


def test_the_model_and_its_optimizer_are_left_as_they_were() -> None:
    model = Net(*thin(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 32)).sum().backward()
    optimizer.step()

    def there() -> list[Tensor]:
        moments = [each for parameter in model.parameters() for each in optimizer.state[parameter].values()]
        return [*model.parameters(), *moments, torch.get_rng_state()]

    before = [tensor.clone() for tensor in there()]
    rematbench.why(model, (torch.ones(8, 32),), optimizer=optimizer, accumulate=2)
    assert all(torch.equal(old, new) for old, new in zip(before, there(), strict=True))
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", reference_models())
def test_parts_of_the_peak_add_up_on_every_reference_model(name: str) -> None:
    workload = build(ModelRef.parse(name, Path.cwd()), CPU, seed=0, optimizer="adamw")
    session = Session(workload, CPU)
    assert static_of(workload).bytes == static_bytes(workload)
    placement = parse_strategy("each").resolve(session.outline)
    evidence = evidence_of(session, placement)
    peak = peak_of(evidence)
    assert sum(peak.parts.values()) == peak.bytes == session.peak_bytes(placement)
    assert causes_of(evidence)
    assert {step.left_bytes for step in evidence.steps} == {0}


def test_what_would_be_reserved_is_what_the_allocator_s_model_says_of_the_step() -> None:
    model, batch = Net(Pieces(11, 13, 15, 17, 19, 21), *thin(2)), (torch.randn(512, 32),)
    session = Session(Workload(module=model, batch=batch), CPU)
    trace = session.trace(Placement(name="none"))
    assert trace is not None
    before = [*(parameter.nbytes for parameter in model.parameters()), batch[0].nbytes]
    kinds = by_segment_kind([trace] * 2, before=before)
    (cause,) = (each for each in rematbench.why(model, batch, placement="none").causes if each.kind == "reserved")
    assert cause.figures == {
        "allocated_bytes": kinds.fixed.allocated_bytes,
        "reserved_bytes": kinds.fixed.reserved_bytes,
        "expandable_bytes": kinds.expandable.reserved_bytes,
    }
    assert "expandable_segments:True" in cause.next


def test_a_region_over_several_blocks_is_told_as_one() -> None:
    found = rematbench.why(Net(*blocks(6)), (torch.randn(2048, 32),), placement="segments:2")
    assert found.verdict.kind == "block"
    assert found.verdict.at == ("blocks.3 to blocks.5",)
    assert "one of 3 modules" in found.verdict.next


def test_the_regions_to_try_inside_a_block_lower_the_peak() -> None:
    model, batch = Net(*(nn.Sequential(*blocks(3)) for _ in range(4))), (torch.randn(2048, 32),)
    found = rematbench.why(model, batch)
    assert found.verdict.kind == "block"
    tried = re.findall(r"`(modules:[^`]+)`", found.verdict.next)
    assert sorted(tried) == ["modules:blocks.*.0", "modules:blocks.*.1", "modules:blocks.*.2"]
    made = [parse_strategy(text).resolve(outline(model)) for text in ("each", *tried)]
    regions = [region for placement in made for region in placement.regions]
    lower = rematbench.why(model, batch, placement=Placement(name="tried", regions=tuple(regions)))
    assert lower.peak_bytes < 0.75 * found.peak_bytes


def test_a_compiled_model_says_that_it_hides_its_modules() -> None:
    model = Net(*thin(2))
    model.compile(backend="eager")
    found = rematbench.why(model, (torch.randn(64, 32),), placement="none")
    assert "torch.compile, which hides its modules" in found.remarks[0]
    assert sum(found.at_peak.values()) == found.peak_bytes


@pytest.mark.gpu
def test_on_an_accelerator_the_figures_are_the_same() -> None:
    device = find_device("auto")
    if device.type == "cpu":
        pytest.skip("needs an accelerator")
    planted, _ = TROUBLES["loss"]
    found = rematbench.why(planted.build().to(device), (torch.randn(planted.rows, planted.width, device=device),))
    assert found.verdict.kind == "loss"
    assert {name: found.verdict.figures.get(name, found.verdict.bytes) for name in KNOWN["loss"]} == KNOWN["loss"]
    assert sum(found.at_peak.values()) == found.peak_bytes


def test_a_module_that_stands_in_two_places_is_told_by_its_first() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)

    model = Twice(*thin(6))
    model.alias = model.blocks
    made = Placement.model_validate({"name": "other", "regions": [{"path": f"alias[{at}]"} for at in range(6)]})
    found = rematbench.why(model, (torch.randn(2048, 32),), placement=made)
    assert found.at_peak["kept by regions"] >= 5 * 2048 * 32 * FLOAT
    assert [cause.kind for cause in found.causes] == ["kept"]


def test_the_words_are_all_there_and_json_says_the_same() -> None:
    planted, _ = TROUBLES["loss"]
    found = diagnosed(planted)
    text = str(found)
    assert text.startswith("Net under each on cpu, float32\n")
    assert "1. loss (32 MiB" in text
    assert "   try: " in text
    assert "note: no optimizer" in text
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"accumulate": 0}, "one micro-batch or more"),
        ({"placement": "eahc"}, "did you mean 'each'"),
        ({"placement": "modules:head"}, "no module matches"),
    ],
)
def test_mistakes_get_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RematbenchError, match=sentence):
        rematbench.why(Net(*thin(2)), (torch.randn(4, 32),), **arguments)


def test_a_step_without_gradients_gets_a_sentence() -> None:
    with pytest.raises(RematbenchError, match="nothing that requires a gradient"):
        rematbench.why(Net(*frozen(*thin(2))), (torch.randn(4, 32),))
