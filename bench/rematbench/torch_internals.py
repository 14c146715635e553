"""Every private name of torch that this package uses, each with what is relied upon and why nothing public will do.

What torch does not document may change with any version. So each name stands here, once, and
`tests/test_torch_internals.py` holds it to its meaning by a known answer: with a new torch, that file says what broke.
Nothing here imports dynamo or inductor before it is called; that takes a second, or several.

A class that overrides a private method of torch's does so here too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import nn
from torch._compile import _disable_dynamo
from torch._ops import OpOverload as Operator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = [
    "BatchNorm",
    "DispatchMode",
    "Operator",
    "Profiled",
    "ProfiledAllocation",
    "ProfiledScope",
    "StorageReference",
    "allocator_history",
    "below_autograd",
    "buffers_of",
    "call_of",
    "children_of",
    "compiled_call_of",
    "count_cpu_allocations",
    "disable_dynamo",
    "flop_formulas",
    "has_hooks",
    "inductor_backend",
    "keys_of_freed",
    "outside_autocast",
    "parameters_of",
    "profiled",
    "pytree",
    "runs_compiled",
    "saved_attributes",
    "saved_objects",
    "schema_of",
    "set_compiled_call",
    "start_allocator_history",
    "stop_allocator_history",
    "storage_key",
    "tensor_without_memory",
    "without_dispatch",
    "without_torch_function",
    "write_count",
]

# `pytree` (torch/utils/_pytree.py) takes nested containers apart into leaves and puts them together again, with the
# containers that a model library has registered. torch itself does it so everywhere; the module never became public.

# `BatchNorm` (torch/nn/modules/batchnorm.py) is what all batch norms, the synchronised one included, have in common.

F = TypeVar("F", bound=Callable[..., Any])


# --- storages and tensors -----------------------------------------------------------------------------------------


class DispatchMode(TorchDispatchMode):
    """Sees every operator that runs inside its `with` block (torch/utils/_python_dispatch.py).

    Public modes, such as `FlopCounterMode`, are built on it and do not let a subclass see what they leave out.
    """

    # Without this, torch refuses to run a higher-order operator under the mode at all.
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the second that importing dynamo takes, which torch would do to keep it out of the mode's own code."""
        return False


def storage_key(tensor: torch.Tensor) -> int:
    """Return a number that tensors share exactly if they lie on one storage; to be compared while both are alive.

    `_cdata` is the address of the StorageImpl (torch/csrc/Storage.cpp). The public `data_ptr()` is 0 for every empty
    storage and makes a lazy clone copy what it shares; that `untyped_storage()` is the same object each time is nowhere
    promised.
    """
    return tensor.untyped_storage()._cdata


class StorageReference:
    """Knows a storage, given as such or as a tensor on it, again later without keeping its memory alive.

    As long as a reference is held, no other storage is given its `key`: the weak count keeps the StorageImpl, though
    not its memory, so that its address is not used again (`StorageWeakRef` in torch/multiprocessing/reductions.py).
    A weak reference of Python's own would not keep the address.

    Attributes:
        key: as `storage_key` of each tensor on it.
    """

    __slots__ = ("_reference", "key")

    def __init__(self, of: torch.Tensor | torch.UntypedStorage) -> None:
        self._reference = StorageWeakRef(of.untyped_storage() if isinstance(of, torch.Tensor) else of)
        self.key: int = self._reference.cdata

    @property
    def is_alive(self) -> bool:
        """Whether some tensor still lies on it."""
        return not self._reference.expired()


def keys_of_freed(keys: Iterable[int]) -> list[int]:
    """Return the keys whose storages are gone, of references that are held.

    What `StorageWeakRef.expired` asks, without the four calls in Python around it: a recorder asks of every storage
    between any two operators.
    """
    expired = torch.UntypedStorage._expired
    return [key for key in keys if expired(key)]


def write_count(tensor: torch.Tensor) -> int:
    """Return how often a tensor, or any that shares its memory, was written to in place; not for inference tensors.

    The `_version` that autograd itself checks saved tensors by (torch/csrc/autograd/variable.h).
    """
    return tensor._version


