"""What the fixture `remat` gives.

Nothing here imports torch: models are measured in worker processes, but for `remat.benchmark`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rematbench.errors import RematbenchError
from rematbench.pytest_plugin import CASES, MARKER, NOTES, fail
from rematbench.records.baseline import baseline_csv, with_row
from rematbench.records.gate import EXIT_CODES, Margins, judge
from rematbench.records.run import Key, Run
from rematbench.records.store import write_whole
from rematbench.running.single import MeasuredCase, measure_single, single_suite
from rematbench.suite.suite import Device, Suite
from rematbench.units import format_bytes, parse_bytes

BENCHMARK_ROUNDS = 20
JUDGED = ("static_bytes", "peak_bytes", "recompute_flops", "gradients", "loss", "buffers", "rng_state")
UPDATE = "pytest --remat-update"


@dataclass(frozen=True, kw_only=True)
class _Memo:
    """What a pytest session knows.

    Attributes:
        cases: measured, or why not, by their suite in JSON.
        checked: what was judged of each row, by key.
    """

    cases: dict[str, MeasuredCase | RematbenchError] = field(default_factory=dict)
    checked: dict[Key, tuple[Any, ...]] = field(default_factory=dict)


_MEMO = pytest.StashKey[_Memo]()


class Remat:
    """What the fixture `remat` gives: call it to measure, then `check` or `benchmark`."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._config = request.config
        self._root = request.config.rootpath
        self._memo = request.config.stash.setdefault(_MEMO, _Memo())
        self._notes = request.config.stash.setdefault(NOTES, [])

    def __call__(
        self, model: str, placement: str = "each", *, name: str | None = None, device: str = "cpu", **settings: Any
    ) -> MeasuredCase:
        """Measure a model under a placement in a worker process, once a session for the same arguments.

        Args:
            model: `file.py:build`, from pytest's rootdir, `package.module:build` or `family.network`; arguments behind
                it, as in `net.py:build?depth=24`.
            placement: a strategy, or the path of a placement file, from the rootdir.
            name: how the baseline calls the model; its text if None.
            device: `cpu`, `cuda` or `cuda:N`; not `auto`, as a limit then means another thing on each machine.
            settings: as in a suite; `rounds` is 0, so that the step's time is None, unless it is given.

        Raises:
            CaseFailedError: the case ran and failed; says how, and what the model printed.
            RematbenchError: there is no such model, placement, setting or device.
        """
        __tracebackhide__ = True
        if placement.endswith((".toml", ".json")):
            placement = str(self._root / placement)
        try:
            suite = single_suite(model, placement, {"rounds": 0, "devices": [device], **settings}, name)
            case = self._measured(suite)
        except RematbenchError as error:
            raise error.with_traceback(None) from None  # the sentence says it all
        self._request.node.stash.setdefault(CASES, []).append(case)
        return case

    def check(self, case: MeasuredCase) -> None:
        """Hold a case to its row of the baseline, or write the row under `--remat-update`; its margin stays.

        Peak, recomputed FLOPs, gradients and buffers are judged. Two processes must not update one baseline at once.
        """
        __tracebackhide__ = True
        self._refuse_twins(case)
        path = self._root / self._config.getini("remat_baseline")
        try:
            baseline = Run(path) if path.exists() else None
            if self._config.getoption("remat_update"):
                self._update(path, baseline, case)
            else:
                self._judge(path, baseline, case)
        except RematbenchError as error:
            fail(str(error))

    def benchmark(
        self, model: str, placement: str = "each", *, rounds: int = BENCHMARK_ROUNDS, **options: Any
    ) -> MeasuredCase:
        """Measure a case, and run its step as a benchmark of pytest-benchmark, in this process.

        The test takes the fixture `benchmark` as well, for `--benchmark-only` to know it by. Peak and held bytes and
        FLOPs stand in the benchmark's `extra_info`.

        Args:
            rounds: steps that are timed, after one that is not.
            options: as for `remat(...)`.

        Raises:
            RematbenchError: as for `remat(...)`, or pytest-benchmark is not there.
        """
        __tracebackhide__ = True
        if not self._config.pluginmanager.hasplugin("benchmark"):
            raise RematbenchError("remat.benchmark needs pytest-benchmark: pip install pytest-benchmark")
        benchmark = self._request.getfixturevalue("benchmark")
        case = self(model, placement, **options)
        for column in ("model", "placement", "peak_bytes", "held_bytes", "forward_flops", "recompute_flops"):
            benchmark.extra_info[column] = case.cells[column]
        self._step(case, benchmark, rounds)
        return case

    def _step(self, case: MeasuredCase, benchmark: Any, rounds: int) -> None:
        from rematbench.running.in_process import ready_step  # imports torch

        [job] = case.definition.jobs(self._root, [Device(name=case.cells["device"])])
        with ready_step(job) as step:
            benchmark.pedantic(step.run, setup=step.prepare, rounds=rounds)

    def _measured(self, suite: Suite) -> MeasuredCase:
        key = suite.model_dump_json()
        if key not in self._memo.cases:
            try:
                self._memo.cases[key] = measure_single(suite, self._root)
            except RematbenchError as error:
                self._memo.cases[key] = error
        known = self._memo.cases[key]
        if isinstance(known, RematbenchError):
            raise known
        return known

    def _refuse_twins(self, case: MeasuredCase) -> None:
        __tracebackhide__ = True
        judged = tuple(case.cells[column] for column in JUDGED)
        if self._memo.checked.setdefault(case.key, judged) != judged:
            fail(f"two cases that differ share the row {case.title}: tell them apart by remat(..., name='...')")

    def _update(self, path: Path, baseline: Run | None, case: MeasuredCase) -> None:
        write_whole(path, baseline_csv(with_row(baseline, case.run), baseline))
        self._notes.append(f"{case.title} written to {path.name}: peak {case.memory.peak_bytes:,} bytes")

    def _judge(self, path: Path, baseline: Run | None, case: MeasuredCase) -> None:
        __tracebackhide__ = True
        if baseline is None or case.key not in baseline.rows:
            fail(f"{case.title} has no row in {path.name}: `{UPDATE}` adds it, for you to commit")
        row = Run(path, [baseline.rows[case.key]])
        findings = judge(case.run, row, Margins())
        if bad := [str(finding) for finding in findings if finding.mark in EXIT_CODES]:
            fail("\n".join([*bad, f"if this is meant, `{UPDATE}` makes it the baseline"]))
        self._notes.extend(f"{finding}; `{UPDATE}` keeps it" for finding in findings)


def limit_of(marker: pytest.Mark) -> int:
    """Return the bytes that a marker allows; the test fails where it is written in another way."""
    if marker.args or set(marker.kwargs) != {"limit"}:
        fail(f'write @pytest.mark.{MARKER}(limit="1.2 GiB")')
    try:
        return parse_bytes(str(marker.kwargs["limit"]))
    except RematbenchError as error:
        fail(f"{MARKER}: {error}")


def over_limit(case: MeasuredCase, limit_bytes: int) -> str:
    """Say by how much a case is over the limit and what its peak is made of."""
    memory = case.memory
    parts = {
        "limit": limit_bytes,
        "peak": memory.peak_bytes,
        "held after forward": memory.held_bytes,
        "transient": memory.peak_bytes - memory.held_bytes,
        "static (not in the peak)": memory.static_bytes,
        "peak of `none`": case.plain["peak_bytes"],
    }
    over = memory.peak_bytes - limit_bytes
    head = f"{case.title} peaks {format_bytes(over)} ({over:,} bytes) over the limit, in {memory.peak_phase}:"
    return "\n".join([head, *(f"  {name:<25}{count:>18,} bytes" for name, count in parts.items() if count is not None)])
