"""What a unit does, operator by operator, as a text to compare: units that do the same are measured once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from rematbench.planner.unit_call import UnitCall, UnitError, as_saved
from rematbench.planner.unit_meter import UnitMeter
from rematbench.torch_internals import DispatchMode, StorageReference, pytree

_PLAIN = (int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


class _IndescribableError(Exception):
    """An argument that is neither a tensor nor a plain value: nothing says when two of them are the same."""


def signature_of(call: UnitCall, meter: UnitMeter) -> str | None:
    """Run one step of a unit and return a digest of all that decides what it allocates and computes.

    These are its inputs and outputs, every operator of its forward and backward with all arguments and results, what
    autograd saves, and between which operators each storage is freed. Tensors go by shape, strides, type and by
    storage, numbered as they are met: two calls have one digest where they do the same on other tensors.

    Returns:
        None where it cannot be told: torch refuses a dispatch mode here, or an argument is of a kind of its own.
    """
    recorder = _Recorder()
    try:
        with meter.undisturbed(call), recorder, saved_tensors_hooks(recorder.pack, as_saved):
            recorder.note("inputs", call.leaves)
            replace(call, forward=recorder.noting_outputs(call)).step(recorder.phases)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, UnitError, _IndescribableError):
        # Torch's refusals are RuntimeErrors, NotImplementedErrors among them. An error of the unit's own comes up
        # again when it is measured.
        return None
    return recorder.digest()


class _Recorder(DispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._hash = hashlib.sha256()
        # By key, which a reference keeps from being given again; it also says when a storage is gone.
        self._storages: dict[int, tuple[int, StorageReference]] = {}
        self._alive: dict[int, StorageReference] = {}

    def digest(self) -> str:
        self._note_freed()
        return self._hash.hexdigest()

    def note(self, what: str, values: Any) -> None:
        leaves, spec = pytree.tree_flatten(values)
        described = "|".join(map(self._described, leaves))
        self._hash.update(f"{what}:{spec}:{described}\n".encode())

    def noting_outputs(self, call: UnitCall) -> Any:
        def forward(*leaves: Any) -> tuple[Any, ...]:
            outputs = call.forward(*leaves)
            self.note("outputs", outputs)
            return outputs

        return forward

    @contextmanager
    def phases(self, phase: str) -> Iterator[None]:
        self._note_freed()
        self.note(phase, None)
        yield
        self._note_freed()
        self.note(f"after {phase}", None)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.note("saved", tensor)
        return tensor.detach()

    def __torch_dispatch__(
        self, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._note_freed()
        self.note(str(func), (args, kwargs))  # before the call, which may change their sizes
        results = func(*args, **(kwargs or {}))
        self.note("results", results)
        return results

    def _note_freed(self) -> None:
        """Note what is gone since the operator before: a module may hold on to what another of its class lets go."""
        freed = [number for number, storage in self._alive.items() if not storage.is_alive]
        for number in freed:
            del self._alive[number]
        self._hash.update(f"freed:{freed}\n".encode())

    def _described(self, leaf: Any) -> str:
        if isinstance(leaf, _PLAIN):
            return f"{type(leaf).__name__} {leaf!r}"
        if isinstance(leaf, torch.UntypedStorage):
            return self._storage(leaf)
        if not isinstance(leaf, torch.Tensor):
            raise _IndescribableError(type(leaf).__name__)
        form = (tuple(leaf.shape), leaf.stride(), leaf.storage_offset(), leaf.dtype, leaf.device, leaf.requires_grad)
        return f"{type(leaf).__name__} {form} on {self._storage(leaf.untyped_storage())}"

    def _storage(self, storage: torch.UntypedStorage) -> str:
        reference = StorageReference(storage)
        number, _ = self._storages.setdefault(reference.key, (len(self._storages), reference))
        self._alive.setdefault(number, reference)
        return f"{number} of {storage.nbytes()} bytes"
