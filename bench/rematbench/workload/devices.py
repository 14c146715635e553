"""What differs between devices, in one place: their names, memory, clocks and random state, and how they run out.

Accelerators are asked through `torch.accelerator` and the module that torch has for their kind; what one cannot tell is
None. No other file asks whether there is a GPU.
"""

from __future__ import annotations

import gc
import os
import pickle
import platform
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from rematbench.errors import DeviceError
from rematbench.units import format_bytes

RandomState = dict[str, torch.Tensor]

_KINDS = ("cpu", "cuda", "xpu", "mps")
"""Kinds of device that are known by name without being there; ROCm calls its own `cuda`."""

_OUT_OF_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "out_of_device_memory"),
    "_alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_, HIPBLAS_STATUS_, …
    "unable to find an engine to execute",  # cuDNN, where no algorithm's workspace fits into what is left
)
"""How torch, its libraries and the operating system say it where they have no exception of their own for it."""


def find_device(name: str) -> torch.device:
    """Return the device named `cpu`, `cuda`, `xpu` or `mps`, with `:N` the Nth; `auto` takes a GPU where there is one.

    Raises:
        DeviceError: this machine, or this build of torch, does not have it.
    """
    accelerator = torch.accelerator.current_accelerator()
    if name == "auto":
        name = accelerator.type if accelerator is not None and torch.accelerator.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    is_known = kind in _KINDS or (accelerator is not None and kind == accelerator.type)
    if not is_known or (colon and not index.isdecimal()):
        raise DeviceError(f"unknown device {name!r}: known are {', '.join(_KINDS)}, cuda:N for the Nth, and auto")
    count = torch.accelerator.device_count() if accelerator is not None and accelerator.type == kind else 0
    if int(index or 0) >= count:
        raise DeviceError(
            f"device {name!r}: torch {torch.__version__} sees {count} {kind.upper()} devices here; use --device cpu"
        )
    return torch.device(kind, int(index or 0))


def use_device(device: torch.device) -> None:
    """Make it the one that a model's own code gets where it says no more than `cuda`."""
    if is_accelerator(device):
        torch.accelerator.set_device_index(device.index or 0)


def is_accelerator(device: torch.device) -> bool:
    """Tell whether a device has memory of its own, and work that is queued."""
    return device.type not in ("cpu", "meta")


def accelerator_notice() -> str:
    """Say why a torch that is built for a GPU finds none; empty where it finds one, or is built for none."""
    kinds = (("CUDA", "cuda"), ("ROCm", "hip"), ("XPU", "xpu"))
    built = next((f"{kind} {found}" for kind, name in kinds if (found := getattr(torch.version, name, None))), "")
    if not built:
        return ""
    with warnings.catch_warnings(record=True) as said:  # that the driver is too old, torch only warns of
        warnings.simplefilter("always")
        if torch.accelerator.is_available():
            return ""
    reason = " ".join(str(said[0].message).split()) if said else "there is no driver, or no GPU is visible"
    return f"no GPU is used, though torch {torch.__version__} is built for {built}: {reason}"


def device_name(device: torch.device) -> str:
    """Return the product name of a GPU or of the processor."""
    named = getattr(_module_of(device), "get_device_name", None) if is_accelerator(device) else None
    return str(named(device)) if named else _processor_name() or platform.machine()


def _module_of(device: torch.device) -> Any:
    """Return what torch has for a kind of device, as `torch.cuda`."""
    return torch.get_device_module(device.type)


def _processor_name() -> str:
    # The same name as py-cpuinfo's `brand_raw`, in 0.1 ms where that takes 1.5 s of subprocesses: every worker asks.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def software_of(device: torch.device) -> str:
    """Return what a GPU's kernels, and so their scratch memory and their bits, depend on; empty for a processor.

    Its toolkit, cuDNN, the driver, in what precision float32 is multiplied, and the libraries' own variables.
    """
    if not is_accelerator(device):
        return ""
    found = {
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "XPU": getattr(torch.version, "xpu", None),
        "cuDNN": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "driver": _driver_version() if device.type == "cuda" else None,
        "float32 matmul": torch.get_float32_matmul_precision(),
    }
    # Torch refuses to answer where the older and the newer of its two switches have been mixed.
    with suppress(RuntimeError):
        found["cuDNN TF32"] = ("on" if torch.backends.cudnn.allow_tf32 else "off") if device.type == "cuda" else None
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_SETTINGS) and value)
    return ", ".join([*(f"{name} {value}" for name, value in found.items() if value), *settings])


