"""The contract of a factory."""

from pathlib import Path

import pytest
import torch

from rematbench.errors import DeviceError, ModelError
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.devices import find_device
from rematbench.workload.step import Workload, batch_tensors

SOURCE = """
import torch
from torch import nn

def pair(width=4, grad=False):
    return nn.Linear(width, 2), (torch.randn(3, width, requires_grad=grad),)

def triple():
    return nn.Linear(4, 2), [torch.randn(3, 4)], lambda output: output.sum()

def keywords():
    return nn.Linear(4, 2), {"input": torch.randn(3, 4)}

def mixed():
    return nn.Embedding(7, 4), (torch.randint(7, (3,)),)

def alone():
    return nn.Linear(4, 2)

def four():
    return nn.Linear(4, 2), (1,), None, None

model = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    return tmp_path


def built(folder: Path, text: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Workload:
    return build(ModelRef.parse(f"net.py:{text}", folder), torch.device("cpu"), dtype=dtype, seed=seed)


@pytest.mark.parametrize("name", ["pair", "triple", "keywords", "mixed"])
def test_the_forms_of_the_contract(folder: Path, name: str) -> None:
    workload = built(folder, name)
    assert isinstance(workload.batch, dict if name == "keywords" else tuple)
    assert (workload.loss_fn is not None) == (name == "triple")


def test_the_seed_fixes_weights_and_batch(folder: Path) -> None:
    def tensors(seed: int) -> list[torch.Tensor]:
        workload = built(folder, "pair?width=5", seed=seed)
        return [*workload.module.parameters(), *batch_tensors(workload.batch).values()]

    assert all(map(torch.equal, tensors(3), tensors(3)))
    assert not any(map(torch.equal, tensors(3), tensors(4)))


def test_only_floats_take_the_dtype_and_gradients_are_still_wanted(folder: Path) -> None:
    indices = built(folder, "mixed", dtype=torch.bfloat16)
    assert indices.batch[0].dtype == torch.int64  # type: ignore[index]
    assert next(indices.module.parameters()).dtype == torch.bfloat16
    batch = built(folder, "pair?grad=true", dtype=torch.float64).batch[0]  # type: ignore[index]
    assert (batch.dtype, batch.requires_grad, batch.is_leaf) == (torch.float64, True, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pair?depth=3", r"net.py:pair\(width=4, grad=False\): got an unexpected keyword argument 'depth'"),
        ("alone", r"net.py:alone returned \(Linear\): expected \(module, batch\)"),
        ("four", r"net.py:four returned \(Linear, tuple, NoneType, NoneType\): expected"),
        ("model", r"net.py:model is a int: expected a factory"),
        ("pairs", r"unknown attribute 'pairs': did you mean 'pair'"),
    ],
)
def test_anything_else_is_one_sentence(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        built(folder, text)


def test_devices_are_found_or_refused() -> None:
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="unknown device 'tpu': known are cpu, cuda"):
        find_device("tpu")
    with pytest.raises(DeviceError, match=r"device 'cuda:99': torch .* sees \d+ CUDA devices here; use --device cpu"):
        find_device("cuda:99")