def tensor_without_memory(cls: type[torch.Tensor], like: torch.Tensor) -> Any:
    """Return an instance of a tensor subclass with shape, strides, dtype and device of another tensor, and no memory.

    What DTensor is made with (torch/distributed/tensor/_api.py). The public `torch.empty(device="meta")` has no memory
    either, but says that it is on another device.
    """
    return torch.Tensor._make_wrapper_subclass(
        cls,
        like.shape,
        strides=like.stride(),
        storage_offset=like.storage_offset(),
        dtype=like.dtype,
        device=like.device,
        requires_grad=like.requires_grad,
    )


def without_torch_function() -> AbstractContextManager[Any]:
    """Have torch treat subclasses as plain tensors, so that a `__torch_function__` can call what it was asked for.

    What `torch.Tensor.__torch_function__` itself does (torch/_tensor.py); calling that would wrap results in the
    subclass.
    """
    return torch._C.DisableTorchFunctionSubclass()


# --- what autograd saves ------------------------------------------------------------------------------------------


def saved_attributes(node: Any) -> dict[str, str]:
    """Return the attributes of a node of the graph that unpack what it saved, each with the name of what it saves.

    Nodes that torch generates have one for each argument or result, `_saved_self`, `_saved_result`; some of them are
    numbers (tools/autograd/gen_autograd_functions.py). A user's `autograd.Function` has the public `saved_tensors` for
    all, and no names.
    """
    prefix = "_saved_"
    named = {name: name.removeprefix(prefix) for name in dir(node) if name.startswith(prefix)}
    return named or ({"saved_tensors": ""} if hasattr(type(node), "saved_tensors") else {})


def saved_objects(node: Any, attribute: str) -> list[Any]:
    """Return what hooks packed for one of `saved_attributes`, without unpacking it; empty where no hook did.

    `_raw_saved_self` is torch's SavedTensor, whose `data` is what `pack` returned
    (torch/csrc/autograd/python_saved_variable_hooks.cpp). Reading `_saved_self` instead unpacks, and for what a
    checkpoint packed, that runs its region once more.
    """
    raw = getattr(node, f"_raw_{attribute.removeprefix('_')}", ())
    return [saved.data for saved in (raw if isinstance(raw, tuple) else (raw,)) if hasattr(saved, "data")]


# --- operators ----------------------------------------------------------------------------------------------------
# `Operator` is one overload of an operator, such as `aten.add.Tensor` (torch/_ops.py): what a dispatch mode is given,
# unless it is a higher-order operator.


def schema_of(operator: Operator) -> torch.FunctionSchema:
    """Return an operator's schema: its name, arguments and results with their types (torch/_ops.py)."""
    return operator._schema


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """Return a copy of torch's FLOP formulas by operator, those registered by `register_flop_formula` included.

    `flop_registry` in torch/utils/flop_counter.py, by which the public `FlopCounterMode` counts; what it leaves out is
    not to be had from that.
    """
    return dict(flop_registry)


def without_dispatch() -> AbstractContextManager[Any]:
    """Run operators past all dispatch modes, such as the one that asks a selective checkpoint's policy.

    A guard of torch's C++ (torch/csrc/utils/python_dispatch.cpp); the modes themselves can only be popped.
    """
    return torch._C._DisableTorchDispatch()


def below_autograd() -> AbstractContextManager[Any]:
    """Run operators as a step's own do by the time a dispatch mode sees them: past autograd, whatever requires grad.

    A guard of torch's C++ (torch/csrc/autograd/init.cpp); `no_grad` would change what kernels ask for themselves.
    """
    return torch._C._AutoDispatchBelowAutograd()


