"""Each private name of torch that is used means what it is used for, and stands in one file."""

import ast
import inspect
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import record_function
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from rematbench import torch_internals
from rematbench.torch_internals import (
    BatchNorm,
    DispatchMode,
    Operator,
    Profiled,
    ProfiledAllocation,
    ProfiledScope,
    StorageReference,
    allocator_history,
    below_autograd,
    buffers_of,
    call_of,
    children_of,
    compiled_call_of,
    count_cpu_allocations,
    disable_dynamo,
    flop_formulas,
    has_hooks,
    inductor_backend,
    keys_of_freed,
    outside_autocast,
    parameters_of,
    profiled,
    pytree,
    runs_compiled,
    saved_attributes,
    saved_objects,
    schema_of,
    set_compiled_call,
    start_allocator_history,
    stop_allocator_history,
    storage_key,
    tensor_without_memory,
    without_dispatch,
    without_torch_function,
    write_count,
)

PACKAGE = Path(torch_internals.__file__).parent
OTHERS = sorted(set(PACKAGE.rglob("*.py")) - {Path(torch_internals.__file__)})

OVERRIDES = {"_should_skip_dynamo"}
"""Private methods of torch's that a class of ours overrides."""

OPERATORS = {"torch.ops.aten", "aten"}
"""Whose attributes are operators: an underscore belongs to an operator's name, which a policy or a formula is for."""

NOT_TORCH = {"os._exit", "sys._getframe"}

OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}
"""Public, for all their underscore."""

UNDOCUMENTED = {"torch.multiprocessing.reductions", "torch.utils.flop_counter"}
"""Modules of torch without an underscore from which names come that are not in their `__all__`."""

MIB = 2**20

IMPORTS = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""Of torch's own, when inductor is imported."""


def test_every_name_is_tested_here() -> None:
    """The import above names them all, and each is used below it."""
    names = [node.id for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Name)]
    assert not set(torch_internals.__all__) - set(names)
    tree = ast.parse(Path(torch_internals.__file__).read_text())
    written = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert not written - set(torch_internals.__all__)


# --- storages and tensors


def test_tensors_share_a_storage_key_exactly_if_they_share_memory() -> None:
    tensor = torch.zeros(4, 4)
    other, empty, empty_too = tensor.clone(), torch.empty(0), torch.empty(0)
    assert storage_key(tensor) == storage_key(tensor[1:].t()) == storage_key(tensor.detach())
    assert len({storage_key(each) for each in (tensor, other, empty, empty_too)}) == 4


def test_the_key_of_a_storage_that_is_referred_to_is_not_given_again() -> None:
    references = []
    for _ in range(100):
        tensor = torch.zeros(1000)
        references.append(StorageReference(tensor))
        assert references[-1].key == storage_key(tensor) == StorageReference(tensor[3:]).key
        del tensor
    assert len({reference.key for reference in references}) == 100


def test_a_reference_keeps_no_memory_alive() -> None:
    with profiled() as found:
        tensor = torch.empty(MIB, dtype=torch.uint8)
        reference = StorageReference(tensor)
        key = storage_key(tensor)
        assert reference.is_alive
        assert not keys_of_freed([key])
        del tensor
        assert not reference.is_alive
        assert keys_of_freed([key]) == [key]
    assert [made.change_bytes for made in in_order(found)] == [MIB, -MIB]
    assert reference.key == key


def test_writes_in_place_are_counted_through_views() -> None:
    tensor = torch.zeros(4)
    view = tensor[:2]
    before = write_count(tensor)
    view.add_(1)
    tensor.detach().mul_(2)
    tensor + 1
    assert write_count(tensor) == write_count(view) == before + 2


class Wrapper(torch.Tensor):
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, _types: Sequence[type], _args: Sequence[Any] = (), _kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise NotImplementedError(func)

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with without_torch_function():
            return "asked", func(*args, **(kwargs or {}))


def test_a_tensor_without_memory_is_like_the_other_in_all_else() -> None:
    like = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True).t()[1:]
    with profiled() as found:
        wrapper = tensor_without_memory(Wrapper, like)
    assert type(wrapper) is Wrapper
    assert found.allocations == []
    with without_torch_function():
        for what in ("shape", "dtype", "device", "requires_grad"):
            assert getattr(wrapper, what) == getattr(like, what)
        assert (wrapper.stride(), wrapper.storage_offset()) == (like.stride(), like.storage_offset())


def test_without_torch_function_a_subclass_is_asked_once() -> None:
    """Asked again for what it calls itself, it would never end."""
    assert tensor_without_memory(Wrapper, torch.zeros(3)).dim() == ("asked", 1)


# --- what autograd saves


