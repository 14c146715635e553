"""Run a suite: a worker process for each model on each device, a fresh one after every failure.

Nothing here imports torch. What the workers report goes to the store the moment it arrives.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rematbench.errors import DeviceError, StorageError
from rematbench.placement.placement import PLAIN
from rematbench.records.measurement import Environment, Measurement, Status
from rematbench.records.sources import changed_files
from rematbench.records.store import Store
from rematbench.running.malloc import GIVING_BACK, keeping
from rematbench.running.process import Worker
from rematbench.running.protocol import (
    Began,
    Built,
    Failed,
    JobOrder,
    Lost,
    Measured,
    Probed,
    ProbeOrder,
    Resident,
    ResidentOrder,
    Timed,
)
from rematbench.suite.suite import Device, Job, Settings, Suite

LOG = "output.log"

LIVES = 3
"""So many workers in a row may end without a row and without a placement to blame; then what is left is given up."""

NOT_COMPARED = "not compared with the plain step: "
"""How the message goes on of a row that is whole but for the comparison, whose worker ended while it was made."""

FINDINGS = (Status.ERROR, Status.OUT_OF_MEMORY)
"""What a worker says of a placement itself; the others are how it ended, which may have had another reason."""

DEFAULT_DTYPE = "float32"
"""What the row of a model that could not be built says, where no `dtype` was asked for: torch's default."""


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def probed(self, device: Device, environment: Environment, meter: str) -> None:
        """A device answered."""

    def began(self, job: Job, began: Began) -> None:
        """A worker turned to a placement."""

    def row(self, measurement: Measurement) -> None:
        """A row is there, or there in full."""


def run_suite(suite: Suite, store: Store, root: Path, watcher: Watcher) -> None:
    """Measure everything in the suite that the store does not have yet.

    Raises:
        RematbenchError: a device is not there, a model cannot be imported, the folder cannot be written, or its store
            comes from another environment or has rows of a model whose files are others by now. Finished rows stay.
    """
    devices = [probe(name, suite.settings, store, watcher) for name in suite.settings.devices]
    jobs = suite.jobs(root, devices)
    for job in jobs:  # before any is run: what cannot be finished is said at once
        if change := _JobRun(job, store, watcher).change():
            raise StorageError(f"{store.folder}: {job.model.name}: {change}")
    for job in jobs:
        _JobRun(job, store, watcher).run()


def probe(name: str, settings: Settings, store: Store, watcher: Watcher) -> Device:
    """Ask a device what it is, and test its meter.

    Raises:
        RematbenchError: it is not there, or its meter cannot be trusted.
    """
    order = ProbeOrder(device=name, threads=settings.threads)
    failed: Failed | None = None
    for _ in range(LIVES):
        with Worker(order, store.folder / LOG, settings.timeout_s, keeping()) as worker:
            for message in worker.messages():
                if isinstance(message, Probed):
                    store.keep_environment(message.device.name, message.environment)
                    watcher.probed(message.device, message.environment, message.meter)
                    return message.device
                if isinstance(message, Failed):
                    failed = message
        if not isinstance(failed, Lost):
            break
    assert failed is not None, "a worker's messages end with Failed or Done"
    raise DeviceError(f"device {name}: {_given_up(failed).message if isinstance(failed, Lost) else failed.message}")


def _given_up(failure: Failed) -> Failed:
    """Return the failure that the last of `LIVES` workers ended with, saying that it was not the first."""
    return failure.model_copy(update={"message": f"{failure.message}; {LIVES} workers in a row ended like this"})


def _remarks(row: Measurement) -> str:
    """Return what a row that is ok says of itself, without why it was not compared: that may be over."""
    return row.message.partition(NOT_COMPARED)[0].removesuffix("; ")


