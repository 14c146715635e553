"""What differs between devices, in one place: their names, their clocks, their random state."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

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


def random_state(device: torch.device) -> RandomState:
    """Return the state of torch's generators that a step on this device may draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Set torch's generators back to a state taken by `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
