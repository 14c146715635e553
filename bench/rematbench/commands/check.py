"""`rematbench check`: hold a run to a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rematbench.commands.compare import append_to_step_summary
from rematbench.commands.console import say
from rematbench.commands.measuring import interruptible
from rematbench.errors import RematbenchError, StorageError
from rematbench.records.gate import Finding, Margins, Mark, exit_code, judge
from rematbench.records.run import CannotJudgeError, Key, Row, Run, rows_of
from rematbench.records.store import write_whole
from rematbench.reporting.adapters import junit, smaller_is_better
from rematbench.reporting.sheet import escaped
from rematbench.reporting.texts import one_line
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
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="SUITE", help="Measure regressed rows once more, by this suite: its name or a .toml path."
        ),
    ] = None,
    benchmark_json: Annotated[Path | None, typer.Option(help="Write what github-action-benchmark takes.")] = None,
    junit_xml: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
) -> None:
    """Judge peak and static bytes, recomputed FLOPs and training against a baseline; time only on request.

    Nothing that the run or the baseline names is executed: `--retry` measures, and by your own suite.

    Exits with 0 fine, 1 regression, 2 usage, 3 cannot judge, 4 training changed.
    """
    margins = Margins(
        memory=parse_percent(memory),
        flops=parse_percent(flops),
        time=None if time == "off" else parse_percent(time),
        allow=dict(_allowed(entry) for entry in allow or ()),
    )
    suite = load_suite(retry) if retry is not None else None
    baseline = _baseline(against)
    measured = Run(run)
    findings = judge(measured, baseline, margins)
    if suite is not None and any(finding.mark is Mark.REGRESSION for finding in findings):
        measured, findings = _retried(suite, measured, baseline, margins, findings)
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


def _retried(
    suite: Suite, run: Run, baseline: Run, margins: Margins, findings: list[Finding]
) -> tuple[Run, list[Finding]]:
    """Measure the models of regressed rows once more; a row counts as regressed if it is both times.

    The suite is the caller's: of the run only the names of its rows are used, to find them in it again. A row that the
    suite does not measure, or of other static bytes (another model, or other settings), stays as the run has it.
    """
    regressed = [finding.key for finding in findings if finding.mark is Mark.REGRESSION]
    again = _measured_again(suite, regressed, timed=margins.time is not None)
    alike = {
        key: again[key]
        for key in regressed
        if key in again and again[key].cells["static_bytes"] == run.rows[key].cells["static_bytes"]
    }
    for key in dict.fromkeys(regressed):
        if key not in alike:
            other = "has other static bytes by it: it is another model, or has other settings"
            why = other if key in again else f"is not measured again by the suite {suite.name}"
            say(one_line(f"{' · '.join(key)} {why}; the run's row counts"))
    merged = Run(run.source, {**run.rows, **alike}.values())
    return merged, judge(merged, baseline, margins)


def _measured_again(suite: Suite, keys: Sequence[Key], timed: bool) -> Mapping[Key, Row]:
    """Measure those of the suite's models that the keys are of, on the devices that they are of."""
    models, devices = ({key[place]: None for key in keys} for place in (0, 2))
    entries = tuple(entry for entry in suite.models if entry.name in models)
    if not entries:
        return {}
    rounds = suite.settings.rounds if timed else 0
    settings = suite.settings.model_copy(update={"devices": tuple(devices), "rounds": rounds})
    narrowed = suite.model_copy(update={"models": entries, "settings": settings})
    narrowed.check_models(Path.cwd())
    undecided = "regressed rows are not measured a second time; without --retry the first measurement decides"
    with interruptible(lambda: undecided), run_aside(narrowed, Path.cwd()) as store:
        return {row.key: row for row in rows_of(store.measurements)}


def _report(run: Run, findings: list[Finding], benchmark_json: Path | None, junit_xml: Path | None) -> None:
    for finding in findings:
        say(one_line(str(finding)))
    counts = ", ".join(f"{sum(finding.mark is mark for finding in findings)} {mark}" for mark in Mark)
    say(f"{len(run.rows)} rows: {counts if findings else 'all as in the baseline'}")
    if benchmark_json is not None:
        write_whole(benchmark_json, smaller_is_better(run))
    if junit_xml is not None:
        write_whole(junit_xml, junit(run, findings))
    append_to_step_summary(
        "".join(f"- {escaped(str(finding))}\n" for finding in findings) or "All rows as in the baseline.\n"
    )
