"""How the commands grow: CPU seconds, and bytes of what they write, by the size of what they are given.

    python benchmarks/growth.py [KIND …] [--limit SECONDS]

Runs are made up, models are small and real, and each command is run as people run it, so that its start (some 1 to 4
seconds of imports) is in every number. What takes longer than the limit is ended, and its cell says so.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from tests.records.making import MIB, memory  # noqa: E402
from tests.reporting.samples import case  # noqa: E402

from rematbench.records.measurement import Measurement, Structure, Timing  # noqa: E402
from rematbench.traces.timeline import Share, Timeline  # noqa: E402

POINTS = 241
"""As many as the longest timeline that a meter hands out."""

Command = tuple[list[str], Path | None]
"""What is run, and what it writes."""

MODEL = """
from torch import nn, ones, randn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())

def build(depth, width=16):
    return nn.Sequential(*(Block(width) for _ in range(depth))), (randn(256, width),)
"""

APPLY = """
import sys
from torch import nn, ones
from rematbench import applied
from rematbench.placement.placement import Placement, Region
kind, count = sys.argv[1], int(sys.argv[2])
model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(count)))
paths = [f"[{at}]" if kind == "flat" else f"[{at}:{count}]" for at in range(count)]
try:
    with applied(model, Placement(name="many", regions=tuple(Region(path=path) for path in paths))):
        model(ones(1, 2)).sum().backward()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {str(error)[:200]}")