@contextmanager
def outside_autocast(device: torch.device) -> Iterator[None]:
    """Run as after the end of every `torch.autocast` that is in force, as backward does; they are in force again after.

    What they have cast is forgotten. How deep they nest (torch/amp/autocast_mode.py) decides whether one that is opened
    inside, as by a recomputation, forgets what it has cast at its end.
    """
    kinds = [kind for kind in dict.fromkeys(("cpu", device.type)) if torch.is_autocast_enabled(kind)]
    depth = torch.autocast_increment_nesting() - 1
    for _ in range(depth + 1):
        torch.autocast_decrement_nesting()
    try:
        for kind in kinds:
            torch.set_autocast_enabled(kind, False)
        torch.clear_autocast_cache()
        yield
    finally:
        for _ in range(depth):
            torch.autocast_increment_nesting()
        for kind in kinds:
            torch.set_autocast_enabled(kind, True)


# --- modules ------------------------------------------------------------------------------------------------------


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a module's children with their names; one registered twice stands twice, unlike in `named_children`."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """Return the dictionary that a module itself keeps its parameters in; None stands for one that it does without.

    To put one back under its name: `setattr` is the model's to override (torch/nn/modules/module.py). A scripted module
    has none: its parameters are C++'s.
    """
    found: Any = module._parameters
    return found if isinstance(found, dict) else {}


def buffers_of(module: nn.Module) -> dict[str, Any]:
    """Return the dictionary that a module itself keeps its buffers in, as `parameters_of`."""
    found: Any = module._buffers
    return found if isinstance(found, dict) else {}


def has_hooks(module: nn.Module) -> bool:
    """Tell whether a module has hooks of its own, of its forward or its backward.

    The dictionaries that the public `register_…_hook` fill (torch/nn/modules/module.py); there is no way to ask.
    """
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def call_of(module: nn.Module) -> Callable[..., Any]:
    """Return a module's call as it is without `Module.compile`: its hooks and its forward (torch/nn/modules/module.py).

    `Module.__call__` would go through what is compiled, and so, in what is to be compiled, into itself.
    """
    return module._call_impl


def compiled_call_of(module: nn.Module) -> Callable[..., Any] | None:
    """Return what `Module.compile` has put in the place of a module's call; None where nothing."""
    return module._compiled_call_impl


