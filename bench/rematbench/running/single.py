"""Measure aside: a suite, or one model under one placement and its plain step, with nothing kept on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rematbench.errors import RematbenchError, SuiteError, unknown
from rematbench.placement.placement import PLAIN, first_problem
from rematbench.record import Record
from rematbench.records.columns import Cells
from rematbench.records.diagnosis import Diagnosis
from rematbench.records.inspection import Inspection
from rematbench.records.measurement import Memory
from rematbench.records.run import Key, Row, Run, key_of, rows_of
from rematbench.records.store import Store
from rematbench.running.malloc import keeping
from rematbench.running.process import Worker
from rematbench.running.progress import SilentWatcher
from rematbench.running.protocol import Diagnosed, Failed, Inspected, InspectOrder, WhyOrder
from rematbench.running.runner import LOG, probe, run_suite
from rematbench.suite.suite import Job, Suite

_Answer = TypeVar("_Answer", bound=Record)
_SHOWN_LINES = 20


class CaseFailedError(RematbenchError):
    """A case that ran and failed: out of memory, an error of the model's own, out of time, killed."""


@dataclass(frozen=True, kw_only=True, repr=False)
class MeasuredCase:
    """One placement of one model, measured; every column of `results.csv` is an attribute, None where it is absent.

    Attributes:
        definition: the one model and placement, with the settings they were measured in.
        cells: the row.
        memory: its bytes, phase by phase.
        plain: the row of the plain step, measured along with it.
    """

    definition: Suite
    cells: Cells
    memory: Memory
    plain: Cells

    def __getattr__(self, column: str) -> Any:
        cells = vars(self).get("cells", {})
        if column not in cells:
            raise AttributeError(unknown("column", column, cells))
        return cells[column]

    def __repr__(self) -> str:
        return f"<{self.title}: peak {self.memory.peak_bytes:,} bytes>"

    @property
    def title(self) -> str:
        """How findings name the case."""
        return f"{self.cells['model']} · {self.cells['placement']}"

    @property
    def key(self) -> Key:
        """What identifies the row in a baseline."""
        return key_of(self.cells)

    @property
    def run(self) -> Run:
        """The case as a run of one row."""
        return Run(Path(), [Row(cells=self.cells)])


def single_suite(model: str, placement: str, settings: Mapping[str, Any], name: str | None = None) -> Suite:
    """Return the suite of one model under one placement and `none`.

    Args:
        name: how rows call the model; its text if None.

    Raises:
        SuiteError: the placement or a setting is not valid.
    """
    entry = {"model": model} | ({"name": name} if name else {})
    data = {"name": "single", "settings": dict(settings), "placements": [placement], "models": [entry]}
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise SuiteError(f"{model}: {first_problem(error)}") from error


def measure_single(suite: Suite, root: Path) -> MeasuredCase:
    """Measure a suite of `single_suite`, the model found from a root folder.

    Raises:
        CaseFailedError: it ran and failed; the sentence is followed by the last lines of the worker's output.
        RematbenchError: a usage error: no such model, no such device.
    """
    suite.check_models(root)
    with run_aside(suite, root) as store:
        return _case(suite, store)


def inspect_single(suite: Suite, root: Path) -> Inspection:
    """Take the plain step of a suite's one model apart, on its first device.

    Raises:
        CaseFailedError: it failed; the sentence is followed by the last lines of the worker's output.
        RematbenchError: a usage error.
    """
    return _asked(suite, root, lambda job: InspectOrder(job=job), Inspected).inspection


def why_single(suite: Suite, root: Path, accumulate: int = 1) -> Diagnosis:
    """Say why a suite's one model takes its memory under the last of its placements, on its first device.

    Raises:
        CaseFailedError, RematbenchError: as for `inspect_single`.
    """
    placement = suite.placements[-1].name
    return _asked(
        suite, root, lambda job: WhyOrder(job=job, placement=placement, accumulate=accumulate), Diagnosed
    ).diagnosis


def _asked(suite: Suite, root: Path, order: Callable[[Job], InspectOrder | WhyOrder], answer: type[_Answer]) -> _Answer:
    """Have a worker carry out one order about a suite's one model, and return its answer."""
    suite.check_models(root)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.begin(Path(folder), suite.to_toml())
        device = probe(suite.settings.devices[0], suite.settings, store, SilentWatcher())
        [job] = suite.jobs(root, [device])
        log = store.folder / LOG
        with Worker(order(job), log, suite.settings.timeout_s, keeping()) as worker:
            for message in worker.messages():
                if isinstance(message, answer):
                    return message
                if isinstance(message, Failed):
                    raise CaseFailedError("\n".join([f"{job.model.name}: {message.message}", *_output(log)]))
    raise AssertionError("a worker's messages end with Failed or Done")


@contextmanager
def run_aside(suite: Suite, root: Path) -> Iterator[Store]:
    """Run a suite without a word, in a folder that is there for the length of a `with` block.

    Raises:
        RematbenchError: as `run_suite` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Store.begin(Path(folder), suite.to_toml())
        run_suite(suite, store, root, SilentWatcher())
        yield store


def _case(suite: Suite, store: Store) -> MeasuredCase:
    rows = {row.name: row for row in rows_of(store.measurements)}
    row, plain = rows[suite.placements[-1].name], rows[PLAIN]
    memory = row.measurement.memory if row.measurement else None
    if not row.is_ok or memory is None:
        sentence = "{model} · {placement} is {status}: {message}".format(**row.cells)
        raise CaseFailedError("\n".join([sentence, *_output(store.folder / LOG)]))
    return MeasuredCase(definition=suite, cells=row.cells, memory=memory, plain=plain.cells)


def _output(log: Path) -> list[str]:
    """Return the last lines of what the workers printed, a heading above them; nothing if they printed nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
    return [f"{log.name} ends with:", *lines] if lines else []
