"""`rematbench check`: hold a run to a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.compare import append_to_step_summary
from rematbench.commands.measuring import interruptible
from rematbench.errors import RematbenchError, StorageError
from rematbench.records.gate import Finding, Margins, Mark, exit_code, judge
from rematbench.records.run import CannotJudgeError, Key, Row, Run
from rematbench.records.store import write_whole
from rematbench.reporting.adapters import junit, smaller_is_better
from rematbench.reporting.sheet import escaped
from rematbench.running.single import run_aside
from rematbench.suite.suite import Suite, load_suite
from rematbench.units import parse_percent


def check(
    run: Annotated[Path, typer.Argument(help="The run to judge: its folder or its CSV.")],
    against: Annotated[Path, typer.Option(help="The baseline: a CSV, or a run's folder.")],
    memory: Annotated[str, typer.Option(help="How much a peak may grow.")] = "0%",
    flops: Annotated[str, typer.Option(help="How much the recomputed FLOPs may grow.")] = "0%",
    time: Annotated[str, typer.Option(help="The band of the ratio to `none`; off does not judge time.")] = "off",
    allow: Annotated[list[str] | None, typer.Option(help="A row's own memory margin, model/placement=5%.")] = None,
    strict_wins: Annotated[bool, typer.Option("--strict-wins", help="Fail when a row got better, too.")] = False,
    retry: Annotated[bool, typer.Option(help="Measure regressed rows once more before failing.")] = True,
    benchmark_json: Annotated[Path | None, typer.Option(help="Write what github-action-benchmark takes.")] = None,
    junit_xml: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
) -> None:
    """Judge peak bytes, recomputed FLOPs, gradients and buffers against a baseline; time only on request.

    Exits with 0 fine, 1 regression, 2 usage, 3 cannot judge, 4 gradients or buffers changed.
    """
    margins = Margins(
        memory=parse_percent(memory),
        flops=parse_percent(flops),
        time=None if time == "off" else parse_percent(time),
        allow=dict(_allowed(entry) for entry in allow or ()),
    )
    baseline = _baseline(against)
    measured = Run(run)
    findings = judge(measured, baseline, margins)
    if retry and any(finding.mark is Mark.REGRESSION for finding in findings):
        measured, findings = _retried(measured, baseline, margins, findings)
    _report(measured, findings, benchmark_json, junit_xml)
    raise typer.Exit(exit_code(findings, strict_wins))


def _allowed(entry: str) -> tuple[str, float]:
    row, equals, share = entry.rpartition("=")
    if not equals:
        raise RematbenchError(f"--allow {entry}: write model/placement=5%")
    return row, parse_percent(share)


def _baseline(path: Path) -> Run:
    try:
        return Run(path)
    except StorageError as error:
        if not path.exists():
            hint = "`rematbench baseline update` makes one from a run"
            raise CannotJudgeError(f"there is no baseline {path}: {hint}") from error
        raise


def _retried(run: Run, baseline: Run, margins: Margins, findings: list[Finding]) -> tuple[Run, list[Finding]]:
    """Measure the models of regressed rows once more; a row counts as regressed if it is both times."""
    suite = run.source / "suite.toml"
    if not suite.exists():
        print("regressed rows are not measured again: this needs the run's folder, with its suite")
        return run, findings
    regressed = [finding.key for finding in findings if finding.mark is Mark.REGRESSION]
    models = {model for model, *_ in regressed}
    again = _measured_again(load_suite(str(suite)), models, timed=margins.time is not None)
    merged = Run(run.source, {**run.rows, **{key: again[key] for key in regressed if key in again}}.values())
    return merged, judge(merged, baseline, margins)


def _measured_again(suite: Suite, models: set[str], timed: bool) -> Mapping[Key, Row]:
    entries = tuple(entry for entry in suite.models if entry.name in models)
    settings = suite.settings if timed else suite.settings.model_copy(update={"rounds": 0})
    narrowed = suite.model_copy(update={"models": entries, "settings": settings})
    undecided = "regressed rows are not measured a second time; --no-retry judges them by the first"
    with interruptible(lambda: undecided), run_aside(narrowed, Path.cwd()) as store:
        return Run(store.folder).rows


def _report(run: Run, findings: list[Finding], benchmark_json: Path | None, junit_xml: Path | None) -> None:
    for finding in findings:
        print(finding)
    counts = ", ".join(f"{sum(finding.mark is mark for finding in findings)} {mark}" for mark in Mark)
    print(f"{len(run.rows)} rows: {counts if findings else 'all as in the baseline'}")
    if benchmark_json is not None:
        write_whole(benchmark_json, smaller_is_better(run))
    if junit_xml is not None:
        write_whole(junit_xml, junit(run, findings))
    append_to_step_summary(
        "".join(f"- {escaped(str(finding))}\n" for finding in findings) or "All rows as in the baseline.\n"
    )
