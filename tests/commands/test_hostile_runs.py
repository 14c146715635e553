"""A run from somebody else is data: no reader executes what it names, connects to anywhere or writes elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.records.making import equality
from tests.reporting.samples import case, stored, toy

from rematbench.placement.placement import Placement, Region

WATCHED = """
import os, sys

EXECUTED = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}
CONNECTED = {"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "urllib.Request"}
CHANGED = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def watch(event, arguments):
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return
        event, arguments = "write", (path,)
    elif event == "import" and "evil" in str(arguments[0]):
        event = "executed"
    elif event in EXECUTED:
        event = "executed"
    elif event in CONNECTED:
        event = "connected"
    elif event in CHANGED:
        event, arguments = "write", arguments[:2] if event == "os.rename" else arguments[:1]
    else:
        return
    for argument in arguments:
        os.write(log, f"{event} {argument!r}\\n".encode())

sys.addaudithook(watch)
"""
"""Writes down every process, connection and write of this interpreter."""

COMMAND = "from rematbench.cli import main; main()"
FRAME = "import rematbench, sys; rematbench.Run(sys.argv[1]).dataframe()"

SHELL = "os:system?command=touch owned"
EVIL_FILE = "from pathlib import Path\nPath('owned').touch()\n\n\ndef build(*_, **__):\n    Path('owned').touch()\n"
EVIL_SUITE = f"""
models = [{{ model = "{SHELL}", name = "toy" }}, "evil.py:build", "evil:build"]
placements = ["evil.py:build", "each+save=evil.py:build"]
"""

READERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "compare": (COMMAND, ("compare", "run", "--markdown", "o.md", "--csv", "o.csv"), ("o.md", "o.csv")),
    "compare two": (COMMAND, ("compare", "run", "run", "--json", "o.json", "--latex", "o.tex"), ("o.json", "o.tex")),
    "check": (COMMAND, ("check", "run", "--against", "base.csv", "--junit-xml", "o.xml"), ("o.xml",)),
    "check by a run": (COMMAND, ("check", "base.csv", "--against", "run"), ()),
    "show": (COMMAND, ("show", "run"), ()),
    "report": (COMMAND, ("report", "run", "--out", "o.html"), ("o.html",)),
    "baseline update": (COMMAND, ("baseline", "update", "run", "o.csv"), ("o.csv",)),
    "a data frame": (FRAME, ("run",), ()),
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a run that names commands and modules wherever a name can stand, and a lower baseline of it."""
    (tmp_path / "evil.py").write_text(EVIL_FILE)
    regions = Placement(name=SHELL, regions=(Region(path="blocks[0]", save="evil.py:build"),))
    names = ("none", "evil.py:build", "evil:build", "each+save=evil.py:build", SHELL)
    cases = [case(name, 8, 1.2, "blocks[0]", regions=regions, model=SHELL) for name in names]
    better = [case(name, 4, 1.2, "blocks[0]", regions=regions, model=SHELL) for name in names]
    folder = stored(tmp_path / "run", [*cases, *toy(model="evil.py:build", equality=equality())])
    (folder / "suite.toml").write_text(EVIL_SUITE)
    (folder / "environment.json").write_text(json.dumps({"evil.py:build": SHELL}))
    base = stored(tmp_path / "base", [*better, *toy(model="evil.py:build", equality=equality())])
    (tmp_path / "base.csv").write_bytes((base / "results.csv").read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("records", ["records", "csv"])
def test_no_reader_executes_what_a_run_names(name: str, records: str, hostile: Path) -> None:
    script, arguments, written = READERS[name]
    if records == "csv":
        (hostile / "run" / "measurements.jsonl").unlink()
    if script == COMMAND and arguments[0] == "baseline":  # takes no run with a row that failed
        rows = (hostile / "run" / "results.csv").read_text().splitlines(keepends=True)
        (hostile / "run" / "results.csv").write_text("".join(row for row in rows if ",out_of_memory," not in row))
        (hostile / "run" / "measurements.jsonl").unlink(missing_ok=True)
    before = {path for path in hostile.rglob("*") if path.is_file()}
    log = hostile.parent / f"{hostile.name}.log"
    command = [sys.executable, "-c", f"{WATCHED}\ndel sys.argv[1]\n{script}", str(log), *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "GITHUB_STEP_SUMMARY"}
    done = subprocess.run(
        command,
        cwd=hostile,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1, 3), done.stderr
    assert "Traceback" not in done.stderr
    events = log.read_text().splitlines()
    for event in events:
        kind, _, what = event.partition(" ")
        assert kind == "write", event
        path = Path(what.strip("'").removeprefix("PosixPath('").removesuffix("')").strip("'"))
        temporary = re.fullmatch(r"\.rematbench\.[0-9a-f]{16}", path.name)
        named = path.name in written or (written and temporary)
        assert (named and path.parent in (Path(), hostile)) or path == Path("/dev/null"), event
    after = {path for path in hostile.rglob("*") if path.is_file()}
    assert after - before == {hostile / name for name in written}
    assert bool(written) == bool(events)


def test_the_watch_sees_what_a_suite_executes(hostile: Path) -> None:
    """The check above would be worth nothing if it saw nothing."""
    log = hostile / "log"
    script = f"{WATCHED}\nimport evil, os\nos.system('true')\nopen('written', 'w')"
    subprocess.run([sys.executable, "-c", script, str(log)], cwd=hostile, check=True)
    kinds = {line.partition(" ")[0] for line in log.read_text().splitlines()}
    assert kinds == {"executed", "write"}
    assert (hostile / "owned").exists()
