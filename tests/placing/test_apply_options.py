"""What each option of a region changes, and that it changes nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.placing.networks import equal, gradients
from torch import Tensor, nn

from rematbench.measuring.flops import FlopMeter
from rematbench.placement.placement import Placement, Region
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.placement.registry import parse_strategy
from rematbench.placing import checkpointing
from rematbench.placing.apply import applied
from rematbench.placing.outline import outline

WIDTH = 8


def stack(block: Callable[[], nn.Module], depth: int = 4) -> nn.Sequential:
    """A stem, so that what enters the chain requires a gradient, and a chain of blocks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sequential(*(block() for _ in range(depth))))


def relu_block() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())


def norm_block(kind: Callable[..., nn.Module] = nn.BatchNorm1d, momentum: float | None = 0.1) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(WIDTH, momentum=momentum), nn.Tanh())


def dropout_block() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5), nn.Tanh())


def two_linears() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


def placed(model: nn.Module, text: str) -> Placement:
    """A strategy on the chain, which is the model's second child."""
    name, plus, options = text.partition("+")
    return parse_strategy(f"{name}@1{plus}{options}" if name != "none" else name).resolve(outline(model))


def step(model: nn.Module, text: str) -> list[Tensor]:
    """Loss, gradients and the random state afterwards of a seeded step under a placement."""
    with applied(model, placed(model, text)):
        torch.manual_seed(1)
        model.zero_grad()
        loss = model(torch.randn(5, WIDTH)).square().sum()
        loss.backward()
    return [loss.detach(), *gradients(model), torch.get_rng_state()]


def flops(model: nn.Module, text: str) -> int:
    with FlopMeter() as meter:
        step(model, text)
    return meter.read().flops


def recomputed(block: Callable[[], nn.Module], text: str, depth: int = 4) -> float:
    """FLOPs computed again, as a share of the chain's forward."""
    model = stack(block, depth)
    with FlopMeter() as meter:
        model[1](torch.randn(5, WIDTH))
    return (flops(model, text) - flops(model, "none")) / meter.read().flops


PLACES = ["each", "all", "segments:2", "nested:2"]
every_place = pytest.mark.parametrize("place", PLACES)


@every_place
@pytest.mark.parametrize("variant", ["", "+reentrant=true", "+save=matmuls", "+early_stop=false", "+offload=true"])
def test_dropout_is_replayed_unless_told_otherwise(place: str, variant: str) -> None:
    model = stack(dropout_block)
    plain = step(model, "none")
    assert equal(step(model, place + variant), plain)
    loss, *gradients, _random_state = step(model, f"{place}{variant}+preserve_rng=false")
    assert torch.equal(loss, plain[0])
    assert not equal(gradients, plain[1:-1])


@every_place
@pytest.mark.parametrize("variant", ["", "+reentrant=true", "+save=matmuls", "+early_stop=false"])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_once_keeps_statistics_as_the_plain_step_leaves_them(
    place: str, variant: str, kind: Any, momentum: float | None
) -> None:
    plain, once, twice = (stack(lambda: norm_block(kind, momentum)) for _ in range(3))
    for _ in range(2):
        expected = step(plain, "none")
        assert equal(step(once, f"{place}{variant}+batch_norm=once"), expected)
        assert equal(step(twice, place + variant), expected)
    assert equal(list(once.buffers()), list(plain.buffers()))
    assert not equal(list(twice.buffers()), list(plain.buffers()))


@every_place
@pytest.mark.parametrize("option", ["as-is", "once"])
def test_statistics_in_eval_mode_are_used_and_left(place: str, option: str) -> None:
    model = stack(norm_block)
    step(model, "none")
    before = [buffer.clone() for buffer in model.eval().buffers()]
    assert equal(step(model, f"{place}+batch_norm={option}"), step(model, "none"))
    assert equal(list(model.buffers()), before)


