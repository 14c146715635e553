"""Devices by name, and what the processor is called."""

from pathlib import Path

import pytest
import torch

from rematbench.errors import DeviceError
from rematbench.workload import devices
from rematbench.workload.devices import capacity_bytes, device_name, find_device, random_state, restore_random_state

CPU = torch.device("cpu")


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cpu") == CPU
    assert find_device("cuda") == find_device("auto") == find_device("cuda:0")
    assert find_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "words"), [("cuda:1", "sees 1 CUDA"), ("tpu", "unknown device"), ("cuda:x", "cuda:N")]
)
def test_a_device_that_is_not_there_is_an_error(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=words):
        find_device(name)


def test_auto_is_the_processor_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU
    assert capacity_bytes(CPU) is None


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
