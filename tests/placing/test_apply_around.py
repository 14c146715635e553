"""What else is done to a model in training: copies, files, optimizers and wrappers, as if nothing were applied."""

import copy
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.placing.networks import WIDTH, Looped, equal, placement, step
from torch import Tensor, nn
from torch import distributed as dist

from rematbench.placing.apply import applied, apply

PLACEMENT = placement("blocks[0:2]", "blocks[3]")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(x))).tanh()


def net() -> Looped:
    torch.manual_seed(0)
    return Looped(Block() for _ in range(4))


@pytest.fixture
def model() -> Iterator[Looped]:
    """A model with a placement in force, that must still work at the end."""
    model = net()
    with applied(model, PLACEMENT):
        yield model
        assert equal(step(model), step(net()))
    assert not any("forward" in vars(block) for block in model.blocks)


def copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    written = pickle.dumps(model)
    assert b"rematbench" not in written, "whoever loads the file need not have it"
    loaded: nn.Module = pickle.loads(written)
    return loaded


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def copied_in_the_middle_of_a_step(model: nn.Module) -> nn.Module:
    model.blocks[0](torch.randn(3, WIDTH))  # type: ignore[index, operator]
    return copy.deepcopy(model)


@pytest.mark.parametrize("make", [copied, pickled, saved, copied_in_the_middle_of_a_step])
def test_a_copy_is_a_model_of_its_own_with_nothing_applied(model: Looped, make: Any) -> None:
    twin = make(model)
    for block in twin.blocks[:2]:
        assert block.forward.func.__self__ is block
    assert equal(step(twin), step(net()))
    assert not any(weight.grad is not None for weight in model.parameters())
    assert not {id(weight) for weight in model.parameters()} & {id(weight) for weight in twin.parameters()}
    with applied(twin, PLACEMENT):
        assert equal(step(twin), step(net()))
        assert equal(step(make(twin)), step(net()))


def test_a_forward_of_the_users_own_is_copied_as_it_is() -> None:
    model: Any = net()
    own = model.blocks[0].forward
    model.blocks[0].forward = doubled = lambda x: own(x) * 2
    expected = step(model)
    with applied(model, PLACEMENT):
        assert equal(step(model), expected)
        assert copy.deepcopy(model).blocks[0].forward.func is doubled
    assert equal(step(model), expected)


def test_weights_go_out_and_in(model: Looped, tmp_path: Path) -> None:
    plain = net()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.load_state_dict(torch.load(tmp_path / "weights.pt"))


def test_an_optimizer_made_before_or_under_a_placement() -> None:
    finals = []
    for early in (None, True, False):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1) if early is not False else None
        handle = apply(model, PLACEMENT) if early is not None else None
        optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(20):
            step(model)
            optimizer.step()
        if handle:
            handle.remove()
        finals.append([weight.detach() for weight in model.parameters()])
    assert equal(finals[0], finals[1])
    assert equal(finals[0], finals[2])


def test_the_signature_of_forward_is_seen_through(model: Looped) -> None:
    import inspect

    assert inspect.signature(model.blocks[0].forward) == inspect.signature(net().blocks[0].forward)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    store = tmp_path_factory.mktemp("gloo") / "store"
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{store}")
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:You passed find_unused_parameters=true:UserWarning")
@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_wrapped_in_distributed_data_parallel(model: Looped, unused: bool, static: bool) -> None:
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused, static_graph=static)
    for _ in range(3):
        assert equal(step(wrapped), step(net()))


@pytest.mark.usefixtures("alone")
def test_placed_inside_the_wrapper_or_through_it() -> None:
    wrapped = nn.parallel.DistributedDataParallel(net())
    with applied(wrapped.module, PLACEMENT):
        assert equal(step(wrapped), step(net()))
    with applied(wrapped, "each") as handle:
        assert handle.blocks[0] == "module.blocks.0"
        assert equal(step(wrapped), step(net()))