def test_a_node_has_an_attribute_for_each_tensor_it_saved() -> None:
    left, right = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    node = (left * right).grad_fn
    assert saved_attributes(node) == {"_saved_other": "other", "_saved_self": "self"}
    assert getattr(node, "_saved_self") is left  # noqa: B009
    assert saved_attributes((left + right).grad_fn) in ({}, {"_saved_alpha": "alpha"})


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


def test_a_user_s_function_has_one_attribute_for_all() -> None:
    x = torch.ones(2, requires_grad=True)
    assert saved_attributes(Twice.apply(x).grad_fn) == {"saved_tensors": ""}  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("function", [torch.sin, Twice.apply])
def test_what_hooks_packed_is_seen_without_unpacking_it(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    unpacked: list[object] = []

    def unpack(packed: tuple[str, torch.Tensor]) -> torch.Tensor:
        unpacked.append(packed)
        return packed[1]

    x = torch.ones(2, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: ("packed", tensor.detach()), unpack):
        node = function(x).grad_fn
    (name,) = saved_attributes(node)
    assert [packed[0] for packed in saved_objects(node, name)] == ["packed"]
    assert unpacked == []
    getattr(node, name)
    assert len(unpacked) == 1


# --- operators


def test_a_dispatch_mode_sees_operators_and_their_schemas_but_not_those_that_go_past_it() -> None:
    seen: list[str] = []

    class Seeing(DispatchMode):
        def __torch_dispatch__(
            self, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            assert isinstance(func, Operator)
            schema = schema_of(func)
            seen.append(f"{schema.name} {[argument.name for argument in schema.arguments]} {schema.is_mutable}")
            return func(*args, **(kwargs or {}))

    with Seeing():  # type: ignore[no-untyped-call]
        torch.ones(2).mul_(2)
        with without_dispatch():
            torch.zeros(2).sin()
    assert [line for line in seen if "mul_" in line] == ["aten::mul_ ['self', 'other'] True"]
    assert not [line for line in seen if "sin" in line]


def test_below_autograd_an_operator_runs_as_a_mode_sees_it() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    with below_autograd():
        assert torch.is_grad_enabled()
        assert not torch.ops.aten.mm(weight, weight).requires_grad
    assert torch.ops.aten.mm(weight, weight).requires_grad


def test_torch_s_flop_formulas_are_those_of_its_counter() -> None:
    formulas = flop_formulas()
    shapes = torch.ones(2, 3), torch.ones(3, 5)
    assert formulas[torch.ops.aten.mm](*shapes, out_val=shapes[0] @ shapes[1]) == 2 * 2 * 3 * 5
    assert formulas == FlopCounterMode(display=False).flop_registry
    formulas.clear()
    assert flop_formulas()


# --- modules


def test_parameters_and_buffers_are_put_back_under_their_names() -> None:
    norm = nn.BatchNorm1d(2)
    weight, mean = norm.weight, norm.running_mean
    assert list(parameters_of(norm)) == ["weight", "bias"]
    assert list(buffers_of(norm)) == ["running_mean", "running_var", "num_batches_tracked"]
    norm.weight, norm.running_mean = nn.Parameter(torch.zeros(2)), torch.zeros(2)
    parameters_of(norm)["weight"], buffers_of(norm)["running_mean"] = weight, mean
    assert norm.weight is weight
    assert norm.running_mean is mean


def test_children_registered_twice_stand_twice() -> None:
    layer = nn.Linear(1, 1)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    model.register_module("nothing", None)
    assert [name for name, _ in children_of(model)] == ["0", "1", "2"]


REGISTRARS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("register", REGISTRARS)
def test_a_hook_of_each_kind_is_seen_until_it_is_removed(register: str) -> None:
    module = nn.Linear(1, 1)
    assert not has_hooks(module)
    handle = getattr(module, register)(lambda *_: None)
    assert has_hooks(module)
    handle.remove()
    assert not has_hooks(module)


def test_every_batch_norm_is_one_and_no_other_norm() -> None:
    norms = (nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2))
    assert all(isinstance(norm, BatchNorm) for norm in norms)
    assert not any(isinstance(norm, BatchNorm) for norm in (nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2)))


def test_module_compile_sets_what_its_call_goes_through() -> None:
    module = nn.Linear(2, 2)
    assert compiled_call_of(module) is None
    assert not runs_compiled(module)
    module.compile(backend="eager")
    assert compiled_call_of(module) is not None
    assert runs_compiled(module)
    set_compiled_call(module, lambda _x: "compiled")
    assert module(torch.ones(2)) == "compiled"
    assert call_of(module)(torch.ones(2)).shape == (2,)
    set_compiled_call(module, None)
    assert torch.equal(module(torch.ones(2)), call_of(module)(torch.ones(2)))


