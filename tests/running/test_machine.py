"""The stand-in for workers is held to the real one: the same suite through both ends in the same orders and rows.

The real worker runs in this process, on a model that fails where its fate says so.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.running.machine import NAMES, Fate, Machine, run, suite

from rematbench.placement.placement import PLAIN
from rematbench.record import Record
from rematbench.records.measurement import Measurement
from rematbench.records.store import Store
from rematbench.running.protocol import MESSAGE, Began, Done, JobOrder, ResidentOrder
from rematbench.running.staging import Stopped
from rematbench.running.worker import carry_out

NET = """
import os
import torch
from torch import nn

STAGES = {"plain step": "measuring"}

class Net(nn.Sequential):
    def forward(self, x):
        placement, stage = os.environ["REMAT_AT"].split("/")
        fate = {**FATES}.get(placement, "ok")
        if fate == STAGES.get(stage, stage):
            raise RuntimeError(f"fails when {stage}")
        return super().forward(x) * (torch.nan if (fate, stage) == ("not a number", "measuring") else 1.0)

def build():
    if FATES.get("") == "building":
        raise RuntimeError("cannot be built")
    return Net(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))), (torch.randn(2, 4),)
"""

CASES: dict[str, dict[str, str]] = {
    "all well": {},
    "one fails": {"each-but-last": "measuring"},
    "the plain step and one more fail": {PLAIN: "measuring", "sqrt": "measuring"},
    "the plain step fails when timed": {PLAIN: "timing"},
    "one fails, another when timed": {"each": "measuring", "all": "timing"},
    "a loss is no number, and another fails": {"all": "not a number", "sqrt": "measuring"},
    "the plain loss is no number": {PLAIN: "not a number"},
    "no loss is a number": dict.fromkeys((PLAIN, *NAMES), "not a number"),
    "the model cannot be built": {"": "building"},
    "one fails when its resident set is measured": {"each": "resident"},
}


class InThisProcess:
    """A real worker's answers, from this process; what it has done by then is in an environment variable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.orders: list[Any] = []
        self._monkeypatch = monkeypatch

    def __call__(
        self, order: Any, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Any]:
        assert (log.name, timeout_s) == ("output.log", 300.0)
        assert environment is not None
        self.orders.append(order)
        return nullcontext(SimpleNamespace(messages=lambda: iter(self._answer(order))))

    def _answer(self, order: Any) -> list[Any]:
        said: list[Any] = []

        def say(message: Record) -> None:
            said.append(MESSAGE.validate_json(message.model_dump_json()))
            if isinstance(message, Began):
                self._monkeypatch.setenv("REMAT_AT", f"{message.placement}/{message.stage}")

        try:
            carry_out(order, say)
            say(Done())
        except Stopped:
            pass
        finally:
            gc.unfreeze()  # a worker tells the collector to leave alone what is there; this process goes on
        return said


@pytest.mark.parametrize("name", CASES)
def test_the_same_suite_ends_in_the_same_orders_and_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = CASES[name]
    (tmp_path / "net.py").write_text(f"FATES = {fates!r}\n{NET}")
    chosen = suite("net.py:build", rounds=1, resident=True)
    real = InThisProcess(monkeypatch)
    known: Mapping[Any, Fate] = {key: fate for key, fate in fates.items() if fate != "building"}  # type: ignore[misc]
    machine = Machine(fates=known, unbuildable=("net.py:build",) if "" in fates else ())
    by_real = run(real, chosen, Store.begin(tmp_path / "real", ""), tmp_path)
    by_machine = run(machine, chosen, Store.begin(tmp_path / "machine", ""), tmp_path)
    assert [*described(real.orders)] == [*described(machine.orders)]
    assert [seen(row) for row in by_real.values()] == [seen(row) for row in by_machine.values()]


def described(orders: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Return what tells an order from another of its job."""
    for order in orders:
        if isinstance(order, JobOrder):
            yield order.measure, order.time, order.plain
        elif isinstance(order, ResidentOrder):
            yield "resident", order.placement
        else:
            yield (order.kind,)


def seen(row: Measurement) -> tuple[Any, ...]:
    """Return what the runner makes of a row: whether it is well, at which stage it failed, and which parts it has."""
    parts = (row.memory, row.timing, row.resident_bytes, row.environment)
    paired = row.timing is not None and bool(row.timing.plain_s)
    stage = row.message.partition(":")[0] if row.status != "ok" and row.timing is None else ""
    return (row.placement, row.status == "ok", stage, paired, *(part is not None for part in parts))
