"""A machine on which every worker is a stand-in that says at once what a real one would say."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from rematbench.placement.placement import PLAIN
from rematbench.record import Record
from rematbench.records.measurement import Environment, Equality, Measurement, Memory, Status, Timing
from rematbench.records.store import Store, read_measurements
from rematbench.running import runner
from rematbench.running.protocol import (
    MESSAGE,
    ORDER,
    Began,
    Built,
    Done,
    Ended,
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
SAME = Equality(
    gradients="bitwise",
    gradients_max_abs_diff=0.0,
    gradients_worst="",
    loss="equal",
    buffers="equal",
    buffer="",
    rng_state="equal",
)


def row(model: str, placement: str, device: str = "cpu", dtype: str = "float32") -> Measurement:
    memory = Memory(
        meter="m", static_bytes=1, peak_bytes=1, held_bytes=1, phase_peak_bytes={"forward": 1}, passes_peak_bytes=(1, 1)
    )
    return Measurement(
        suite="s",
        model=model,
        placement=placement,
        device=device,
        dtype=dtype,
        status=Status.OK,
        memory=memory,
        equality=SAME,
        environment=ENVIRONMENT,
        measured_at="2026-01-01T00:00:00+00:00",
    )


@dataclass
class Machine:
    """Stands in for `Worker`; remembers what was ordered, and with which variables.

    What it says goes through the protocol, as it does on the pipe, and is what a real worker says to the same order:
    `test_machine` holds it to one.

    Attributes:
        fates: by placement, or by model and placement; what has none does well.
        unbuildable: models that fail before there is anything to place.
        dtype: of every model, as the worker finds it.
    """

    fates: Mapping[Any, Fate] = field(default_factory=dict)
    unbuildable: tuple[str, ...] = ()
    probe_fails: bool = False
    dtype: str = "float32"
    orders: list[Any] = field(default_factory=list)
    variables: list[Mapping[str, str] | None] = field(default_factory=list)

    def __call__(
        self, order: Any, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Any]:
        assert timeout_s == 300.0
        assert log.name == "output.log"
        self.orders.append(order)
        self.variables.append(environment)
        return nullcontext(SimpleNamespace(messages=lambda: self.answer(order)))

    @property
    def jobs(self) -> list[JobOrder]:
        return [order for order in self.orders if isinstance(order, JobOrder)]

    def fate(self, job: Job, placement: str) -> Fate:
        return self.fates.get((job.model.name, placement), self.fates.get(placement, "ok"))

    def answer(self, order: Any) -> Iterator[Any]:
        """Yield what comes off the pipe, up to the first failure."""
        for message in self._said(ORDER.validate_json(order.model_dump_json())):
            yield MESSAGE.validate_json(message.model_dump_json())
            if isinstance(message, Failed):
                return
        yield Done()

    def _said(self, order: Any) -> Iterator[Record]:
        if isinstance(order, ProbeOrder):
            return self._probed(order)
        return self._resident(order) if isinstance(order, ResidentOrder) else self._job(order)

    def _probed(self, order: ProbeOrder) -> Iterator[Record]:
        if self.probe_fails:
            yield Failed(placement="", status=Status.KILLED, message="starting: killed")
        yield Probed(device=Device(name=order.device), environment=ENVIRONMENT, meter="seen")

    def _resident(self, order: ResidentOrder) -> Iterator[Record]:
        yield Began(placement="", stage="building")
        yield Ended()
        yield Began(placement=order.placement, stage="resident")
        if self.fate(order.job, order.placement) == "resident":
            yield Failed(placement=order.placement, status=Status.KILLED, message="resident: killed")
        yield Resident(placement=order.placement, resident_bytes=7)
        yield Ended()

    def _job(self, order: JobOrder) -> Iterator[Record]:
        job = order.job
        fates = {case.name: self.fate(job, case.name) for case in job.cases}
        yield Began(placement="", stage="building")
        if job.model.name in self.unbuildable:
            yield Failed(placement="", status=Status.KILLED, message="building: killed")
        yield Built(dtype=job.settings.dtype or self.dtype)
        yield Ended()
        if order.plain:
            yield Began(placement=PLAIN, stage="plain step")
            if fates[PLAIN] == "measuring":
                yield Failed(placement=PLAIN, status=Status.OUT_OF_MEMORY, message="plain step: too large")
            yield Ended()
        for name in order.measure:
            yield Began(placement=name, stage="measuring")
            if fates[name] == "measuring":
                yield Failed(placement=name, status=Status.ERROR, message="measuring: went wrong")
            measured = row(job.model.name, name, job.device, job.settings.dtype or self.dtype)
            if not order.plain:
                measured = measured.model_copy(update={"equality": None})
            if fates[name] == "not a number":
                measured = measured.model_copy(update={"status": Status.ERROR, "message": "the loss is nan: no times"})
            yield Measured(measurement=measured)
            yield Ended()
        # What an earlier worker measured has a loss that is a number: it would not be timed otherwise.
        lost = {name for name in order.measure if fates[name] == "not a number"}
        finite = [name for name in order.time if name not in lost]
        for name in dict.fromkeys([PLAIN, *finite] if order.plain and finite else finite):
            yield Began(placement=name, stage="timing")
            if fates[name] == "timing":
                yield Failed(placement=name, status=Status.TIMEOUT, message="timing: too long")
            yield Ended()
        for name in finite:
            yield Timed(placement=name, timing=Timing(step_s=(1.0,), plain_s=(1.0,) if order.plain else ()))


def is_whole(row: Measurement) -> bool:
    """Tell whether there is nothing left to do for a row that is to be timed: it is compared, and so are its times."""
    return bool(row.status is Status.OK and row.equality and row.timing and row.timing.plain_s)


class Silent:
    """Watches nothing."""

    def probed(self, device: Device, environment: Environment, meter: str) -> None: ...

    def began(self, job: Job, began: Began) -> None: ...

    def row(self, measurement: Measurement) -> None: ...


def suite(*models: str, **settings: Any) -> Suite:
    return Suite.model_validate(
        {"name": "s", "models": models or ("m",), "placements": NAMES, "settings": {"devices": ["cpu"], **settings}}
    )


def run(
    worker: Callable[..., Any], chosen: Suite, store: Store, root: Path = Path("/root")
) -> dict[tuple[str, str], Measurement]:
    """Run a suite with something in a worker's place; rows by model and placement, read back from the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Worker", worker)
        run_suite(chosen, store, root, Silent())
    return {(row.model, row.placement): row for row in read_measurements(store.folder)}
