"""A machine on which every worker is a stand-in that says at once what a real one would say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from rematbench.placement.placement import PLAIN
from rematbench.records.measurement import Environment, Measurement, Memory, Status, Timing
from rematbench.records.store import Store, read_measurements
from rematbench.running import runner
from rematbench.running.protocol import (
    Began,
    Done,
    Failed,
    JobOrder,
    Measured,
    Probed,
    ProbeOrder,
    Resident,
    ResidentOrder,
    Timed,
)
from rematbench.running.runner import run_suite
from rematbench.suite.suite import Device, Job, Suite

Fate = Literal["ok", "measuring", "timing", "not a number", "resident"]
"""A placement does well, or fails at that stage, or has a loss that is no number."""

ENVIRONMENT = Environment(torch="2.13", python="3.11", device_name="a", threads=2, allocator="", commit="")
NAMES = ("each", "each-but-last", "all", "sqrt")


def row(model: str, placement: str, device: str = "cpu", status: Status = Status.OK) -> Measurement:
    memory = Memory(
        meter="m", static_bytes=1, peak_bytes=1, held_bytes=1, phase_peak_bytes={"forward": 1}, passes_peak_bytes=(1, 1)
    )
    return Measurement(
        suite="s",
        model=model,
        placement=placement,
        device=device,
        dtype="float32",
        status=status,
        memory=memory,
        environment=ENVIRONMENT,
        measured_at="2026-01-01T00:00:00+00:00",
    )


@dataclass
class Machine:
    """Stands in for every worker; remembers what was ordered, and with which variables.

    Attributes:
        fates: by placement, or by model and placement; what has none does well.
        unbuildable: models that fail before there is anything to place.
    """

    fates: Mapping[Any, Fate] = field(default_factory=dict)
    unbuildable: tuple[str, ...] = ()
    probe_fails: bool = False
    orders: list[Any] = field(default_factory=list)
    variables: list[Mapping[str, str] | None] = field(default_factory=list)

    def __call__(
        self, order: Any, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> "StandIn":
        assert timeout_s == 300.0
        assert log.name == "output.log"
        self.orders.append(order)
        self.variables.append(environment)
        return StandIn(self, order)

    @property
    def jobs(self) -> list[JobOrder]:
        return [order for order in self.orders if isinstance(order, JobOrder)]

    def fate(self, job: Job, placement: str) -> Fate:
        return self.fates.get((job.model.name, placement), self.fates.get(placement, "ok"))


class StandIn:
    """A worker that says at once what the real one would say."""

    def __init__(self, machine: Machine, order: Any) -> None:
        self._machine = machine
        self._order = order

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def messages(self) -> Iterator[Any]:
        for message in self._all():
            yield message
            if isinstance(message, Failed):
                return
        yield Done()

    def _all(self) -> Iterator[Any]:
        if isinstance(self._order, ProbeOrder):
            yield self._probed(self._order)
        elif isinstance(self._order, ResidentOrder):
            yield from self._resident(self._order)
        else:
            yield from self._job(self._order)

    def _probed(self, order: ProbeOrder) -> Probed | Failed:
        if self._machine.probe_fails:
            return Failed(placement="", status=Status.KILLED, message="starting: killed")
        return Probed(device=Device(name=order.device), environment=ENVIRONMENT, meter="seen")

    def _resident(self, order: ResidentOrder) -> Iterator[Any]:
        yield Began(placement=order.placement, stage="resident")
        if self._machine.fate(order.job, order.placement) == "resident":
            yield Failed(placement=order.placement, status=Status.KILLED, message="resident: killed")
        else:
            yield Resident(placement=order.placement, resident_bytes=7)

    def _job(self, order: JobOrder) -> Iterator[Any]:
        job = order.job
        if job.model.name in self._machine.unbuildable:
            yield Failed(placement="", status=Status.KILLED, message="building: killed")
        if order.plain and self._machine.fate(job, PLAIN) == "measuring":
            yield Failed(placement=PLAIN, status=Status.OUT_OF_MEMORY, message="plain step: too large")
        for name in order.measure:
            yield Began(placement=name, stage="measuring")
            yield self._measured(job, name)
        finite = [name for name in order.time if self._machine.fate(job, name) != "not a number"]
        for name in dict.fromkeys([PLAIN, *finite] if order.plain and finite else finite):
            yield Began(placement=name, stage="timing")
            if self._machine.fate(job, name) == "timing":
                yield Failed(placement=name, status=Status.TIMEOUT, message="timing: too long")
        for name in finite:
            yield Timed(placement=name, timing=Timing(step_s=(1.0,), plain_s=(1.0,) if order.plain else ()))

    def _measured(self, job: Job, name: str) -> Measured | Failed:
        fate = self._machine.fate(job, name)
        if fate == "measuring":
            return Failed(placement=name, status=Status.ERROR, message="measuring: went wrong")
        status = Status.ERROR if fate == "not a number" else Status.OK
        return Measured(measurement=row(job.model.name, name, job.device, status))


class Silent:
    """Watches nothing."""

    def probed(self, device: Device, environment: Environment, meter: str) -> None: ...

    def began(self, job: Job, began: Began) -> None: ...

    def row(self, measurement: Measurement) -> None: ...


def suite(*models: str, **settings: Any) -> Suite:
    return Suite.model_validate(
        {"name": "s", "models": models or ("m",), "placements": NAMES, "settings": {"devices": ["cpu"], **settings}}
    )


def run(machine: Machine, chosen: Suite, store: Store) -> dict[tuple[str, str], Measurement]:
    """Run a suite on a machine; rows by model and placement, read back from the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Worker", machine)
        run_suite(chosen, store, Path("/root"), Silent())
    return {(row.model, row.placement): row for row in read_measurements(store.folder)}
