"""What a network of the zoo is: a factory as rematbench takes it, what it stands for and how it checkpoints itself.

`@network(...)` makes the factory that `rematbench run --model tests/zoo/by_hand.py:flow` is given. Behind it
`?own=true` switches on the checkpointing of the network's own library. Nothing is downloaded: every network is built
from a config, with random weights. A library is imported when one of its networks is built, not before.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a config that names a checkpoint must fail here, not fetch it

Made = tuple[Any, ...]
"""What a factory returns: the module, the batch, and a loss function where the usual loss is not right."""

KINDS = {
    "plain chain": "one chain of equal blocks",
    "parallel branches": "branches side by side in a block, joined again",
    "split channels": "a tensor split, its parts taken different ways",
    "auxiliary head": "a second loss from the middle",
    "two encoders": "two encoders and what joins them",
    "DLRM": "embeddings and dense features that meet",
    "autocast inside": "bfloat16 by autocast in the model's own forward",
    "gradient penalty inside": "a loss that holds the gradient of an input",
    "shared layers": "the same block called in every layer",
    "adaptive depth": "a number of calls that the data decides",
    "module called several times": "a module, such as a dropout, called at several places",
    "in-place activation": "an activation that changes what a norm or a convolution returned",
    "in-place view": "a leaf, or a view, changed in place",
    "hooks": "results collected by hooks on members",
    "masks by layer": "masks or positions that differ by block",
    "layer drop": "blocks left out at random",
    "tuples": "blocks that take or return several tensors",
    "skips": "tensors that pass blocks by, as in a U-Net",
    "chains in chains": "chains whose blocks are chains",
    "stages by name": "stages held as attributes",
    "graph network": "messages along edges that every layer is given",
    "own checkpoints": "a model that checkpoints itself",
    "KV cache": "keys and values kept and returned",
    "torch.func": "a function transform in forward",
    "double backward": "a gradient of a gradient",
    "gradient of an input": "`autograd.grad` of an input in forward",
    "complex": "complex tensors",
    "packed sequence": "a `PackedSequence` between modules",
    "lists of lists": "a `ModuleList` of `ModuleList`s",
    "parametrizations": "weights computed from others when read",
    "returns None": "a module that returns nothing",
    "sparse gradients": "gradients of embeddings as sparse tensors",
    "custom batch": "a batch object of the user's own",
    "EMA codebook": "a buffer that the step reads and writes",
    "compiled blocks": "blocks compiled one by one",
    "feature pyramid": "heads run on every level of a pyramid",
    "frozen base": "most weights frozen, adapters beside them",
    "recurrence": "a cell called once a time step",
    "mixture of experts": "blocks that some of the tokens take",
}
"""What networks are known to break planners by, each with what it means."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network of the zoo.

    Attributes:
        name: `library.factory`.
        library: the package it needs; `torch` for those written by hand.
        kinds: of `KINDS`, what it stands for.
        reference: the factory, as `rematbench run --model` takes it.
        own_call: how its library is told to checkpoint it; empty where it cannot.
        changes_state: a step that reads state which it also writes, so that running a part again changes training.
    """

    name: str
    library: str
    kinds: tuple[str, ...]
    reference: str
    own_call: str
    factory: Callable[..., Made]
    changes_state: bool

    @property
    def missing(self) -> str:
        """The package that is not installed; empty where all is there."""
        needed = [*_PACKAGES.get(self.library, self.library).split()]
        return next((name for name in needed if find_spec(name) is None), "")


_PACKAGES = {"peft": "peft transformers", "diffusers": "diffusers transformers"}
REGISTERED: dict[str, Network] = {}


def network(
    *kinds: str,
    library: str,
    own: Callable[[Any], object] | None = None,
    own_call: str = "",
    changes_state: bool = False,
) -> Callable[[Callable[[], Made]], Callable[..., Made]]:
    """Register a factory; `own` tells the built module to checkpoint itself and `own_call` says how.

    The module is put in training mode.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"no kinds of the zoo: {unknown}")

    def register(build: Callable[[], Made]) -> Callable[..., Made]:
        def factory(*, own_checkpoints: bool = False) -> Made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a library says about its own defaults is no failure of ours
                made = build()
                made[0].train()
                _wake(made[0])
                if own_checkpoints and own:
                    own(made[0])
            return made

        functools.update_wrapper(factory, build, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        del factory.__wrapped__  # type: ignore[attr-defined]  # or its signature would be read in place of this one
        name = f"{library}.{build.__name__}"
        file = f"tests/zoo/{build.__module__.rpartition('.')[2]}.py"
        REGISTERED[name] = Network(
            name=name,
            library=library,
            kinds=kinds,
            reference=f"{file}:{build.__name__}",
            own_call=own_call if own else "",
            factory=factory,
            changes_state=changes_state,
        )
        return factory

    return register


def _wake(module: nn.Module) -> None:
    """Give matrices that begin at zero, as heads and gates do, small weights: behind them every gradient is zero."""
    for weight in module.parameters():
        if weight.ndim > 1 and not torch.count_nonzero(weight):
            nn.init.normal_(weight, std=0.02)


def package(name: str) -> Any:
    """Import a package of which no types are known; ImportError says which is missing."""
    declare_operators()  # most packages import torchvision when it is there
    return import_module(name)


@functools.cache
def declare_operators() -> None:
    """Let torchvision be imported beside a torch that its operators were not built for.

    Its wheel on PyPI is built for CUDA. Beside a CPU build of torch its library does not load, and the import ends at
    `operator torchvision::nms does not exist`. No training step here calls one of them: to be declared is enough.
    """
    if find_spec("torchvision") is None or _operators_load():
        return
    _DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _operators_load() -> bool:
    spec = find_spec("torchvision")
    folder = Path((spec.submodule_search_locations or ("",))[0]) if spec else Path()
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


_DECLARED = torch.library.Library("torchvision", "FRAGMENT")


def images(batch: int = 4, side: int = 64) -> torch.Tensor:
    """Random images, (batch, 3, side, side)."""
    return torch.randn(batch, 3, side, side)


def tokens(batch: int = 4, length: int = 64, vocabulary: int = 256) -> torch.Tensor:
    """Random tokens, (batch, length)."""
    return torch.randint(2, vocabulary, (batch, length))


def parameters(module: nn.Module) -> int:
    """How many numbers a module trains."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
