"""Devices by name, and what the processor is called."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from tests.workload.accelerators import DEVICE, TOTAL, FakeAccelerator
from torch._subclasses.fake_tensor import FakeTensorMode

from rematbench.errors import DeviceError
from rematbench.workload import devices
from rematbench.workload.devices import (
    accelerator_notice,
    can_cap_memory,
    capacity_bytes,
    device_name,
    find_device,
    is_out_of_memory,
    is_pinned_for,
    memory_capped,
    memory_info,
    others_notice,
    random_state,
    random_state_kept,
    restore_random_state,
    software_of,
    use_device,
)

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps", "hpu"])
def test_names_of_devices(kind: str) -> None:
    with FakeAccelerator(kind) as card:
        assert find_device("cpu") == CPU
        assert find_device(kind) == find_device("auto") == find_device(f"{kind}:0") == torch.device(kind, 0)
        assert find_device(f"{kind}:1") == torch.device(kind, 1)
        use_device(find_device(f"{kind}:1"))
        assert card.index == 1
        assert device_name(torch.device(kind, 1)) == "A Card"
        assert capacity_bytes(torch.device(kind, 1)) == TOTAL
        use_device(CPU)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:2", "sees 2 CUDA devices here; use --device cpu"),
        ("xpu", "sees 0 XPU devices"),
        ("tpu", "unknown device 'tpu': known are cpu, cuda, xpu, mps"),
        ("cuda:x", "cuda:N"),
        ("cuda:", "cuda:N"),
        ("cuda:-1", "cuda:N"),
        ("auto:1", "unknown device"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(name: str, words: str) -> None:
    with FakeAccelerator(), pytest.raises(DeviceError, match=words):
        find_device(name)


@pytest.mark.parametrize("accelerator", [None, torch.device("cuda")])
def test_auto_is_the_processor_where_there_is_no_gpu(
    accelerator: torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that is built for CUDA has an accelerator by name, with no card and no driver."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    assert find_device("auto") == CPU
    with pytest.raises(DeviceError, match="sees 0 CUDA"):
        find_device("cuda")
    assert capacity_bytes(CPU) is None
    assert (memory_info(CPU), software_of(CPU), others_notice(CPU)) == (None, "", "")


def test_a_driver_that_is_too_old_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your\n system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.accelerator, "is_available", no)
    said = accelerator_notice()
    assert said.startswith("no GPU is used, though torch")
    assert said.endswith("is built for CUDA 13.0: CUDA initialization: The NVIDIA driver on your system is too old")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert accelerator_notice().endswith("there is no driver, or no GPU is visible")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert accelerator_notice() == ""
    monkeypatch.setattr(torch.version, "cuda", None)
    assert accelerator_notice() == ""


def test_what_others_hold_of_a_card_is_said_where_it_is_much() -> None:
    with FakeAccelerator() as card:
        card.alloc(20 * 2**30)  # our own is not the others'
        card.others = TOTAL // 10
        assert others_notice(DEVICE) == ""
        card.others = TOTAL // 4
        assert others_notice(DEVICE) == "20 GiB of it are held by others"
        assert memory_info(DEVICE) == (40 * 2**30, TOTAL)


def test_without_the_newer_functions_a_device_tells_less_and_nothing_breaks() -> None:
    with FakeAccelerator("mps") as card:
        card.patches.delattr(torch.accelerator, "get_memory_info")
        for name in ("get_device_properties", "set_per_process_memory_fraction", "get_device_name"):
            delattr(card.module, name)
        device = torch.device("mps", 0)
        assert (memory_info(device), capacity_bytes(device), others_notice(device)) == (None, None, "")
        card.module.recommended_max_memory = lambda: 2**34
        assert capacity_bytes(device) == 2**34
        assert device_name(device) == device_name(CPU)
        assert not can_cap_memory(device)


def test_the_allocator_is_held_to_so_many_bytes_and_then_as_before() -> None:
    with FakeAccelerator() as card:
        assert can_cap_memory(DEVICE)
        with memory_capped(DEVICE, 30 * MIB):
            card.alloc(20 * MIB)
            with pytest.raises(torch.OutOfMemoryError):
                card.alloc(12 * MIB)
            card.alloc(10 * MIB)  # to the byte
        card.alloc(2**35)
        assert card.fraction == 1.0
    assert not can_cap_memory(CPU)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling ..."), True),
        (RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("Native API failed. UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_how_memory_runs_out_is_told_from_other_errors(error: Exception, verdict: bool) -> None:
    assert is_out_of_memory(error) is verdict


def test_only_what_comes_from_a_device_goes_to_pinned_memory() -> None:
    assert not is_pinned_for([torch.ones(1), None, "x"])
    assert not is_pinned_for([])
    with FakeTensorMode():
        assert is_pinned_for([torch.ones(1), torch.ones(1, device="cuda")])


def test_what_kernels_depend_on_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("580.65.06\n")
    monkeypatch.setattr(devices, "Path", lambda _path: tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with FakeAccelerator():
        assert software_of(DEVICE) == (
            "CUDA 13.0, cuDNN 91002, driver 580.65.06, float32 matmul highest, cuDNN TF32 on, "
            "CUBLAS_WORKSPACE_CONFIG=:4096:8"
        )


PACKAGE = Path(devices.__file__).parent.parent


def test_nothing_else_asks_whether_there_is_a_gpu() -> None:
    """One file may know of kinds of devices, and `torch_internals.py` of private names."""
    asking = re.compile(
        r"torch\.(cuda|xpu|mps|hip)\b(?!`)|is_available\(|device\.type|\.is_cuda\b|== \"cuda\"|\"cuda\"\)"
    )
    here = {file: asking.findall(file.read_text()) for file in PACKAGE.rglob("*.py")}
    found = {str(file.relative_to(PACKAGE)) for file, hits in here.items() if hits}
    assert found == {"workload/devices.py", "torch_internals.py", "measuring/accelerator_meter.py"}
    assert "is_available" not in (PACKAGE / "measuring" / "accelerator_meter.py").read_text()


def test_the_processor_is_called_as_linux_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: An Abacus (R) 9\nmodel name\t: another\n")
    monkeypatch.setattr(devices, "Path", lambda _path: tmp_path / "cpuinfo")
    assert device_name(CPU) == "An Abacus (R) 9"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert device_name(CPU) == "riscv64"


def test_the_random_state_is_put_back() -> None:
    state = random_state(CPU)
    drawn = torch.rand(3)
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(3), drawn)


def test_a_device_s_random_state_is_kept_too() -> None:
    with FakeAccelerator() as card:
        put_back = []
        card.module.get_rng_state = lambda _device: torch.arange(3, dtype=torch.uint8)
        card.module.set_rng_state = lambda state, device: put_back.append((state.tolist(), device))
        with random_state_kept(DEVICE):
            pass
    assert put_back == [([0, 1, 2], DEVICE)]