_SETTINGS = ("CUBLAS", "CUDNN_", "HIPBLAS", "ROCBLAS_", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32")
"""How the names begin of the variables that a GPU's libraries go by."""


def _driver_version() -> str | None:
    with suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    return None


def capacity_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU; None for a processor, which the machine shares."""
    if not is_accelerator(device):
        return None
    asked = getattr(_module_of(device), "get_device_properties", None)
    if asked and (total := getattr(asked(device), "total_memory", None)):
        return int(total)
    info = memory_info(device)
    recommended = getattr(_module_of(device), "recommended_max_memory", None)  # what MPS has in their place
    return info[1] if info else int(recommended()) if recommended else None


def memory_info(device: torch.device) -> tuple[int, int] | None:
    """Return the bytes that are free on a device for all processes, and all it has, as its driver says; or None."""
    if not is_accelerator(device):
        return None
    # The one for every accelerator came with torch 2.10.
    asked = getattr(torch.accelerator, "get_memory_info", None) or getattr(_module_of(device), "mem_get_info", None)
    if asked is None:
        return None
    with suppress(RuntimeError):
        free, total = asked(device)
        return int(free), int(total)
    return None


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that a device has left for whoever asks next; None where it cannot tell."""
    if not is_accelerator(device):
        return int(psutil.virtual_memory().available)
    info = memory_info(device)
    return info[0] if info else None


def keeps_casts(device: torch.device) -> bool:
    """Tell whether autocast is in force, for a device or the host, that keeps what it has cast until it ends."""
    kinds = {"cpu", device.type}
    return torch.is_autocast_cache_enabled() and any(map(torch.is_autocast_enabled, kinds))


def others_notice(device: torch.device) -> str:
    """Say how much of a GPU other processes hold, where that is more than a tenth of it; sizes go by the whole."""
    info = memory_info(device)
    if info is None:
        return ""
    free, total = info
    others = total - free - torch.accelerator.memory_reserved(device)
    return f"{format_bytes(others)} of it are held by others" if others > total // 10 else ""


def release_cached(device: torch.device) -> None:
    """Give back what is in use no more: after running out of memory, half a step may hang in reference cycles."""
    gc.collect()
    if is_accelerator(device):
        torch.accelerator.synchronize(device)
        torch.accelerator.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory has run out, the host's or a device's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(phrase in text for phrase in _OUT_OF_MEMORY)


def can_cap_memory(device: torch.device) -> bool:
    """Tell whether torch's allocator can be told how much of a device it may take."""
    # MPS counts in shares of what it recommends, and not of what it has.
    if not is_accelerator(device) or device.type == "mps" or not capacity_bytes(device):
        return False
    return hasattr(_module_of(device), "set_per_process_memory_fraction")


@contextmanager
def memory_capped(device: torch.device, most_bytes: int) -> Iterator[None]:
    """Let torch's allocator take no more than so many bytes of a device that it can be told of.

    What the driver, the context and other processes take is not among them.
    """
    module, total = _module_of(device), capacity_bytes(device) or 0
    asked = getattr(module, "get_per_process_memory_fraction", None)
    before = asked(device) if asked else 1.0
    # A byte more, as the share is cut off to whole bytes when it is multiplied out again.
    module.set_per_process_memory_fraction(min(1.0, (most_bytes + 1) / total), device)
    try:
        yield
    finally:
        module.set_per_process_memory_fraction(before, device)


def is_pinned_for(tensors: Iterable[object]) -> bool:
    """Tell whether what is offloaded goes to pinned memory: it comes from a device that copies from it by itself."""
    return any(isinstance(tensor, torch.Tensor) and tensor.device.type in ("cuda", "xpu") for tensor in tensors)


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that waits for the device's queued work before it is read."""
    if not is_accelerator(device):
        return time.perf_counter

    def synchronised() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return synchronised


def random_state(device: torch.device, module: nn.Module | None = None) -> RandomState:
    """Return the states of all generators that a step on this device may draw from.

    Those of torch and Python, of NumPy if it is imported, and of the generators that the modules of a model hold as
    attributes, by their paths.
    """
    state = {"cpu": torch.get_rng_state(), "python": _packed(random.getstate())}
    if is_accelerator(device):
        state[device.type] = _module_of(device).get_rng_state(*_index_of(device))
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = _packed(numpy.random.get_state())
    return state | {name: _state_of(generator) for name, generator in _generators(module)}


def restore_random_state(state: RandomState, device: torch.device, module: nn.Module | None = None) -> None:
    """Set the generators back to a state taken by `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and is_accelerator(device):
        _module_of(device).set_rng_state(state[device.type], *_index_of(device))
    random.setstate(_unpacked(state["python"]))
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(_unpacked(state["numpy"]))
    for name, generator in _generators(module):
        if name in state:
            _set_state(generator, state[name])


def _index_of(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is one, and its functions take none


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Put the random states back on leaving."""
    before = random_state(device)
    try:
        yield
    finally:
        restore_random_state(before, device)


def _generators(module: nn.Module | None) -> Iterator[tuple[str, Any]]:
    """Yield torch's, Python's and NumPy's generators among the attributes of a model's modules, each with its path."""
    for path, each in module.named_modules() if module else ():
        for name, value in vars(each).items():
            if _is_generator(type(value)):
                yield f"{path}.{name}", value


_GENERATORS: dict[type, bool] = {}
"""Of the classes met so far, whether they are those of generators: every step asks it of every attribute."""


def _is_generator(kind: type) -> bool:
    if kind not in _GENERATORS:
        # By the time that there is an instance of NumPy's, it is imported: the answer for a class never changes.
        numpy = sys.modules.get("numpy")
        numpy_s = (numpy.random.Generator, numpy.random.RandomState) if numpy else ()
        _GENERATORS[kind] = issubclass(kind, (torch.Generator, random.Random, *numpy_s))
    return _GENERATORS[kind]


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
