"""What a unit does, operator by operator, as a text to compare: units that do the same are measured once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from rematbench.measuring.flops import FlopMeter
from rematbench.torch_internals import StorageReference, keys_of_freed, storage_key

_PLAIN = (int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


class Recorder(FlopMeter):
    """Makes a digest of what runs inside its `with` block, of all that decides what it allocates and computes.

    These are inputs and outputs, every operator of forward and backward with all arguments and results, what autograd
    saves, and between which operators each storage is freed. Tensors go by shape, strides, type and by storage,
    numbered as they are met: two calls have one digest where they do the same on other tensors.

    It counts FLOPs besides, so that one run under a dispatch mode, which is slow, tells both.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()
        self._is_whole = True
        # By key, which a reference keeps from being given again; it also says when a storage is gone.
        self._storages: dict[int, tuple[int, StorageReference]] = {}
        self._alive: dict[int, int] = {}

    def digest(self) -> str | None:
        """Return the digest; None where an argument is neither a tensor nor a plain value, and may differ unseen."""
        self._note_freed()
        return self._hash.hexdigest() if self._is_whole else None

    def note(self, what: str, values: Any = None) -> None:
        """Take down values under a heading."""
        self._hash.update(f"{what}:{self._described(values)}\n".encode())

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._note_freed()
        self.note(str(func), (args, kwargs))  # before the call, which may change their sizes
        results = super().__torch_dispatch__(func, types, args, kwargs)
        self.note("results", results)
        return results

    def _note_freed(self) -> None:
        """Note what is gone since the operator before: a module may hold on to what another of its class lets go."""
        freed = [self._alive.pop(key) for key in keys_of_freed(self._alive)]
        if freed:
            self._hash.update(f"freed:{freed}\n".encode())

    def _described(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            key, kind = storage_key(value), type(value).__name__
            number = self._number_of(key, value)
            form = f"{value.shape} {value.stride()} {value.storage_offset()} {value.dtype} {value.device}"
            return f"{kind} {form} {value.requires_grad} on {number}"
        # As every operator is taken down twice, no library takes its arguments apart: they are in these two alone.
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}({','.join([self._described(item) for item in value])})"
        if isinstance(value, dict):
            return f"dict({','.join([f'{name!r}={self._described(item)}' for name, item in value.items()])})"
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, torch.UntypedStorage):
            return self._number_of(StorageReference(value).key, value)
        self._is_whole = False
        return type(value).__name__

    def _number_of(self, key: int, value: torch.Tensor | torch.UntypedStorage) -> str:
        """Return a number for a storage, and its size, which an operator may change."""
        if key not in self._storages:
            number = len(self._storages)
            self._storages[key] = number, StorageReference(value)
            if not isinstance(value, torch.nn.Parameter):  # which the module holds, and is asked of in vain
                self._alive[key] = number
        number, _ = self._storages[key]
        storage = value.untyped_storage() if isinstance(value, torch.Tensor) else value
        return f"{number} of {storage.nbytes()} bytes"