def test_the_call_runs_hooks_too() -> None:
    module = nn.ReLU()
    module.register_forward_hook(lambda *_: "hooked")
    assert call_of(module)(torch.ones(1)) == "hooked"


@IMPORTS
def test_what_torch_compile_returns_is_known_by_its_name() -> None:
    assert runs_compiled(torch.compile(nn.ReLU()))  # type: ignore[arg-type]


# --- torch.compile


def test_compiled_code_ends_before_a_function_without_dynamo_and_goes_on_behind_it() -> None:
    compiling: list[bool] = []

    @disable_dynamo
    def apart(x: torch.Tensor) -> torch.Tensor:
        compiling.append(torch.compiler.is_compiling())
        return x + 1

    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    def whole(x: torch.Tensor) -> torch.Tensor:
        return apart(x.sin()).cos()

    x = torch.ones(2)
    try:
        assert torch.equal(torch.compile(whole, backend=backend)(x), whole(x))
    finally:
        torch.compiler.reset()
    assert len(graphs) == 2
    assert compiling == [False, False]


@IMPORTS
def test_inductor_reads_the_activation_memory_budget_that_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._functorch.config as functorch
    from torch._inductor import compile_fx as inductor

    seen: list[Any] = []
    monkeypatch.setattr(
        inductor, "compile_fx", lambda *given: seen.append((*given, functorch.activation_memory_budget))
    )
    first, second = inductor_backend(0.25), inductor_backend(0.25)
    first("graph", "inputs")
    assert seen == [("graph", "inputs", 0.25)]
    assert functorch.activation_memory_budget == 1
    assert first is not second


# --- allocators


def in_order(found: Profiled) -> list[ProfiledAllocation]:
    return sorted(found.allocations, key=lambda made: made.time_ns)


def test_the_profiler_sees_a_block_of_64_mib_inside_its_scope_and_nothing_else() -> None:
    with profiled() as found:
        with record_function("mine"):
            block = torch.empty(64 * MIB, dtype=torch.uint8)
        del block
    allocated, freed = in_order(found)
    assert (allocated.change_bytes, freed.change_bytes) == (64 * MIB, -64 * MIB)
    assert allocated.address == freed.address
    (scope,) = found.scopes
    assert isinstance(scope, ProfiledScope)
    assert scope.name == "mine"
    assert scope.start_ns <= allocated.time_ns <= scope.stop_ns <= freed.time_ns


def test_the_allocator_counts_what_is_older_than_a_profile_and_in_other_threads() -> None:
    assert count_cpu_allocations()
    older = [torch.empty(MIB, dtype=torch.uint8)]
    with profiled() as found:
        first = torch.empty(10, dtype=torch.uint8)
        older.clear()
        thread = threading.Thread(target=lambda: older.append(torch.empty(5000, dtype=torch.uint8)))
        thread.start()
        thread.join()
        del first
    made = in_order(found)
    assert [event.change_bytes for event in made] == [10, -MIB, -10]
    start = made[0].total_bytes - 10
    assert [event.total_bytes - start for event in made] == [10, 10 - MIB, 5000 - MIB]
    assert count_cpu_allocations(on=False)
    with profiled() as found:
        older.clear()
    assert len(found.allocations) == 1  # it was counted while that was on
    count_cpu_allocations()


def test_the_profiler_is_off_again_after_an_error() -> None:
    with pytest.raises(KeyError), profiled():
        raise KeyError
    with profiled() as found:
        torch.empty(MIB, dtype=torch.uint8)
    assert len(found.allocations) == 2


def test_the_history_s_names_take_what_they_are_given() -> None:
    """Held to signatures where there is no device; to numbers where there is one, below."""
    record = inspect.signature(torch.cuda.memory._record_memory_history)
    record.bind("all", context=None, clear_history=True)
    record.bind(None)
    inspect.signature(torch.cuda.memory._snapshot).bind(torch.device("cuda"))
    described = torch.cuda.memory._snapshot.__doc__ or ""
    for word in ("device_traces", "action", "alloc", "free_requested", "addr", "size"):
        assert word in described


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_history_has_a_block_s_allocation_and_free() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    start_allocator_history(device)
    try:
        block = torch.empty(MIB - 1, dtype=torch.uint8, device=device)
        address = block.data_ptr()
        del block
        entries = [entry for entry in allocator_history(device) if entry["addr"] == address]
    finally:
        stop_allocator_history(device)
    actions = [(entry["action"], entry["size"]) for entry in entries if not entry["action"].startswith("segment")]
    assert actions == [("alloc", MIB - 1), ("free_requested", MIB - 1), ("free_completed", MIB - 1)]
    assert all(entry["time_us"] > 1.7e15 for entry in entries)


