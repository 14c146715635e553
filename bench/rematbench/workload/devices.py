"""What differs between devices, in one place: their names, their clocks, their random state."""

from __future__ import annotations

import pickle
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rematbench.errors import DeviceError

RandomState = dict[str, torch.Tensor]


def find_device(name: str) -> torch.device:
    """Return the device named `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one.

    Raises:
        DeviceError: this machine, or this build of torch, does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise DeviceError(f"unknown device {name!r}: known are cpu, cuda, cuda:N and auto")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise DeviceError(
            f"device {name!r}: torch {torch.__version__} sees {count} CUDA devices here; use --device cpu"
        )
    return torch.device("cuda", int(index or 0))


def device_name(device: torch.device) -> str:
    """Return the product name of a GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor_name() or platform.machine()


def _processor_name() -> str:
    # The same name as py-cpuinfo's `brand_raw`, in 0.1 ms where that takes 1.5 s of subprocesses: every worker asks.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def capacity_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU; None for a processor, which the machine shares."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that waits for the device's queued work before it is read."""
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def random_state(device: torch.device, module: nn.Module | None = None) -> RandomState:
    """Return the states of all generators that a step on this device may draw from.

    Those of torch and Python, of NumPy if it is imported, and of the generators that the modules of a model hold as
    attributes, by their paths.
    """
    state = {"cpu": torch.get_rng_state(), "python": _packed(random.getstate())}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = _packed(numpy.random.get_state())
    return state | {name: _state_of(generator) for name, generator in _generators(module)}


def restore_random_state(state: RandomState, device: torch.device, module: nn.Module | None = None) -> None:
    """Set the generators back to a state taken by `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    random.setstate(_unpacked(state["python"]))
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(_unpacked(state["numpy"]))
    for name, generator in _generators(module):
        if name in state:
            _set_state(generator, state[name])


def _generators(module: nn.Module | None) -> Iterator[tuple[str, Any]]:
    """Yield torch's, Python's and NumPy's generators among the attributes of a model's modules, each with its path."""
    for path, each in module.named_modules() if module else ():
        for name, value in vars(each).items():
            if isinstance(value, torch.Generator | random.Random) or _is_numpy_s(value):
                yield f"{path}.{name}", value


def _is_numpy_s(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.random.Generator | numpy.random.RandomState)


def _state_of(generator: Any) -> torch.Tensor:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _packed(generator.getstate())
    bits = getattr(generator, "bit_generator", None)
    return _packed(bits.state if bits is not None else generator.get_state())


def _set_state(generator: Any, state: torch.Tensor) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_unpacked(state))
    elif (bits := getattr(generator, "bit_generator", None)) is not None:
        bits.state = _unpacked(state)
    else:
        generator.set_state(_unpacked(state))


def _packed(state: object) -> torch.Tensor:
    """Return any state as bytes, to be compared as torch's are."""
    return torch.frombuffer(bytearray(pickle.dumps(state)), dtype=torch.uint8)


def _unpacked(state: torch.Tensor) -> Any:
    return pickle.loads(state.numpy().tobytes())