class _JobRun:
    """One job, over as many workers as it takes."""

    def __init__(self, job: Job, store: Store, watcher: Watcher) -> None:
        self._job = job
        self._store = store
        self._watcher = watcher
        self._log = store.folder / LOG
        self._rows = {row.placement: row for row in store.measurements if self._is_ours(row)}
        self._plain = True
        self._began = Began(placement="", stage="building")
        # Until a worker has built the model: what earlier rows say, or what is likely. A row's key has it.
        known = next((row.dtype for row in self._rows.values()), None)
        self._dtype = known or job.settings.dtype or DEFAULT_DTYPE
        unfinished = [case.name for case in job.cases if not self._finished(case.name)]
        self._measure = [name for name in unfinished if not self._measured(name)]
        self._time = unfinished if self._is_timed else []

    @property
    def _is_timed(self) -> bool:
        """Whether there are rounds; a step that is not run has none."""
        return self._job.settings.rounds != 0 and not self._job.at

    def run(self) -> None:
        """Measure and time until nothing is left to do."""
        self._measure_and_time()
        self._measure, self._time = self._not_compared()
        self._measure_and_time()
        self._measure_resident()

    def change(self) -> str:
        """Say which files of the model its rows are not of, where there is something left to do; empty where none.

        Rows of two versions of a model are never mixed. What is there may have taken hours, so it is not measured anew
        unasked either: it is left to the user, as with another version of torch.
        """
        if not (self._measure or self._time or any(self._not_compared()) or self._without_resident()):
            return ""
        names = {name: None for row in self._kept() for name in changed_files(row.sources or {}, self._job.model.root)}
        return f"its rows are of another {' and '.join(names)} than is there now: begin a new run" if names else ""

    def _kept(self) -> list[Measurement]:
        """Return the model's rows that are not to be measured, on other devices too."""
        return [
            row
            for row in self._store.measurements
            if row.model == self._job.model.name
            and row.status.is_ok
            and not (row.device == self._job.device and row.placement in self._measure)
        ]

    def _measure_and_time(self) -> None:
        """Start workers until nothing is left; every failure takes one placement out.

        A worker that ends with no placement to blame is followed by another, which goes on with what is left. Each row
        is progress, so this ends: without any, after `LIVES` workers.
        """
        lost = 0
        while self._measure or self._time:
            if change := self.change():
                self._take_out(Failed(placement="", status=Status.ERROR, message=change))
                return
            before = self._measure, self._time
            failure = self._one_worker()
            if failure is None:
                return
            if self._is_to_blame(failure):
                self._take_out(failure)
                lost = 0
                continue
            lost = lost + 1 if (self._measure, self._time) == before else 1
            if lost == LIVES:
                self._take_out(_given_up(failure).model_copy(update={"placement": ""}))

    def _is_to_blame(self, failure: Failed) -> bool:
        """Tell whether what failed was still to be done: the plain step is run along with the rest when it is not."""
        if isinstance(failure, Lost) or not failure.placement:
            return not isinstance(failure, Lost)
        return failure.placement in (self._time if self._began.stage == "timing" else self._measure)

    def _not_compared(self) -> tuple[list[str], list[str]]:
        """Return what an earlier run measured, and timed, without a plain step, where there is one by now."""
        plain = self._rows.get(PLAIN)
        if plain is None or not plain.status.is_ok or self._job.at:
            return [], []
        rows = [self._rows[case.name] for case in self._job.cases if self._measured(case.name)]
        measure = [row.placement for row in rows if row.equality is None]
        time = [row.placement for row in rows if row.equality is None or (row.timing and not row.timing.plain_s)]
        return measure, time if self._is_timed else []

    def _one_worker(self) -> Failed | None:
        order = JobOrder(job=self._job, measure=tuple(self._measure), time=tuple(self._time), plain=self._plain)
        with Worker(order, self._log, self._job.settings.timeout_s, keeping()) as worker:
            for message in worker.messages():
                if isinstance(message, Failed):
                    return message
                self._take(message)
        return None

    def _take(self, message: object) -> None:
        if isinstance(message, Began):
            self._began = message
            self._watcher.began(self._job, message)
        elif isinstance(message, Built):
            self._dtype = message.dtype
        elif isinstance(message, Measured):
            self._keep(self._with_earlier(message.measurement))
            self._measure = [other for other in self._measure if other != message.measurement.placement]
            if not message.measurement.status.is_ok:
                self._leave_out(message.measurement.placement)
        elif isinstance(message, Timed):
            remarks = _remarks(self._rows[message.placement])
            self._update(message.placement, timing=message.timing, message=remarks)
            self._leave_out(message.placement)
        elif isinstance(message, Resident):
            self._update(message.placement, resident_bytes=message.resident_bytes)

    def _with_earlier(self, row: Measurement) -> Measurement:
        """Return a row measured anew to be compared, with what else an earlier worker found until that is anew too.

        Whatever ends the run or its worker before then takes nothing from the row that it had.
        """
        earlier = self._rows.get(row.placement)
        if earlier is None or {earlier.status, row.status} != {Status.OK}:
            return row
        return row.model_copy(update={"timing": earlier.timing, "resident_bytes": earlier.resident_bytes})

    def _take_out(self, failure: Failed) -> None:
        """Keep the failure as a row and go on without that placement; without a model, without any.

        A row that was finished, and only was to be compared with a plain step that came later, stays: how the worker
        ended says nothing about it, and `--resume` tries again. What the worker found out by it, an error or that
        memory does not suffice, is the row's, as it would have been with the plain step there from the start.
        """
        left = [case.name for case in self._job.cases if case.name in {*self._measure, *self._time}]
        for name in [failure.placement] if failure.placement else left:
            if self._finished(name) and not (failure.placement and failure.status in FINDINGS):
                remarks = filter(None, (_remarks(self._rows[name]), f"{NOT_COMPARED}{failure.message}"))
                self._update(name, message="; ".join(remarks))
            else:
                self._fail(name, failure)
            self._leave_out(name)
            if name == PLAIN:
                self._plain = False

    def _leave_out(self, name: str) -> None:
        self._measure = [other for other in self._measure if other != name]
        self._time = [other for other in self._time if other != name]

    def _measure_resident(self) -> None:
        for name in self._without_resident():
            if change := self.change():
                self._fail(name, Failed(placement=name, status=Status.ERROR, message=change))
                continue
            failure = None
            for _ in range(LIVES):
                failure = self._one_resident(name)
                if not isinstance(failure, Lost):
                    break
            if failure is not None:
                self._fail(name, _given_up(failure) if isinstance(failure, Lost) else failure)

    def _without_resident(self) -> list[str]:
        if not self._job.settings.resident or self._job.at:
            return []
        return [name for name, row in self._rows.items() if row.status.is_ok and row.resident_bytes is None]

    def _one_resident(self, name: str) -> Failed | None:
        """Measure one resident set; what befalls a worker after its number is there is no failure."""
        order = ResidentOrder(job=self._job, placement=name)
        with Worker(order, self._log, self._job.settings.timeout_s, GIVING_BACK) as worker:
            for message in worker.messages():
                if isinstance(message, Failed):
                    return None if self._rows[name].resident_bytes is not None else message
                self._take(message)
        return None

    def _fail(self, name: str, failure: Failed) -> None:
        """Write a failed row; what was measured before the failure stays in it."""
        row = self._rows.get(name) or Measurement(
            suite=self._job.suite,
            model=self._job.model.name,
            placement=name,
            device=self._job.device,
            dtype=self._dtype,
            status=failure.status,
            environment=self._store.environments.get(self._job.device),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._keep(row.model_copy(update={"status": failure.status, "message": failure.message}))

    def _update(self, name: str, **values: object) -> None:
        self._keep(self._rows[name].model_copy(update=values))

    def _keep(self, row: Measurement) -> None:
        earlier = self._rows.get(row.placement)
        self._rows[row.placement] = row
        self._store.add(row)
        if earlier is not None and earlier.key != row.key:  # it guessed the dtype of a model that was never built
            self._store.drop(earlier)
        self._watcher.row(row)

    def _is_ours(self, row: Measurement) -> bool:
        return row.model == self._job.model.name and row.device == self._job.device

    def _measured(self, name: str) -> bool:
        row = self._rows.get(name)
        return row is not None and row.status.is_ok

    def _finished(self, name: str) -> bool:
        row = self._rows.get(name)
        timed = row is not None and (row.timing is not None or not self._is_timed)
        return self._measured(name) and timed
