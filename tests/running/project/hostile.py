"""Models that go wrong: each block of `build` in its own way, and only when it is recomputed."""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

WIDTH = 16
MESSAGE = json.dumps({"kind": "done"})

Model = tuple[nn.Module, tuple[torch.Tensor]]


def behave() -> None:
    """Do nothing wrong."""


def talk() -> None:
    """Say what a worker says to its runner, everywhere but on the descriptor that is for it, and await an answer."""
    print(MESSAGE)
    sys.stderr.write(f"{MESSAGE}\n")
    os.write(1, f"{MESSAGE}\n".encode())
    with suppress(EOFError):
        input()


def allocate() -> None:
    """Allocate without end."""
    limit_memory(2**28)
    kept = []
    while True:
        kept.append(torch.ones(2**22))


def sleep() -> None:
    """Never come back."""
    time.sleep(1e6)


def kill() -> None:
    """Die as by the kernel's hand, and leave a child behind."""
    leave_a_child()
    os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    """Say so, and wait as long as there is a file `closed` beside this one."""
    gate = Path(__file__).with_name("closed")
    if gate.exists():
        print("at the gate", flush=True)
        leave_a_child()
    while gate.exists():
        time.sleep(0.01)


DEEDS = (behave, talk, wait, allocate, sleep, kill)


def leave_a_child() -> None:
    """Fork a process that never ends and, as any does, holds every descriptor open."""
    if os.fork() == 0:
        time.sleep(1e6)


def limit_memory(further_bytes: int) -> None:
    """Let this process map so much more than it does now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + further_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Block(nn.Module):
    """A block that does its deed in its second call of a step, which is its recomputation."""

    def __init__(self, deed: Callable[[], None]) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.deed = deed
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            self.deed()
        return torch.tanh(self.linear(x))


class Overwriting(nn.Module):
    """A block that writes into its input: fine in a plain step, an error in a checkpointed region."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2.0).square()


class Hostile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(deed) for deed in DEEDS))
        self.overwriting = Overwriting()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            assert isinstance(block, Block)
            block.calls = 0
        return self.overwriting(self.blocks(x) + x)


def build() -> Model:
    return Hostile(), (torch.randn(4, WIDTH),)


def quits() -> Model:
    """End the process before there is a model."""
    os._exit(0)


def not_a_number() -> tuple[nn.Module, tuple[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """A loss that is none."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH)), (torch.randn(4, WIDTH),), lambda output: output.sum() * torch.nan


class Hoard(torch.autograd.Function):
    """Keep a large tensor for backward; as nobody writes to it, it takes address space and no memory."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, kept_bytes: int) -> torch.Tensor:
        ctx.save_for_backward(torch.empty(kept_bytes, dtype=torch.uint8))
        return x.clone()

    @staticmethod
    def backward(_: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class Hoarder(nn.Module):
    def __init__(self, kept_bytes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.kept_bytes = kept_bytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Hoard.apply(self.linear(x), self.kept_bytes)  # type: ignore[no-untyped-call]


def hoards() -> Model:
    """A plain step of 4 GiB where 2 are allowed; with every block checkpointed it needs half of one."""
    limit_memory(2 * 2**30)
    blocks = nn.Sequential(*(nn.Sequential(Hoarder(2**29)) for _ in range(8)))
    return blocks, (torch.randn(4, WIDTH),)