# --- structures


Pair = namedtuple("Pair", "left right")


def test_structures_are_taken_apart_in_order_and_put_together_again() -> None:
    structure = {"a": [1, Pair(2, None)], "b": (torch.ones(1),)}
    leaves, spec = pytree.tree_flatten(structure)
    assert leaves[:3] == [1, 2, None]
    assert pytree.tree_leaves(structure)[:3] == leaves[:3]
    assert pytree.tree_structure(structure) == spec
    assert pytree.tree_unflatten(leaves, spec) == structure
    assert pytree.tree_map_only(int, lambda leaf: -leaf, structure)["a"] == [-1, Pair(-2, None)]
    paths, _ = pytree.tree_flatten_with_path(structure)
    assert [pytree.keystr(path) for path, _ in paths] == ["['a'][0]", "['a'][1].left", "['a'][1].right", "['b'][0]"]


# --- one file


def test_importing_them_imports_no_compiler() -> None:
    compilers = "{'torch._dynamo', 'torch._inductor'}"
    code = f"import sys, rematbench.torch_internals; print(sorted({compilers} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a file uses of torch's private names.

    An attribute with an underscore is torch's unless it is asked of `self` or `cls`, or a name that the file gives
    something itself.
    """
    given = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_own(node.value)}
    given |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)} - OVERRIDES
    given |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_torch_s(alias.name) and "._" in alias.name)
        elif isinstance(node, ast.ImportFrom) and is_torch_s(node.module or ""):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in whole if "._" in name or node.module in UNDOCUMENTED)
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            owner = ast.unparse(node.value)
            if (
                node.attr not in given | OF_NAMED_TUPLES
                and owner not in OPERATORS
                and f"{owner}.{node.attr}" not in NOT_TORCH
            ):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.FunctionDef) and is_private(node.name) and hasattr(DispatchMode, node.name):
            yield from {node.name} - OVERRIDES
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1]
            if (
                isinstance(name, ast.Constant)
                and is_private(str(name.value))
                and ast.unparse(node.args[0]) not in OPERATORS
            ):
                yield ast.unparse(node)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def is_torch_s(module: str) -> bool:
    return module.partition(".")[0] == "torch"


def is_own(owner: ast.expr) -> bool:
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_other_file_uses_a_private_name_of_torch(file: Path) -> None:
    assert sorted(set(private_names(ast.parse(file.read_text())))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo",
        "from torch.utils import _pytree as pytree",
        "from torch._compile import _disable_dynamo",
        "from torch.multiprocessing.reductions import StorageWeakRef",
        "tensor._version",
        "torch._C.anything",
        "module._compiled_call_impl = call",
        "getattr(node, '_saved_self')",
        "self.tensor._version",
    ],
)
def test_a_private_name_would_be_found(code: str) -> None:
    assert len(list(private_names(ast.parse(code)))) == 1


def test_ours_are_no_finding() -> None:
    code = (
        "class A:\n  def __init__(self): self._x = 0\n  def _f(self, other): return other._x, other._f, aten._softmax"
    )
    assert list(private_names(ast.parse(code))) == []


def test_a_region_is_not_run_again_by_asking_what_it_packed() -> None:
    runs: list[int] = []

    def region(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return x.sin().cos()

    node = checkpoint(region, torch.ones(2, requires_grad=True), use_reentrant=False).grad_fn
    for name in saved_attributes(node):
        saved_objects(node, name)
    assert len(runs) == 1


def test_outside_autocast_is_as_after_its_end() -> None:
    """What was cast is forgotten, and an autocast opened inside forgets at its own end what it casts itself."""
    weight, x = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", dtype=torch.bfloat16):
        with outside_autocast(torch.device("cpu")):
            assert not torch.is_autocast_enabled("cpu")
            assert (x @ weight).dtype == torch.float32
            with torch.autocast("cpu", dtype=torch.bfloat16):
                first = torch.mm(x, weight).grad_fn
            with torch.autocast("cpu", dtype=torch.bfloat16):
                second = torch.mm(x, weight).grad_fn
            assert first.next_functions[1][0] is not second.next_functions[1][0]  # type: ignore[union-attr]
        assert torch.is_autocast_enabled("cpu")
        assert torch.mm(x, weight).dtype == torch.bfloat16
        assert torch.autocast_increment_nesting() == 3
        torch.autocast_decrement_nesting()
    assert not torch.is_autocast_enabled("cpu")
    with outside_autocast(torch.device("cpu")):
        assert torch.autocast_increment_nesting() == 1
        torch.autocast_decrement_nesting()
