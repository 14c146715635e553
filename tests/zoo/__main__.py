"""Measure the zoo, each network in a process of its own, and write the table: `python -m tests.zoo`.

Networks that were measured at this commit are not measured again, unless asked with `--again`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.zoo.catalogue import NETWORKS
from tests.zoo.measuring import ROOT, carry_out
from tests.zoo.network import Network
from tests.zoo.results import COLUMNS, Row, read, write
from tests.zoo.table import causes, markdown, summary

PAGE = ROOT / "docs" / "zoo.md"


def main() -> int:
    """Exit with 0 when every network ran, 1 when the plain step of some did not, 130 after Ctrl-C."""
    arguments = _arguments()
    chosen = _chosen(arguments.only or ["*"])
    if arguments.list:
        print(*(f"{each.name:36} {'; '.join(each.kinds)}" for each in chosen), sep="\n")
        return 0
    file = arguments.out / "zoo.csv"
    rows = read(file)
    commit = _commit()
    limits = Limits(seconds=arguments.timeout, memory_gib=arguments.memory_gib)
    _preload(chosen)
    try:
        for network in chosen if not arguments.table else ():
            if arguments.again or not is_known(rows.get(network.name), commit, arguments.quick):
                rows[network.name] = _measured(network, commit, arguments.out, limits, quick=arguments.quick)
                write(file, [rows[name] for name in NETWORKS if name in rows])
                print(_said(rows[network.name]), flush=True)
    except KeyboardInterrupt:
        print(f"interrupted: {len(rows)} rows are in {file}; the same command goes on", file=sys.stderr)
        return 130
    shown = [rows[network.name] for network in chosen if network.name in rows]
    _tell(shown)
    if arguments.page and not arguments.only and not arguments.quick:
        arguments.page.write_text(markdown(shown))
    return int(any(row["plain_peak_bytes"] is None for row in shown))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="networks by name or pattern: 'timm.*'")
    parser.add_argument("--quick", action="store_true", help="leave the plans out")
    parser.add_argument("--again", action="store_true", help="measure what was measured at this commit too")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the table anew")
    parser.add_argument("--list", action="store_true", help="list the networks and what they stand for")
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="seconds for one network")
    parser.add_argument("--memory-gib", type=float, default=8.0, metavar="GIB", help="address space of one network")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "zoo", help="folder of zoo.csv and the logs")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes, when every network is asked for")
    return parser.parse_args()


def _chosen(patterns: Sequence[str]) -> list[Network]:
    """Return the networks that match; libraries take turns, so that a run that is ended early has some of each."""
    chosen = [each for name, each in NETWORKS.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not chosen:
        raise SystemExit(f"no network is called {' or '.join(patterns)}: --list says which there are")
    libraries: dict[str, list[Network]] = {}
    for each in chosen:
        libraries.setdefault(each.library, []).append(each)
    return sorted(chosen, key=lambda each: libraries[each.library].index(each))


def is_known(row: Row | None, commit: str, quick: bool) -> bool:
    if row is None or row["commit"] != commit or commit.endswith("+") or row["status"] == "not installed":
        return False
    return quick or row["plan_s"] is not None or row["status"] != "ok"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "bench", "tests/zoo")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one network may take; `memory_gib` is of its address space."""

    seconds: float
    memory_gib: float


def _measured(network: Network, commit: str, folder: Path, limits: Limits, *, quick: bool) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"network": network.name, "library": network.library, "kinds": "; ".join(network.kinds), "commit": commit}
    row |= {"own": network.own_call, "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    if network.missing:
        row |= {"status": "not installed", "message": f"{network.missing} is not installed"}
    else:
        row |= in_a_process(network, folder, limits, quick=quick)
    return {name: value if value != "" else None for name, value in row.items()}


def in_a_process(network: Network, folder: Path, limits: Limits, *, quick: bool) -> dict[str, Any]:
    """Return the cells that a process of its own finds, however it ends; what it prints goes to `logs/` in a folder.

    The process is forked from one that has imported the libraries and run nothing: importing takes longer than most
    networks do.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "found.json"
        given = (network.name, file, logs / f"{network.name}.log", limits.memory_gib, quick)
        process = _SERVER.Process(target=carry_out, args=given)
        process.start()
        process.join(limits.seconds)
        if process.is_alive():
            process.kill()
            process.join()
            ended = {"status": "timeout", "message": f"not done after {limits.seconds:g} s"}
        else:
            ended = {"status": "killed", "message": f"the process ended with {process.exitcode}"}
        found = json.loads(file.read_text()) if file.exists() else {}
    # A process that reached its end has said how it went by itself.
    return found if "status" in found else {**found, **ended}


_SERVER = multiprocessing.get_context("forkserver")


def _preload(networks: Sequence[Network]) -> None:
    """Say what the server of processes imports before it forks any; what is missing it passes over."""
    libraries = {each.library for each in networks if not each.missing}
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    wanted = [module for library in sorted(libraries) for module in _HEAVY.get(library, ())]
    _SERVER.set_forkserver_preload(["tests.zoo.measuring", "tests.zoo.declared", "torch._dynamo", *wanted])


_HEAVY = {
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "transformers": ("transformers.models.llama.modeling_llama",),
    "diffusers": ("diffusers.models.unets.unet_2d_condition",),
    "peft": ("transformers.models.llama.modeling_llama", "peft"),
    "torch_geometric": ("torch_geometric.nn",),
}


def _said(row: Row) -> str:
    peaks = " ".join(f"{row[f'{name}_peak_bytes'] or 0:>12,}" for name in ("plain", "least", "plan60"))
    why = row["message"] or row["least_message"] or row["plan60_message"] or ""
    return f"{row['network']:34}{row['status']:8}{peaks} {row['seconds'] or 0:6.1f} s  {why[:150]}"


def _tell(rows: Sequence[Row]) -> None:
    print()
    print(*(f"{what:58} {found:18} {wanted}" for what, found, wanted in summary(rows)), sep="\n")
    for cause, failed in causes(rows):
        networks = list(dict.fromkeys(network for network, _, _ in failed))
        print(f"\n{len(networks)}: {cause}\n    {' '.join(networks)}\n    {failed[0][1]}: {failed[0][2][:300]}")


if __name__ == "__main__":
    sys.exit(main())
