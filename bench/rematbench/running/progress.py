"""What a person sees while a suite runs: a live bar on a terminal, one line a row elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rematbench.records.measurement import Environment, Measurement
from rematbench.records.statistics import step_median_s
from rematbench.running.protocol import Began
from rematbench.suite.suite import Device, Job
from rematbench.units import format_bytes, format_seconds


class SilentWatcher:
    """Shows nothing."""

    def probed(self, device: Device, environment: Environment, meter: str) -> None:
        """A device answered."""

    def began(self, job: Job, began: Began) -> None:
        """A worker turned to a placement."""

    def row(self, measurement: Measurement) -> None:
        """A row is there."""


class ProgressWatcher:
    """Shows a run. A row counts twice, once measured and once timed, so that the estimate follows the work.

    Args:
        console: where to; everything goes to standard error, so that `--json` has standard output to itself.
        rows: how many there will be.
        timed: whether they will be timed.
    """

    def __init__(self, console: Console, rows: int, timed: bool) -> None:
        self._console = console
        self._parts = 2 if timed else 1
        self._total = rows * self._parts
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self._total)
        self._parts_done: dict[tuple[str, ...], int] = {}

    def __enter__(self) -> ProgressWatcher:
        self._bar.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._bar.stop()

    def probed(self, device: Device, environment: Environment, meter: str) -> None:
        """Print the device and how its meter did."""
        threads = f", {environment.threads} threads" if device.capacity_bytes is None else ""
        capacity = f", {format_bytes(device.capacity_bytes)}" if device.capacity_bytes is not None else ""
        self._print(f"{device.name}: {environment.device_name}{threads}{capacity}, torch {environment.torch}")
        self._print(f"{device.name}: {meter}")

    def began(self, job: Job, began: Began) -> None:
        """Move the bar's words to what is being done."""
        self._bar.update(
            self._task, description=" · ".join(filter(None, (job.model.name, began.placement, began.stage)))
        )

    def row(self, measurement: Measurement) -> None:
        """Count a row, and write its line once it is complete."""
        complete = self._parts == 1 or measurement.timing is not None or not measurement.status.is_ok
        known = self._parts_done.get(measurement.key) == self._parts
        self._parts_done[measurement.key] = self._parts if complete else 1
        self._bar.update(self._task, completed=sum(self._parts_done.values()))
        if complete and not (known and measurement.status.is_ok) and not self._console.is_terminal:
            done = sum(parts == self._parts for parts in self._parts_done.values())
            self._print(f"[{done}/{self._total // self._parts}] {_line(measurement)}")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def _line(measurement: Measurement) -> str:
    peak = f"peak {format_bytes(measurement.memory.peak_bytes)}" if measurement.memory else ""
    step = f"step {format_seconds(step_median_s(measurement.timing))}" if measurement.timing else ""
    failed = f"{measurement.status}: {measurement.message}" if not measurement.status.is_ok else ""
    return " · ".join(filter(None, (measurement.model, measurement.placement, peak, step, failed)))
