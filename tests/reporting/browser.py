"""One headless Chromium for the tests of the page: Debian's, or the one that REMATBENCH_CHROMIUM names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


def chromium_path() -> str:
    """Return where Chromium is; skip without one, and fail instead where REMATBENCH_REQUIRE_BROWSER is set."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [os.environ.get("REMATBENCH_CHROMIUM"), *map(shutil.which, names)]
    if any(found):
        return next(filter(None, found))
    reason = "there is no Chromium: `make browser` installs Debian's, or set REMATBENCH_CHROMIUM to one"
    if os.environ.get("REMATBENCH_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Start Chromium for a `with` block."""
    executable = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)
class Opened:
    """A page that was opened from disk, with all that went wrong and all that it asked for.

    Attributes:
        complaints: console errors, warnings and uncaught exceptions.
        requests: every address asked for, the file itself included.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def open_page(browser: Browser, file: Path, width: int = 1280, height: int = 900) -> Opened:
    """Open a report and wait until its first charts are drawn."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    opened = Opened(page=page)
    page.on("console", lambda said: opened.complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    return opened
