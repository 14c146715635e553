"""What every reference model promises: a factory's contract, and blocks that can be checkpointed anywhere.

The factories are found as the public functions of the family files, so a new one is tested by existing.
"""

# mypy: disable-error-code="no-untyped-call"

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FOLDER = Path(__file__).parents[2] / "models"
FAMILIES = sorted(file.stem for file in FOLDER.glob("*.py"))
FACTORIES: dict[str, Callable[..., tuple[Any, ...]]] = {
    f"{family}.{name}": function
    for family in FAMILIES
    for name, function in inspect.getmembers(importlib.import_module(f"models.{family}"), inspect.isfunction)
    if not name.startswith("_") and function.__module__ == f"models.{family}"
}
ARGUMENTS = [
    (name, argument) for name, factory in FACTORIES.items() for argument in inspect.signature(factory).parameters
]
every_model = pytest.mark.parametrize("name", FACTORIES)


def build(name: str, **arguments: Any) -> tuple[nn.Module, tuple[Tensor, ...], Callable[[Any], Tensor]]:
    """The named model from a fixed seed, with the default loss spelt out where the factory gives none."""
    torch.manual_seed(0)
    module, batch, *loss_fn = FACTORIES[name](**arguments)
    return module, batch, loss_fn[0] if loss_fn else mean_of_squares


def mean_of_squares(output: Tensor) -> Tensor:
    return output.square().mean()


def chain(module: nn.Module) -> nn.Sequential:
    found = getattr(module, "blocks", None) or module.body
    assert isinstance(found, nn.Sequential)
    return found


def tensors(value: Any) -> tuple[Tensor, ...]:
    """A boundary value as a tuple; anything but a tensor or a flat tuple of tensors fails."""
    parts = value if isinstance(value, tuple) else (value,)
    assert all(isinstance(part, Tensor) for part in parts)
    return parts


def copied(value: Any) -> Any:
    copies = tuple(part.detach().clone() for part in tensors(value))
    return copies if isinstance(value, tuple) else copies[0]


def same(a: Any, b: Any) -> bool:
    return len(tensors(a)) == len(tensors(b)) and all(map(torch.equal, tensors(a), tensors(b)))


def step(name: str, cut: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one step; with a cut, the blocks before and from there on are a region each."""
    module, batch, loss_fn = build(name, batch=2)
    if cut is not None:
        blocks = chain(module)
        regions = [partial(checkpoint, run, use_reentrant=False) for run in (blocks[:cut], blocks[cut:])]
        blocks.forward = lambda state: regions[1](regions[0](state))  # type: ignore[method-assign]
    loss = loss_fn(module(*batch))
    loss.backward()
    gradients = {key: weight.grad for key, weight in module.named_parameters() if weight.grad is not None}
    assert len(gradients) == len(list(module.parameters())), "a parameter without a gradient"
    return loss.detach(), gradients


def test_the_six_kinds_of_cross_layer_traffic_are_there() -> None:
    kinds = ("plain", "residual", "concat_skip", "attention_fusion", "lstm_skip", "intermediate")
    assert {*kinds} <= {*FAMILIES}
    assert all(any(name.startswith(f"{family}.") for name in FACTORIES) for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_file_imports_torch_and_the_standard_library_only(family: str) -> None:
    tree = ast.parse((FOLDER / f"{family}.py").read_text())
    assert set(imported(tree)) <= {"torch", *sys.stdlib_module_names}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


@every_model
def test_a_factory_takes_keywords_with_defaults_and_says_what_it_builds(name: str) -> None:
    factory = FACTORIES[name]
    for parameter in inspect.signature(factory).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert type(parameter.default) in (int, float)
    summary = str(inspect.getdoc(factory)).splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) <= 100


@every_model
def test_the_seed_decides_weights_and_batch(name: str) -> None:
    (module, batch, _), (again, batch_again, _) = build(name), build(name)
    assert same(batch, batch_again)
    assert same(tuple(module.parameters()), tuple(again.parameters()))


@every_model
def test_batch_is_the_leading_size_of_every_input(name: str) -> None:
    for size in (2, 3):
        _, batch, _ = build(name, batch=size)
        assert isinstance(batch, tuple)
        assert {part.shape[0] for part in tensors(batch)} == {size}


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_every_argument_changes_what_is_built(name: str, argument: str) -> None:
    default = inspect.signature(FACTORIES[name]).parameters[argument].default
    changed = default + 1 if isinstance(default, int) else default + 0.25
    assert described(name) != described(name, **{argument: changed})


def described(name: str, **arguments: Any) -> tuple[object, ...]:
    module, batch, loss_fn = build(name, **arguments)
    return str(module), [part.shape for part in batch], loss_fn(module(*batch)).item()


@pytest.mark.parametrize("name", [name for name, argument in ARGUMENTS if argument == "depth"])
def test_depth_is_what_the_chain_grows_with(name: str) -> None:
    lengths = [len(chain(build(name, depth=depth)[0])) for depth in (2, 3, 4)]
    assert lengths[2] - lengths[1] == lengths[1] - lengths[0] > 0


@every_model
def test_a_block_depends_on_what_it_is_given_and_leaves_it_alone(name: str) -> None:
    module, batch, _ = build(name, batch=2)
    taken: list[tuple[nn.Module, Any, Any]] = []
    for block in chain(module):
        block.register_forward_hook(lambda block, inputs, output: taken.append((block, *inputs, output)))
    module(*batch)
    module(*other(batch))  # a tensor kept anywhere but in the boundary values is from this run now
    first_run = taken[: len(chain(module))]
    for block, given, result in reversed(first_run):
        copy = copied(given)
        assert same(block(copy), result)
        assert same(copy, given)


def other(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.roll(1, dims=-1) for part in batch)


@every_model
def test_blocks_run_one_by_one_make_what_the_chain_makes(name: str) -> None:
    module, batch, _ = build(name, batch=2)
    seen: list[Any] = []
    chain(module).register_forward_hook(lambda _module, inputs, output: seen.extend([*inputs, output]))
    module(*batch)
    value, expected = seen
    for block in chain(module):
        value = block(value)
    assert same(value, expected)


@every_model
def test_every_parameter_gets_a_gradient(name: str) -> None:
    _, plain = step(name)
    assert plain
    assert all(gradient.isfinite().all() and gradient.count_nonzero() for gradient in plain.values())


@every_model
def test_any_cut_into_two_checkpointed_regions_keeps_the_gradients(name: str) -> None:
    plain = step(name)
    for cut in range(1, len(chain(build(name)[0]))):
        loss, found = step(name, cut)
        assert torch.equal(loss, plain[0])
        assert all(torch.equal(found[key], gradient) for key, gradient in plain[1].items()), f"cut at {cut}"


@every_model
def test_it_trains(name: str) -> None:
    module, batch, loss_fn = build(name, batch=4)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_fn(module(*batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
