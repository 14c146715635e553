"""The contract of a factory."""

from pathlib import Path

import pytest
import torch
from torch.nn.parameter import is_lazy

from rematbench.errors import DeviceError, ModelError
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build, floating_dtype
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

def spectral(dtype="complex64"):
    module = nn.Linear(4, 2, dtype=getattr(torch, dtype))
    module.register_buffer("phase", torch.full((2,), 1j, dtype=getattr(torch, dtype)))
    module.register_buffer("scale", torch.ones(1))
    return module, (torch.randn(3, 4, dtype=getattr(torch, dtype)),)

def brain():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).bfloat16(), (torch.randn(3, 4).bfloat16(),)

def double():
    return nn.Linear(4, 2).double(), (torch.randn(3, 4).double(),)

def several():
    return nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.LayerNorm(4)), (torch.randn(3, 4).bfloat16(),)

def nothing():
    return nn.ReLU(), (torch.arange(3),)

def lazy():
    norm = nn.BatchNorm1d(5)
    return nn.Sequential(nn.LazyLinear(5), norm, nn.LazyBatchNorm1d(), nn.LazyLinear(2)), (torch.randn(3, 4),)

class Left(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.LazyLinear(5), nn.LazyLinear(5)

    def forward(self, x):
        return self.used(x)

def left():
    return Left(), (torch.randn(3, 4),)

model = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    return tmp_path


def built(folder: Path, text: str, dtype: torch.dtype | None = None, seed: int = 0) -> Workload:
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
    ("text", "name"),
    [
        ("pair", "float32"),
        ("mixed", "float32"),
        ("brain", "bfloat16"),
        ("double", "float64"),
        ("several", "bfloat16+float32"),
        ("spectral", "complex64"),
        ("spectral?dtype=complex128", "complex128"),
        ("nothing", "float32"),
    ],
)
def test_a_model_keeps_its_own_dtypes_and_they_are_named(folder: Path, text: str, name: str) -> None:
    workload = built(folder, text)
    assert floating_dtype(workload) == name
    floats = [tensor for tensor in batch_tensors(workload.batch).values() if tensor.dtype != torch.int64]
    assert all(str(tensor.dtype).removeprefix("torch.") in name for tensor in floats)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_that_is_asked_for_leaves_complex_tensors_alone(folder: Path, dtype: torch.dtype) -> None:
    workload = built(folder, "spectral", dtype=dtype)
    assert {tensor.dtype for tensor in workload.module.parameters()} == {torch.complex64}
    assert workload.module.get_buffer("phase").dtype == torch.complex64
    assert torch.equal(workload.module.get_buffer("phase"), torch.full((2,), 1j, dtype=torch.complex64))
    assert workload.module.get_buffer("scale").dtype == dtype
    assert workload.batch[0].dtype == torch.complex64  # type: ignore[index]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_lazy_modules_have_their_shapes_and_the_optimizer_their_parameters(
    folder: Path, dtype: torch.dtype | None
) -> None:
    ref = ModelRef.parse("net.py:lazy", folder)
    workload = build(ref, torch.device("cpu"), dtype=dtype, seed=0, optimizer="adamw")
    assert not any(map(is_lazy, workload.module.parameters()))
    assert {parameter.dtype for parameter in workload.module.parameters()} == {dtype or torch.float32}
    assert torch.equal(workload.module.get_buffer("1.running_mean"), torch.zeros(5, dtype=dtype))
    session = Session(workload, torch.device("cpu"))
    session.keep_plain()
    found = session.measure(Placement(name="none"))
    assert found.equality is not None
    assert found.equality.gradients == "bitwise"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pair?depth=3", r"net.py:pair\(width=4, grad=False\): got an unexpected keyword argument 'depth'"),
        ("left", r"parameter unused.weight has no shape after a forward on the batch: run its lazy module"),
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
