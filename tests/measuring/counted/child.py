"""Runs in a process with the counter preloaded: counts operators and models by it and by hand, and by the tool; JSON.

What is counted or compared by hand shares the models with the tool, and nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch
from tests.measuring.counted.counter import Counter
from tests.measuring.counted.models import MODELS
from tests.measuring.counted.operators import OPERATORS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rematbench.errors import RematbenchError
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement, Region
from rematbench.workload.step import Workload

Build = Callable[[], tuple[Any, ...]]


def loss_of(output: Any) -> Tensor:
    """Return a library model's own loss, or the sum of squares of every tensor that a model returns."""
    if hasattr(output, "loss") and output.loss is not None:
        return output.loss
    if hasattr(output, "last_hidden_state"):
        return loss_of(output.last_hidden_state)
    if isinstance(output, tuple | list):
        return torch.stack([loss_of(part) for part in output if part is not None]).sum()
    return (torch.view_as_real(output.resolve_conj()) if output.is_complex() else output).square().sum()


def step(module: nn.Module, batch: Any) -> Tensor:
    """Run a step as a training loop has it: the output lives to its end."""
    output = module(**batch) if isinstance(batch, Mapping) else module(*batch)
    loss = loss_of(output)
    loss.backward()
    return loss.detach()


@contextmanager
def wrapped(module: nn.Module, regions: list[str]) -> Iterator[None]:
    """Checkpoint modules as one does by hand."""
    with ExitStack() as undo:
        for region in regions:
            block: Any = module.get_submodule(re.sub(r"\[(\d+)\]", r".\1", region).lstrip("."))

            def forward(*args: Any, own: Any = block.forward, **kwargs: Any) -> Any:
                return checkpoint(own, *args, use_reentrant=False, **kwargs)

            block.forward = forward
            undo.callback(delattr, block, "forward")
        yield


class ByHand:
    """A model built from a seed, and steps of it from one state."""

    def __init__(self, build: Build) -> None:
        torch.manual_seed(0)
        self.module, self.batch, self.regions = build()
        self.kept = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        self.given = [tensor.detach().clone() for tensor in self.inputs()]

    def inputs(self) -> list[Tensor]:
        values = self.batch.values() if isinstance(self.batch, Mapping) else self.batch
        return [value for value in values if isinstance(value, Tensor)]

    def fresh(self) -> None:
        """Put weights, buffers, batch and random states back, with no gradients; attributes stay as they are."""
        self.module.load_state_dict(self.kept)
        self.module.zero_grad(set_to_none=True)
        for tensor, kept in zip(self.inputs(), self.given, strict=True):
            tensor.grad = None
            tensor.detach().copy_(kept)
        torch.manual_seed(1)
        random.seed(1)
        numpy.random.seed(1)
        for generator in self.generators():
            generator.manual_seed(1)

    def generators(self) -> list[torch.Generator]:
        owned = [value for module in self.module.modules() for value in vars(module).values()]
        return [value for value in owned if isinstance(value, torch.Generator)]

    def peaks(self, counter: Counter, regions: list[str]) -> dict[str, int]:
        """Count a settled step: after one that is discarded."""
        with wrapped(self.module, regions):
            self.fresh()
            step(self.module, self.batch)
            self.fresh()
            torch_s, others = counter.peak_of(lambda: step(self.module, self.batch))
        return {"counted": torch_s, "others": others}


def left_behind(build: Build, *, by_hand: bool) -> dict[str, Any]:
    """Run one step of a model of its own, after a plain one that is discarded, and return what it leaves behind."""
    model = ByHand(build)
    model.fresh()
    step(model.module, model.batch)
    model.fresh()
    with wrapped(model.module, model.regions if by_hand else []):
        loss = step(model.module, model.batch)
    named = {**dict(model.module.named_parameters()), **dict(enumerate(model.inputs()))}
    states = [torch.get_rng_state(), *(generator.get_state() for generator in model.generators())]
    return {
        "gradients": [None if tensor.grad is None else bits(tensor.grad) for tensor in named.values()],
        "loss": bits(loss),
        "buffers": {name: bits(buffer) for name, buffer in model.module.named_buffers()},
        "rng_state": (*map(bits, states), random.getstate(), str(numpy.random.get_state())),
    }


def bits(tensor: Tensor) -> bytes:
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense.resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def verdicts_by_hand(build: Build) -> dict[str, str]:
    """Compare a step that is checkpointed by hand with a plain one: `equal`, `different`, or `unsteady` as plain is."""
    plain = left_behind(build, by_hand=False)
    try:
        found = left_behind(build, by_hand=True)
    except RuntimeError as error:
        return {"refused": str(error).splitlines()[0]}
    again = plain if found == plain else left_behind(build, by_hand=False)
    return {
        name: "equal" if found[name] == plain[name] else "different" if plain[name] == again[name] else "unsteady"
        for name in plain
    }


def session_of(model: ByHand) -> Session:
    workload = Workload(module=model.module, batch=model.batch, loss_fn=loss_of)
    return Session(workload, torch.device("cpu"))


def placement_of(regions: list[str]) -> Placement:
    return Placement(name="by hand", regions=tuple(Region(path=region) for region in regions))


def of_operator(build: Build, counter: Counter) -> dict[str, Any]:
    """Count an operator's step, plain and as one region."""

    def chained() -> tuple[Any, ...]:
        module, batch = build()
        return Handing(module), batch, ["[0]"]

    model = ByHand(chained)
    session = session_of(model)
    return {
        name: {**model.peaks(counter, regions), "tool": session.peak_bytes(placement_of(regions))}
        for name, regions in (("plain", []), ("regions", model.regions))
    }


class Handing(nn.Sequential):
    """A chain of one, which hands on as many inputs as there are."""

    def forward(self, *inputs: Any) -> Any:
        return self[0](*inputs)


def of_model(build: Build, counter: Counter | None) -> dict[str, Any]:
    """Compare and count a model's step, plain and with its regions checkpointed, by hand and by the tool."""
    found: dict[str, Any] = {"by hand": verdicts_by_hand(build)}
    model = ByHand(build)
    session = session_of(model)
    session.keep_plain()
    for name, regions in (("plain", []), ("regions", model.regions)):
        try:
            measured = session.measure(placement_of(regions))
        except RematbenchError as error:
            found[name] = {"refused": str(error)}
            continue
        found[name] = {"tool": measured.memory.peak_bytes, "repeatable": measured.memory.repeatable}
        equality = measured.equality
        found["by the tool"] = {key: getattr(equality, key) for key in ("gradients", "loss", "buffers", "rng_state")}
        if counter is not None:
            found[name] |= ByHand(build).peaks(counter, regions)
    return found


def main() -> None:
    torch.set_num_threads(1)
    counter = Counter() if "LD_PRELOAD" in os.environ else None
    checkpoint(torch.exp, torch.ones(1), use_reentrant=False)  # imports dynamo
    gc.collect()
    gc.freeze()  # every reading collects
    operators = {name: of_operator(build, counter) for name, build in OPERATORS.items()} if counter else {}
    print(
        json.dumps(
            {"operators": operators, "models": {name: of_model(build, counter) for name, build in MODELS.items()}}
        )
    )


if __name__ == "__main__":
    main()
