"""A headless Chromium that shows pages, and fails a test in which a page reports an error or requests anything."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orca_ray.leaderboard.page import render
from tests.leaderboard.page.boards import data

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LOCAL = ("file:", "data:")
Open = Callable[..., Any]
"""Opens a page: takes a hash, the page's data and options of the browser's context; returns playwright's Page."""


@pytest.fixture(scope="package")  # not of the session: playwright keeps an event loop running in this thread
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium is installed, e.g. apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a page to disk and open it; on leaving, check that no page logged anything or asked for anything."""
    problems: list[str] = []
    contexts = []

    def show(place: str = "", content: dict[str, Any] | None = None, *, refresh: int = 0, **options: Any) -> Any:
        file = tmp_path / "board.html"
        file.write_text(render(content or data(), refresh_seconds=refresh), encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, "offline": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend([] if request.url.startswith(LOCAL) else [request.url]))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        page.goto(f"file://{file}#{place}")
        page.wait_for_selector("main[data-shown]")
        return page

    yield show
    for context in contexts:
        context.close()
    assert problems == []
