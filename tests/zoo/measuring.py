"""One network measured in this process: plain, by hand, by its own library, and planned; written down as it is known.

`python -m tests.zoo` starts a process for each network. What is in its file when it is ended, at its limit of time or
of memory, is kept.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tests.zoo.catalogue import NETWORKS
from tests.zoo.network import Network

from rematbench.errors import RematbenchError
from rematbench.loading import user_imports
from rematbench.measuring.session import Session
from rematbench.placement.goal import Goal
from rematbench.placement.placement import Placement
from rematbench.planner.planner import Planned, Planner
from rematbench.records.measurement import Equality
from rematbench.suite.case import Case
from rematbench.suite.model_ref import ModelRef
from rematbench.units import format_bytes
from rematbench.workload.building import build, static_bytes

BY_HAND = ("each", "each-but-last", "sqrt", "segments:2", "nested:2")
"""What people place by hand."""

PLANS = {"least": "frontier:1/2", "plan60": "plan-flops:60%/step"}
"""By the columns' prefix: the least peak a plan reaches, and the plan at 60 % of the plain step's peak.

Of the fewest FLOPs, which no noise touches: the table is the same each time.
"""

ROOT = Path(__file__).parents[2]
_CPU = torch.device("cpu")
_TIMED = 3


class Found:
    """What is known so far, in a file that is whole at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.cells: dict[str, Any] = {}

    def add(self, **cells: Any) -> None:
        self.cells |= cells
        waiting = self._file.with_suffix(".part")
        waiting.write_text(json.dumps(self.cells))
        waiting.replace(self._file)


class _Planning:
    """What strategies that measure ask of, as a worker answers them; keeps what was planned and how long it took."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.planned: dict[str, Planned] = {}
        self.seconds: dict[str, float] = {}

    @cached_property
    def _planner(self) -> Planner:
        return Planner(self._session, _CPU)

    def plan(self, goal: Goal) -> Placement:
        start = time.perf_counter()
        try:
            planned = self.planned[goal.name] = self._planner.plan(goal)
        finally:
            self.seconds[goal.name] = time.perf_counter() - start
        return planned.placement

    def plan_by_ckptplan(self, goal: Goal) -> Placement:
        return self._planner.plan_by_ckptplan(goal)


def measure(network: Network, found: Found, *, quick: bool) -> None:
    """Measure all there is to know of a network; `quick` leaves the plans out."""
    session = _session(network)
    gc.freeze()  # as a worker does: a collection before each pass need not look at what libraries left behind
    found.add(
        static_bytes=static_bytes(session.workload),
        plain_peak_bytes=session.plain_peak_bytes,
        plain_step_s=min(session.timed_step(Placement(name="none")) for _ in range(_TIMED)),
        unsteady=session.measure(Placement(name="none")).unsteadiness,
    )
    for name in BY_HAND:
        found.add(**_by_hand(session, name))
    if network.own_call:
        found.add(**_own(network))
    if quick:
        return
    planning = _Planning(session)
    for prefix, text in PLANS.items():
        found.add(**_planned(session, planning, prefix, text))
        found.add(plan_s=sum(planning.seconds.values()))


def _session(network: Network, **arguments: Any) -> Session:
    ref = ModelRef.parse(network.reference, ROOT, network.name, **arguments)
    session = Session(build(ref, _CPU, seed=0), _CPU)
    session.keep_plain()
    return session


def _by_hand(session: Session, name: str) -> dict[str, Any]:
    def measured() -> dict[str, Any]:
        placement = Case.model_validate(name).resolve(session.outline)
        reading = session.measure(placement)
        return {f"{name}_peak_bytes": reading.memory.peak_bytes, f"{name}_verdict": _verdict(reading.equality)}

    return _or_sentence(f"{name}_message", measured)


def _own(network: Network) -> dict[str, Any]:
    return _or_sentence(
        "own_message", lambda: {"own_peak_bytes": _session(network, own_checkpoints=True).plain_peak_bytes}
    )


def _planned(session: Session, planning: _Planning, prefix: str, text: str) -> dict[str, Any]:
    def measured() -> dict[str, Any]:
        placement = Case.model_validate(text).resolve(session.outline, planning)
        reading, facts = session.measure(placement), planning.planned[text].facts
        return {
            f"{prefix}_peak_bytes": reading.memory.peak_bytes,
            f"{prefix}_predicted_bytes": facts.predicted_peak_bytes,
            f"{prefix}_verdict": _verdict(reading.equality),
            f"{prefix}_regions": str(placement),
            f"{prefix}_tries": facts.tries,
        }

    return _or_sentence(f"{prefix}_message", measured)


def _or_sentence(column: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what is measured, or the sentence that users get in its place; an error of no kind of ours has its name.

    This process goes on where a worker would end: another one would take as long again to import and build.
    """
    try:
        return measured()
    except Exception as error:
        traceback.print_exc()
        text = " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())[:600]
        return {column: text if isinstance(error, RematbenchError) else f"{type(error).__name__}: {text}"}


def _verdict(equality: Equality | None) -> str:
    """`bitwise` where gradients, loss, buffers and random state are; else what is not."""
    if equality is None or equality.gradients is None:
        return "not judged"
    others = {"loss": equality.loss, "buffers": equality.buffers, "random state": equality.rng_state}
    return ", ".join([equality.gradients, *(f"{name} differ" for name, same in others.items() if same == "different")])


def carry_out(name: str, file: Path, log: Path, memory_gib: float, quick: bool) -> None:
    """Measure a network in this process, which does nothing else, and say in the end how it went."""
    limit = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with log.open("w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    torch.set_num_threads(1)
    network, found, start = NETWORKS[name], Found(file), time.perf_counter()
    try:
        with user_imports(ROOT, network.reference):
            measure(network, found, quick=quick)
        how = {"status": "ok"}
    except Exception as error:
        traceback.print_exc()
        out_of_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        why = f"more than {format_bytes(limit)} asked for" if out_of_memory else f"{type(error).__name__}: {error}"
        how = {"status": "error", "message": " ".join(why.split())[:600]}
    found.add(seconds=time.perf_counter() - start, **how)
