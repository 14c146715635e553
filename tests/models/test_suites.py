"""What the shipped suites say of the reference models: arguments that fit, shapes that come out."""

import importlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rematbench.loading import reference_models

SUITES = Path(__file__).parents[2] / "bench" / "rematbench" / "suite" / "shipped"
SHIPPED = sorted(file.stem for file in SUITES.glob("*.toml"))


def entries(suite: str) -> dict[str, dict[str, Any]]:
    found = tomllib.loads((SUITES / f"{suite}.toml").read_text())["models"]
    return {entry.get("name", entry["model"]): entry for entry in found}


def factory(entry: dict[str, Any]) -> Any:
    family, name = entry["model"].split(".")
    return getattr(importlib.import_module(f"models.{family}"), name)


EXAMPLES, DEFAULT = entries("examples"), entries("default")
# name: shapes of the inputs, shapes of the outputs
SHAPES: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "plain.mlp": ([(1, 10)], [(1, 5)]),
    "plain.cnn.one-stage": ([(1, 3, 28, 28)], [(1, 10)]),
    "plain.cnn.two-stages": ([(1, 3, 28, 28)], [(1, 10)]),
    "plain.sequence": ([(4, 20)], [(4, 20)]),
    "plain.gru": ([(1, 6, 10)], [(1, 20)]),
    "residual.linear": ([(1, 10)], [(1, 20)]),
    "residual.conv_bn": ([(1, 3, 32, 32)], [(1, 64, 32, 32)]),
    "residual.conv_projection": ([(1, 64, 32, 32)], [(1, 128, 32, 32)]),
    "concat_skip.conv": ([(1, 64, 32, 32)], [(1, 128, 32, 32)]),
    "concat_skip.unet": ([(1, 3, 32, 32)], [(1, 2, 32, 32)]),
    "attention_fusion.attentive": ([(1, 10, 256), (1, 10, 256)], [(1, 10, 512)]),
    "attention_fusion.weighted": ([(1, 10), (1, 20)], [(1, 30)]),
    "lstm_skip.lstm": ([(1, 100, 10)], [(1, 101, 10)]),
    "intermediate.auxiliary": ([(1, 10)], [(1, 5), (1, 20)]),
    "intermediate.hooked": ([(1, 10)], [(1, 5)]),
    "intermediate.activation_only": ([(1, 10)], [(1, 5)]),
}


@pytest.mark.parametrize("name", sorted(SHAPES.keys() | EXAMPLES.keys()))
def test_examples_have_the_shapes_people_know(name: str) -> None:
    module, batch, *_ = factory(EXAMPLES[name])(**EXAMPLES[name]["arguments"])
    output = module(*batch)
    outputs = output if isinstance(output, tuple) else (output,)
    shapes = [tuple(part.shape) for part in batch], [tuple(part.shape) for part in outputs]
    assert shapes == SHAPES[name]


@pytest.mark.parametrize(
    ("name", "features"), [("plain.cnn.one-stage", 16 * 14**2), ("plain.cnn.two-stages", 32 * 7**2)]
)
def test_example_cnns_flatten_to_the_known_features(name: str, features: int) -> None:
    module, _ = factory(EXAMPLES[name])(**EXAMPLES[name]["arguments"])
    assert module.head.in_features == features


def test_example_sequence_reads_a_vocabulary_of_a_hundred() -> None:
    module, (tokens,) = factory(EXAMPLES["plain.sequence"])(**EXAMPLES["plain.sequence"]["arguments"])
    assert module.embedding.num_embeddings == 100
    assert tokens.dtype == torch.long


@pytest.mark.parametrize("suite", SHIPPED)
def test_a_suite_names_reference_models_and_arguments_they_have(suite: str) -> None:
    for entry in entries(suite).values():
        known = set(inspect.signature(factory(entry)).parameters)
        assert {*entry.get("arguments", {}), *entry.get("cuda_per_gib", {})} <= known


@pytest.mark.parametrize("suite", ["examples", "default"])
def test_a_suite_for_everything_has_models_of_every_family(suite: str) -> None:
    families = {name.partition(".")[0] for name in reference_models()}
    assert {entry["model"].partition(".")[0] for entry in entries(suite).values()} == families


@pytest.mark.parametrize("name", DEFAULT)
def test_default_models_are_deep_and_scale_by_arguments_they_have(name: str) -> None:
    entry = DEFAULT[name]
    known = set(inspect.signature(factory(entry)).parameters)
    assert {*entry["arguments"], *entry["cuda_per_gib"]} <= known
    module, *_ = factory(entry)(**entry["arguments"] | {"batch": 1})
    blocks = getattr(module, "blocks", None) or module.body
    assert isinstance(blocks, nn.Sequential)
    assert len(blocks) >= 4


class Greatest(TorchDispatchMode):
    """Knows the greatest number of elements that any tensor of floating numbers has in a step."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, function: Any, _types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        made = function(*arguments, **keywords or {})
        tensors = made if isinstance(made, tuple | list) else (made,)
        elements = [each.numel() for each in tensors if isinstance(each, torch.Tensor) and each.is_floating_point()]
        self.elements = max([self.elements, *elements])
        return made


@pytest.mark.parametrize("name", DEFAULT)
def test_on_the_largest_card_no_tensor_has_more_elements_than_32_bits_count(name: str) -> None:
    """Elements are affine in the batch, so two small ones tell of the large one."""
    entry = DEFAULT[name]
    elements = []
    for batch in (2, 4):
        module, inputs, *_ = factory(entry)(**entry["arguments"] | {"batch": batch})
        with Greatest() as greatest:
            output = module(*inputs)
            output = output if isinstance(output, torch.Tensor) else output[0]
            output.sum().backward()
        elements.append(greatest.elements)
    each, largest = (elements[1] - elements[0]) / 2, int(140 * entry["cuda_per_gib"]["batch"])
    assert set(entry["cuda_per_gib"]) == {"batch"}
    assert elements[0] + each * (largest - 2) < 2**31