"""


def row(at: int, models: int, blocks: int) -> Measurement:
    """Return a full row with a timeline as long as they come; every fifth one is on the frontier or near it."""
    random = Random(at)
    model, place = at % models, at // models
    name = f"placement-{place}" if place else "none"
    start = random.randrange(blocks)
    paths = [f"blocks[{start}:{start + 1 + random.randrange(blocks - start)}]"] if place else []
    # Up to two thirds saved, for a ratio that grows with it; most rows lie somewhere above that curve.
    saved = random.random() * 2 / 3
    ratio = 1 + saved / 2 + (0 if place % 5 else random.random() / 5)
    made = case(name, 300 - int(300 * saved) if place else 300, ratio if place else 1.0, *paths, model=f"m{model}")
    assert made.memory is not None
    names = tuple(f"blocks.{block}" for block in range(blocks))
    peak = made.memory.peak_bytes
    live = tuple(int(peak * random.random()) for _ in range(POINTS - 1))
    times = tuple(round((point + random.random()) / 1e4, 8) for point in range(POINTS))
    phases = {"forward": (0.0, times[POINTS // 2]), "backward": (times[POINTS // 2], times[-1])}
    step_s = tuple(0.01 * ratio * (1 + random.random() / 50) for _ in range(9))
    changes = {
        "timeline": Timeline.model_validate({"time_s": times, "live_bytes": (*live, peak), "phases": phases}),
        "timing": Timing(step_s=step_s, plain_s=tuple(0.01 * (1 + random.random() / 50) for _ in range(9))),
        "structure": Structure(blocks=names) if not place else None,
        "memory": memory(
            peak,
            held=peak // 2,
            static_bytes=3 * MIB,
            at_peak=tuple(Share(kind="kept", block=block, bytes=peak // blocks) for block in names),
            held_by_block=dict.fromkeys(names, peak // 2 // blocks),
        ),
    }
    return made.model_copy(update=changes)


def each_of(blocks: int) -> Iterator[Measurement]:
    """Return a plain step and one row of a region a block."""
    names = tuple(f"blocks.{block}" for block in range(blocks))
    usual = {
        "memory": memory(
            300 * MIB,
            held=150 * MIB,
            at_peak=tuple(Share(kind="kept", block=block, bytes=MIB) for block in names),
            held_by_block=dict.fromkeys(names, MIB),
        )
    }
    yield case("none", 300, 1.0, **usual).model_copy(update={"structure": Structure(blocks=names)})
    yield case("each", 100, 1.3, *(f"blocks[{block}]" for block in range(blocks)), **usual)


def written(folder: Path, rows: Iterable[Measurement]) -> Path:
    """Write records as a run does, all at once."""
    folder.mkdir(parents=True)
    with (folder / "measurements.jsonl").open("w") as file:
        file.writelines(f"{one.model_dump_json(exclude_none=True)}\n" for one in rows)
    return folder


def run_of(folder: Path, count: int, models: int = 1) -> str:
    return str(written(folder / "run", (row(at, models, 12) for at in range(count))))


def ours(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rematbench", *arguments]


def _report(folder: Path, run: str) -> Command:
    return ours("report", run, "--out", str(folder / "report.html")), folder / "report.html"


def _model(folder: Path, depth: int) -> str:
    (folder / "deep.py").write_text(MODEL)
    return f"deep.py:build?depth={depth}"


def _plan(folder: Path, depth: int) -> Command:
    return ours("plan", _model(folder, depth), "--budget", "60%", "--of", "step", "--set", "rounds=0"), None


def _apply(kind: str) -> Callable[[Path, int], Command]:
    return lambda _folder, count: ([sys.executable, "-c", APPLY, kind, str(count)], None)


def _compare(folder: Path, count: int) -> Command:
    other = written(folder / "other", (row(at, 1, 12) for at in range(count)))
    return ours("compare", run_of(folder, count), str(other), "--markdown", str(folder / "out.md")), folder / "out.md"


KINDS: dict[str, tuple[str, tuple[int, ...], Callable[[Path, int], Command]]] = {
    "report-rows": (
        "`report`, rows of one model",
        (500, 1000, 2000, 5000),
        lambda folder, count: _report(folder, run_of(folder, count)),
    ),
    "report-models": (
        "`report`, rows of models with 25 each",
        (500, 1000, 2000, 5000),
        lambda folder, count: _report(folder, run_of(folder, count, models=count // 25)),
    ),
    "report-blocks": (
        "`report`, blocks under `each`",
        (100, 200, 500, 2000),
        lambda folder, count: _report(folder, str(written(folder / "run", each_of(count)))),
    ),
    "show": (
        "`show`, rows of one model",
        (500, 1000, 2000, 5000),
        lambda folder, count: (ours("show", run_of(folder, count)), None),
    ),
    "compare": ("`compare` two runs, rows of one model", (500, 1000, 2000, 5000), _compare),
    "compare-one": (
        "`compare` one run, rows of one model",
        (500, 1000, 2000, 5000),
        lambda folder, count: (ours("compare", run_of(folder, count)), None),
    ),
    "check": (
        "`check`, rows of one model",
        (500, 1000, 2000, 5000),
        lambda folder, count: (ours("check", run := run_of(folder, count), "--against", run), None),
    ),
    "plan": ("`plan`, blocks", (25, 50, 100, 200), _plan),
    "inspect": (
        "`inspect`, blocks",
        (250, 500, 1000, 2000),
        lambda folder, depth: (ours("inspect", _model(folder, depth), "--saved"), None),
    ),
    "run": (
        "`run` of `none` and `each`, blocks",
        (250, 500, 1000, 2000),
        lambda folder, depth: (
            ours("run", "--model", _model(folder, depth), "--placement", "each", "--rounds", "0", "--out", "run"),
            None,
        ),
    ),
    "apply-flat": ("a step under regions side by side", (500, 1000, 2000, 5000), _apply("flat")),
    "apply-nested": ("a step under regions inside each other", (50, 100, 1000, 9999), _apply("nested")),
}


def measured(command: list[str], folder: Path, limit_s: float) -> tuple[float, str]:
    """Run a command and return its CPU seconds with those of its workers, and what it said where it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    paths = os.pathsep.join([str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with (folder / "said").open("wb") as said:
        started = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = started.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            return limit_s, f"not done in {limit_s:.0f} s"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (folder / "said").read_text(errors="replace").strip().splitlines()
    failed = (lines[-1] if lines else f"exit {code}")[:120] if code else ""
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a command is ended")
    asked = parser.parse_args()
    unknown = [kind for kind in asked.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(KINDS)}")
    print("| what | size | CPU s | writes |\n|---|---:|---:|---:|")
    for kind in asked.kinds or KINDS:
        title, sizes, command_of = KINDS[kind]
        for size in sizes:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                command, out = command_of(folder, size)
                seconds, failed = measured(command, folder, asked.limit)
                size_mb = f"{out.stat().st_size / 1e6:.2f} MB" if out and out.exists() else ""
                text = failed if failed.startswith("not done") else f"{seconds:.1f}{f' ({failed})' if failed else ''}"
                print(f"| {title} | {size:,} | {text} | {size_mb} |", flush=True)
            if failed.startswith("not done"):
                break


if __name__ == "__main__":
    main()
