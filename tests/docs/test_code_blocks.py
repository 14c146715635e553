"""Every code block and every command in the README and in `docs/` does what the page says.

The README runs first, with the installed command, in an empty folder. Each page then begins with what the README
leaves: `net.py`, the run in `run`, `plan.json` and `baseline.csv`.
"""

import re
import shutil
from pathlib import Path

import pytest
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, check_command, run_block, run_python, write_file

README, *DOCS = PAGES
LANGUAGES = {"python", "console", "toml", "yaml", "text"}

NOT_RUN = {
    ("README.md", "make bench"),
    ("getting-started.md", "pip install ./rematbench"),
    ("getting-started.md", "rematbench run --model net.py:build --rounds 5 --out run"),
    ("getting-started.md", "rematbench inspect net.py:build --depth 2"),
    ("planning.md", "rematbench plan net.py:build --budget 60% --set rounds=5 --out plan.json"),
    ("planning.md", "rematbench run peers --rounds 0"),
    ("planning.md", "rematbench run peers-time --rounds 31 --set threads=1"),
    ("planning.md", "rematbench run planners --rounds 5 --set threads=1"),
    ("planning.md", "python benchmarks/planning.py"),
    ("sizes.md", "rematbench plan net.py:build --at batch=8192 --budget 64MiB --out large.json"),
    ("ci.md", "pytest test_speed.py --benchmark-only"),
    ("ci.md", "git clone https://github.com/you/rematbench ../rematbench"),
    ("ci.md", "pip install ../rematbench"),
    ("ci.md", "rematbench run suite.toml --rounds 0 --out memory"),
    ("ci.md", "rematbench check memory --against memory.csv --junit-xml junit.xml"),
}
"""Commands that no test runs: they install, take minutes, or are a job's. Options and names are held all the same."""


def every_block() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


def commands_not_run() -> list[tuple[str, str]]:
    """Return the page and the text of each, without the comment behind it."""
    found: list[tuple[str, str]] = []
    for block in every_block():
        if block.not_run:
            lines = re.findall(r"^(?:\$ |- run: )(.+)$", block.text, re.MULTILINE)
            found += [(block.page.name, line.partition("  #")[0].rstrip()) for line in lines]
    return found


def test_what_is_as_in_the_readme_is_there_to_the_line() -> None:
    run = "".join(block.text for block in blocks_of(README) if not block.not_run)
    blocks = [block for block in every_block() if block.not_run == "as in the README"]
    assert blocks
    assert all(block.text.partition("\n")[0] + "\n" in run for block in blocks)


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks in order; Python blocks share their names."""
    python: list[Block] = []
    for block in blocks_of(page):
        if block.not_run:
            continue
        if block.file:
            write_file(block, folder)
        elif block.language == "console":
            run_block(block, folder, real=page == README)
        elif block.language == "python":
            python.append(block)
    run_python(python, folder)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as the README leaves it."""
    folder = tmp_path_factory.mktemp("project")
    run_page(README, folder)
    return folder


def test_the_readme(project: Path) -> None:
    assert {"net.py", "run", "plan.json", "baseline.csv"} <= {path.name for path in project.iterdir()}


@pytest.mark.parametrize("page", [page for page in DOCS if blocks_of(page)], ids=lambda page: page.stem)
def test_a_page(page: Path, project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    run_page(page, folder)


def test_every_block_is_of_a_kind_that_is_run() -> None:
    for block in every_block():
        assert block.language in LANGUAGES, block
        assert block.language not in ("toml", "yaml") or block.file or block.not_run, f"{block} is not run"
        assert block.language != "console" or block.text.startswith("$ "), block


def test_nothing_else_is_not_run() -> None:
    assert set(commands_not_run()) == NOT_RUN


@pytest.mark.parametrize("command", sorted({text for _, text in NOT_RUN}))
def test_a_command_that_is_not_run_could_be(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.toml").write_text('models = ["net.py:build"]')
    check_command(command)


INLINE = sorted(
    {
        " ".join(text.split())
        for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"]
        for text in re.findall(r"(?<!`)`((?:rematbench|make) [^`]+)`(?!`)", page.read_text())
    }
)


@pytest.mark.parametrize("command", INLINE)
def test_a_command_in_a_sentence_could_be_run(command: str) -> None:
    check_command(command)
