"""Every reader over a hostile run, under a trace of its system calls: what Python does not tell of is seen here too."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands.test_hostile_runs import READERS, SHELL, hostile

from rematbench.records.store import RECORDS

__all__ = ["hostile"]

STRACE = shutil.which("strace")

ALL = r"""
import json, os, sys
from rematbench.cli import main
import rematbench
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["rematbench", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, 1, 3, None), (arguments, end.code)
for run in ("run", "run.csv"):
    rematbench.Run(run).dataframe()
"""

MORE = (
    ("show", "run", "--latex", "o.show.tex"),
    ("show", "run.csv"),
    ("compare", "run.csv", "run"),
    ("report", "run", "run.csv", "--out", "o.two.html"),
    ("check", "run.csv", "--against", "run"),
    ("baseline", "update", "ok.csv", "base.csv"),
)
NAMED = {name for _, _, written in READERS.values() for name in written} | {
    "o.base.csv",
    "o.show.tex",
    "o.two.html",
    "base.csv",
    "summary.md",
}

WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND|O_TMPFILE")
OPENS = ("open", "openat", "openat2")
READS = frozenset(
    "stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd chdir statfs".split()
)
ENDS = ("exit", "exit_group", "wait4", "waitid", "set_tid_address", "arch_prctl", "kill", "tgkill", "tkill")


def traced(folder: Path, *command: str, **variables: str) -> list[tuple[str, str]]:
    """Run a command under strace and return its calls: name and arguments, processes, network and files alone."""
    log = folder.parent / f"{folder.name}.strace"
    # Not --seccomp-bpf, which would be faster: it is newer than some of what is installed.
    trace = [str(STRACE), "-f", "-q", "-s", "4096", "-e", "trace=process,network,file", "-o", str(log)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    done = subprocess.run(
        [*trace, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    if "ptrace" in done.stderr and not log.read_text():
        pytest.skip("this machine lets no process be traced")
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    calls = [re.match(r"(?:\d+ +)?(?:<\.\.\. (?=\w+ resumed))?(\w+)(?: resumed>|\()(.*)", line) for line in lines]
    return [(call[1], call[2]) for call in calls if call]


def breaches(calls: list[tuple[str, str]], named: set[str]) -> list[str]:
    """Return the calls that start a process, connect, or write what was not named; the first is the command's own."""
    assert calls[0][0] == "execve"
    found = []
    for name, arguments in calls[1:]:
        if (name in READS and name != "execve") or name in ENDS:
            continue
        if name in ("clone", "clone3") and ("CLONE_THREAD" in arguments or "resumed" in arguments or "=>" in arguments):
            continue
        if name in OPENS and not WRITES.search(arguments):
            continue
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)
        if name in OPENS or name.startswith(("rename", "unlink", "chmod", "fchmodat")):
            files = [Path(path) for path in paths]
            if files and all(file == Path("/dev/null") or is_named(file, named) for file in files):
                continue
        found.append(f"{name}({arguments}")
    return found


def is_named(file: Path, named: set[str]) -> bool:
    """Tell whether a path is one of the names, or the temporary file that is renamed to it, in this folder."""
    temporary = re.fullmatch(r"\.rematbench\.[0-9a-f]{16}", file.name)
    return (file.name in named or bool(named and temporary)) and len(file.parts) == 1


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_readers_start_no_process_connect_nowhere_and_write_what_was_named(hostile: Path) -> None:
    rows = (hostile / "run" / "results.csv").read_text().splitlines(keepends=True)
    (hostile / "run.csv").write_text("".join(rows))
    (hostile / "ok.csv").write_text("".join(row for row in rows if ",out_of_memory," not in row))
    (hostile / "o.html").symlink_to("victim")
    (hostile / "victim").write_text("as it was")
    readers = [list(arguments) for _, arguments, _ in READERS.values() if arguments[0] not in ("run", "baseline")]
    updates = [["baseline", "update", "ok.csv", "o.base.csv"]]
    commands = [*readers, *updates, *map(list, MORE)]
    before = {path.name for path in hostile.rglob("*")}
    calls = traced(
        hostile, sys.executable, "-P", "-c", ALL, json.dumps(commands), GITHUB_STEP_SUMMARY="summary.md", SHELL=SHELL
    )
    assert breaches(calls, NAMED) == []
    assert {path.name for path in hostile.rglob("*")} - before <= NAMED
    assert (hostile / "victim").read_text() == "as it was"
    assert (hostile / "run" / RECORDS).exists()
    written = {name for name in NAMED if any(f"{name}" in arguments for call, arguments in calls if "rename" in call)}
    assert {"o.md", "o.html", "o.csv", "o.tex", "o.xml", "o.json"} <= written


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("deed", "call"),
    [
        ("os.system('true')", "execve"),
        ("os.fork() or os._exit(0)", "clone"),
        ("socket.socket().connect_ex(('127.0.0.1', 9))", "connect"),
        ("open('unnamed', 'w')", "openat"),
        ("os.rename('evil.py', 'o.md')", "rename"),
        ("os.symlink('a', 'o.md')", "symlink"),
    ],
)
def test_the_trace_sees_what_is_forbidden(deed: str, call: str, tmp_path: Path) -> None:
    """The check above would be worth nothing if it saw nothing."""
    (tmp_path / "evil.py").touch()
    found = breaches(traced(tmp_path, sys.executable, "-S", "-c", f"import os, socket\n{deed}"), NAMED)
    assert any(breach.startswith(call) for breach in found), found
