"""The page of a large run: its size, the time to write it, and the time until a browser shows it."""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.reporting.browser import open_page, opened_browser
from tests.reporting.samples import case, stored

from rematbench.records.measurement import Measurement
from rematbench.reporting.page import write_page
from rematbench.traces.timeline import Timeline

MODELS, PLACEMENTS, POINTS = 20, 25, 241
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"


def large_run() -> list[Measurement]:
    """Return 500 rows, each with the longest timeline that a meter hands out."""
    rows = []
    for model in range(MODELS):
        for at in range(PLACEMENTS):
            paths = [f"blocks[{block}]" for block in range(at % 4)]
            row = case(f"placement-{at}" if at else "none", 100 + 7 * at % 90, 1 + at / 50, *paths, model=f"m{model}")
            assert row.memory is not None
            live = tuple((row.memory.peak_bytes * (1 + place * 7919 % 97)) // 98 for place in range(POINTS))
            times = tuple(place / 1e4 for place in range(POINTS))
            phases = {"forward": (0.0, times[POINTS // 2]), "backward": (times[POINTS // 2], times[-1])}
            timeline = Timeline.model_validate({"time_s": times, "live_bytes": live, "phases": phases})
            rows.append(row.model_copy(update={"timeline": timeline}))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("large") / "run", large_run())


def test_write(benchmark: BenchmarkFixture, folder: Path) -> None:
    """`bytes` is the size of the page; it stays under 8 MB."""
    out = folder.parent / "report.html"
    benchmark.pedantic(lambda: write_page([folder], out), rounds=3)
    benchmark.extra_info["bytes"] = size = out.stat().st_size
    print(f"\n500 rows of 20 models: {size / 1e6:.2f} MB")
    assert size < 8e6


def test_open(benchmark: BenchmarkFixture, folder: Path) -> None:
    """The benchmark is until the charts in view are drawn; `painted_s` is until the first words are seen."""
    write_page([folder], folder.parent / "report.html")
    with opened_browser() as browser:
        painted = []

        def once() -> None:
            page = open_page(browser, folder.parent / "report.html").page
            page.wait_for_selector("#model-0 .strip .main-svg")
            painted.append(page.evaluate(PAINTED))
            page.close()

        benchmark.pedantic(once, rounds=5)
    benchmark.extra_info["painted_s"] = painted
    print(f"\nfirst paint after {min(painted):.2f} s to {max(painted):.2f} s")