def set_compiled_call(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Put a compiled call in the place of a module's own, as `Module.compile` does; None takes it away again."""
    module._compiled_call_impl = call


def runs_compiled(module: nn.Module) -> bool:
    """Tell whether a module runs through `torch.compile`: by `Module.compile`, or as what `torch.compile` returns.

    That is known by its class's name: torch/_dynamo/eval_frame.py, where the class is, takes a second to import.
    """
    return type(module).__name__ == "OptimizedModule" or compiled_call_of(module) is not None


# --- torch.compile ------------------------------------------------------------------------------------------------


def disable_dynamo(function: F) -> F:
    """Have compiled code end before a function and go on behind it, as torch.utils.checkpoint does (torch/_compile.py).

    The public `torch.compiler.disable` imports dynamo at once, this one when the function is first called.
    """
    return cast(F, _disable_dynamo(function))


def inductor_backend(memory_budget: float) -> Callable[..., Any]:
    """Return inductor, as a backend for `torch.compile`, under an activation memory budget between 0 and 1.

    `activation_memory_budget` of torch/_functorch/config.py is read while a graph is cut into forward and backward, so
    it has to hold while the backend runs, which `options=` cannot do: those are inductor's own.
    It is another object each time, so that dynamo takes each for a backend of its own and compiles anew.
    """
    import torch._functorch.config as functorch
    from torch._inductor.compile_fx import compile_fx

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        with functorch.patch(activation_memory_budget=memory_budget):
            return compile_fx(graph, inputs)

    return backend


# --- allocators ---------------------------------------------------------------------------------------------------


class ProfiledAllocation(NamedTuple):
    """An allocation (positive change) or a free (negative) by torch's CPU allocator."""

    time_ns: int
    address: int
    change_bytes: int
    total_bytes: int
    """What the whole process had allocated after it, in all threads, above an unknown start."""


class ProfiledScope(NamedTuple):
    """A `record_function` scope, on the clock of the allocations."""

    name: str
    start_ns: int
    stop_ns: int


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """What ran inside `profiled()`, in no order; filled on leaving."""

    allocations: list[ProfiledAllocation] = field(default_factory=list)
    scopes: list[ProfiledScope] = field(default_factory=list)


def count_cpu_allocations(*, on: bool = True) -> bool:
    """Have torch's CPU allocator keep count of all it hands out, in every thread, while nothing is profiled too.

    Only so does the profiler know the size of older memory that is freed, and the total of the process. It is the flag
    `caffe2_report_cpu_memory_usage` (c10/core/CPUAllocator.cpp), which only programs in C++ can parse from a command
    line; a microsecond an allocation. Returns whether this torch has it.
    """
    for library in (Path(torch.__file__).parent / "lib").glob("*c10.*"):
        with suppress(OSError, ValueError):
            ctypes.c_bool.in_dll(ctypes.CDLL(str(library)), "FLAGS_caffe2_report_cpu_memory_usage").value = on
            return True
    return False


@contextmanager
def profiled() -> Iterator[Profiled]:
    """Have torch write down its CPU allocator's work, and the scopes of `record_function`, and nothing else.

    `torch.profiler.profile` would record every operator as well, and spend a second on sorting them; this calls what it
    calls (`profile.__enter__` in torch/autograd/profiler.py), with user scopes alone. Changes of an allocation are
    signed, a free carries the address of its allocation.
    """
    c = torch._C
    config = c._profiler.ProfilerConfig(
        # state, report_input_shapes, profile_memory, with_stack, with_flops, with_modules, experimental_config
        *(c._profiler.ProfilerState.KINETO, False, True, False, False, False),
        c._profiler._ExperimentalConfig(),
    )
    activities = {c._profiler.ProfilerActivity.CPU}
    found = Profiled()
    c._autograd._prepare_profiler(config, activities)
    # The third argument, the scopes, is missing in torch's own stub.
    c._autograd._enable_profiler(config, activities, {c._profiler.RecordScope.USER_SCOPE})  # type: ignore[call-arg]
    try:
        yield found
    finally:
        stack: list[Any] = list(c._autograd._disable_profiler().experimental_event_tree())
        while stack:
            node = stack.pop()
            stack.extend(node.children)
            if node.tag != c._profiler._EventType.Allocation:
                found.scopes.append(ProfiledScope(node.name, node.start_time_ns, node.end_time_ns))
            elif node.extra_fields.device.type == "cpu":
                fields = node.extra_fields
                found.allocations.append(
                    ProfiledAllocation(node.start_time_ns, fields.ptr, fields.alloc_size, fields.total_allocated)
                )


def start_allocator_history(device: torch.device) -> None:
    """Have a device's caching allocator write down what it does from here on, without stacks, which would cost time.

    torch/cuda/memory.py, and torch/xpu/memory.py with the same names; documented on pytorch.org under "Understanding
    CUDA Memory Usage" with its underscore. Other kinds of device have none, which is an AttributeError.
    """
    torch.get_device_module(device.type).memory._record_memory_history("all", context=None, clear_history=True)


def stop_allocator_history(device: torch.device) -> None:
    """End what `start_allocator_history` began."""
    torch.get_device_module(device.type).memory._record_memory_history(None)


def allocator_history(device: torch.device) -> list[Mapping[str, Any]]:
    """Return what a device's allocator did since the start, oldest first.

    Entries are as `TraceEntry` in the docstring of `torch.cuda.memory._snapshot` says, with `action` (`alloc`,
    `free_requested`, `free_completed`, `segment_alloc`, …), `addr` and `size` as asked for; and with `time_us`, since
    1970, which only torch/csrc/cuda/Module.cpp tells of.
    """
    index = device.index if device.index is not None else torch.accelerator.current_device_index()
    found: list[Mapping[str, Any]] = torch.get_device_module(device.type).memory._snapshot(device)["device_traces"][
        index
    ]
    return found