@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
def test_early_stop_leaves_out_what_follows_the_last_saved_tensor(blocks: int) -> None:
    """The last Linear's output is not needed: of 2n products, 2n - 1 are made again (0.5, 0.75, 0.875, 0.9375)."""
    assert recomputed(two_linears, "all", depth=blocks) == (2 * blocks - 1) / (2 * blocks)
    assert recomputed(two_linears, "all+early_stop=false", depth=blocks) == 1
    assert recomputed(two_linears, "each", depth=blocks) == 0.5


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@every_place
def test_a_scripted_block_is_recomputed_to_its_end(place: str) -> None:
    """Its interpreter fails when an exception leaves it, and its first two calls save other things than all after."""
    model = stack(relu_block)
    model.set_submodule("1.1", torch.jit.script(relu_block()))
    plain = [step(model, "none") for _ in range(3)][-1]
    assert equal(step(model, place), plain)


@every_place
@pytest.mark.parametrize("save", ["matmuls", "everything"])
def test_saved_products_are_not_computed_again(place: str, save: str) -> None:
    model = stack(relu_block)
    assert equal(step(model, f"{place}+save={save}"), step(model, "none"))
    assert recomputed(relu_block, f"{place}+save={save}") == 0
    assert recomputed(relu_block, place) == (1.5 if place == "nested:2" else 1)


@every_place
@pytest.mark.parametrize("save", SAVE_POLICIES)
def test_only_everything_runs_no_block_again(place: str, save: str) -> None:
    model = stack(relu_block)
    runs: list[nn.Module] = []
    for block in model[1].children():
        block.get_submodule("0").register_forward_hook(lambda layer, *_: runs.append(layer))
    step(model, f"{place}+save={save}")
    assert (len(runs) == 4) == (save == "everything")


POLICIES = """
from torch.utils.checkpoint import CheckpointPolicy

def products(context, operator, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if "addmm" in str(operator) else CheckpointPolicy.PREFER_RECOMPUTE

def activations(context, operator, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if "relu" in str(operator) else CheckpointPolicy.PREFER_RECOMPUTE
"""


@every_place
@pytest.mark.parametrize("source", ["rematbench_test_own", "own.py"])
def test_a_policy_of_ones_own_decides(place: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rematbench_test_own.py", "own.py"):
        Path(name).write_text(POLICIES)
    model = stack(relu_block)
    plain = step(model, "none")
    for policy, share in [("products", 0), ("activations", recomputed(relu_block, place))]:
        assert equal(step(model, f"{place}+save={source}:{policy}"), plain)
        assert recomputed(relu_block, f"{place}+save={source}:{policy}") == share


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        ("each+offload=true", 4),  # what a region keeps is its input
        ("segments:2+offload=true", 2),
        ("all+offload=true", 1),
        ("each+offload=true+reentrant=true", 4),
        ("each+offload=true+save=everything", 12),  # a Linear's input and weight, a ReLU's output
        ("each", 0),
        ("each+save=everything", 0),
    ],
)
def test_offload_covers_what_autograd_keeps(text: str, tensors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU there is nowhere to go, so what would go is noted."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    @contextmanager
    def noted(*, pin_memory: bool) -> Iterator[None]:
        assert pin_memory == torch.cuda.is_available()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    monkeypatch.setattr(checkpointing, "save_on_cpu", noted)
    model = stack(relu_block)
    assert equal(step(model, text), step(model, "none"))
    assert len(kept) == tensors


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offload_holds_nothing_on_the_device() -> None:
    model = stack(relu_block).cuda()
    held = []
    for text in ("each", "each+offload=true"):
        x = torch.randn(4096, WIDTH, device="cuda")
        with applied(model, placed(model, text)):
            before = torch.cuda.memory_allocated()
            loss = model(x).sum()
            held.append(torch.cuda.memory_allocated() - before)
            loss.backward()
    assert held[1] < held[0] / 2


def test_a_reentrant_region_without_an_input_to_differentiate_warns_and_has_no_gradients() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    placement = Placement(name="first", regions=(Region(path="[0]", reentrant=True),))
    with applied(model, placement), pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        model(torch.randn(5, WIDTH)).sum().backward()
    assert [weight.grad is None for weight in model.parameters()] == [True, True, False, False]
