"""What a person sees while a suite runs."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from rematbench.records.measurement import Environment, Measurement, Memory, Status, Timing
from rematbench.running.progress import ProgressWatcher
from rematbench.running.protocol import Began
from rematbench.suite.suite import Device, Suite

JOB = Suite.model_validate({"name": "s", "models": ["net.py:build[red]"]}).jobs(Path("/root"), [Device(name="cpu")])[0]
ENVIRONMENT = Environment(torch="2.13", python="3.11", device_name="Abacus", threads=2, allocator="", commit="")
MEMORY = Memory(
    meter="m",
    static_bytes=1,
    peak_bytes=3 * 2**20,
    held_bytes=1,
    phase_peak_bytes={"forward": 1},
    passes_peak_bytes=(1,),
)
TIMING = Timing(step_s=(0.5, 0.25, 0.75), plain_s=())


def row(placement: str, status: Status = Status.OK, message: str = "", timing: Timing | None = None) -> Measurement:
    return Measurement(
        suite="s",
        model="net.py:build[red]",
        placement=placement,
        device="cpu",
        dtype="float32",
        status=status,
        message=message,
        memory=MEMORY if status is Status.OK else None,
        timing=timing,
        measured_at="2026-01-01T00:00:00+00:00",
    )


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, soft_wrap=True, color_system=None)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_without_a_terminal_a_row_is_a_line_once_it_is_complete() -> None:
    target = console(terminal=False)
    with ProgressWatcher(target, 3, timed=True) as watcher:
        watcher.began(JOB, Began(placement="none", stage="measuring"))
        watcher.row(row("none"))
        watcher.row(row("each"))
        assert written(target) == ""
        watcher.row(row("all", Status.ERROR, "it [went] wrong"))
        watcher.row(row("none", timing=TIMING))
        watcher.row(row("each", timing=TIMING))
    assert written(target).splitlines() == [
        "[1/3] net.py:build[red] · all · error: it [went] wrong",
        "[2/3] net.py:build[red] · none · peak 3 MiB · step 500 ms",
        "[3/3] net.py:build[red] · each · peak 3 MiB · step 500 ms",
    ]


def test_a_row_that_grows_is_not_written_again_unless_it_fails() -> None:
    target = console(terminal=False)
    with ProgressWatcher(target, 1, timed=True) as watcher:
        complete = row("none", timing=TIMING)
        watcher.row(complete)
        watcher.row(complete.model_copy(update={"resident_bytes": 7}))
        watcher.row(complete.model_copy(update={"status": Status.KILLED, "message": "resident: gone"}))
    assert [line.split(" · ")[-1] for line in written(target).splitlines()] == ["step 500 ms", "killed: resident: gone"]


def test_what_is_not_timed_is_complete_once_measured() -> None:
    target = console(terminal=False)
    with ProgressWatcher(target, 2, timed=False) as watcher:
        watcher.row(row("none"))
    assert written(target) == "[1/2] net.py:build[red] · none · peak 3 MiB\n"


def test_on_a_terminal_there_is_a_bar_and_it_is_gone_in_the_end() -> None:
    target = console(terminal=True)
    with ProgressWatcher(target, 2, timed=True) as watcher:
        watcher.row(row("none", timing=TIMING))
        watcher.began(JOB, Began(placement="each", stage="timing"))
    text = written(target)
    assert re.search(r"net\.py:build\[red\] · each · timing +[━╸╺]+ +2/4 .* left", text)
    assert "[1/2]" not in text
    assert text.endswith("\x1b[2K")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("device", "facts"),
    [
        (Device(name="cpu"), "cpu: Abacus, 2 threads, torch 2.13"),
        (Device(name="cuda:0", capacity_bytes=2**37), "cuda:0: Abacus, 128 GiB, torch 2.13"),
    ],
)
def test_a_device_is_named_with_how_its_meter_did(terminal: bool, device: Device, facts: str) -> None:
    target = console(terminal)
    with ProgressWatcher(target, 1, timed=True) as watcher:
        watcher.probed(device, ENVIRONMENT, "meter: 64 MiB asked, 64 MiB seen")
    assert facts in written(target)
    assert f"{device.name}: meter: 64 MiB asked, 64 MiB seen" in written(target)
