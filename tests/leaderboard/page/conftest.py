"""A board with curves and failures, its page's data, and a browser that shows pages.

The browser is a headless Chromium; a test fails in which a page reports an error or
requests anything.
"""

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.leaderboard import empty_board
from orca_ray.leaderboard.assembly import read_searches
from orca_ray.leaderboard.format import BoardReport
from orca_ray.leaderboard.page import page_data, render
from orca_ray.leaderboard.published.comparison import compare
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.leaderboard.selection import build
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.tables import CURVES, RECORDS, from_rows, to_frame
from tests.results.factories import make_record

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of programs that may run the tests."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Arguments of the browser, which keep it offline."""
LOCAL = ("file:", "data:")
"""Starts of addresses that need no network."""
Open = Callable[..., Any]
"""Opens a page, and returns playwright's Page.

Arguments are a hash, the page's data and options of the browser's context.
"""


# Not of the session: playwright keeps an event loop running in this thread.
@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install .[dev]"
    )
    paths = [path for path in map(shutil.which, BROWSERS) if path]
    if not paths:
        pytest.skip("no Chromium is installed, e.g. apt-get install chromium")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=paths[0], args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a page to disk and open it.

    After the test, check that no page logged or requested anything.
    """
    problems: list[str] = []
    contexts = []

    def note_request(request: Any) -> None:
        if not request.url.startswith(LOCAL):
            problems.append(request.url)

    def show(
        place: str = "",
        content: dict[str, Any] | None = None,
        *,
        refresh: int = 0,
        **options: Any,
    ) -> Any:
        file = tmp_path / "board.html"
        html = render(deepcopy(content or data()), refresh_seconds=refresh)
        file.write_text(html, encoding="utf-8")
        defaults = {"viewport": {"width": 1200, "height": 900}, "offline": True}
        context = browser.new_context(**(defaults | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on(
            "console",
            lambda message: problems.append(f"{message.type}: {message.text}"),
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", note_request)
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        page.goto(f"file://{file}#{place}")
        page.wait_for_selector("main[data-shown]")
        return page

    yield show
    for context in contexts:
        context.close()
    assert problems == []


TASKS = ("burgers16", "darcy16", "digits", "mnist", "osuleaf", "wdbc")
"""Names of the tasks of the board."""
METHODS = {"orca": 0.1, "nft": 0.11, "scratch": 0.3}
"""Methods of the board, with their mean score on the first task."""
SEEDS = 3
"""Number of seeds of each method and task."""
HOSTILE = "<img src=x onerror=alert(1)>"
"""Text that would run a program if it became markup."""
SCRIPT = "</script><script>alert(2)</script>"
"""Text that would end the page's data and run a program."""
SETTINGS = '{{"refine.epochs":5,"refine.learning_rate":{}}}'
"""Hyper-parameters of the trials as JSON, without the learning rate."""


def records() -> list[Record]:
    """Return scored trials, a failed trial, and search trials of a task."""
    random = np.random.default_rng(0)
    rates = (3e-4, 1e-3, 3e-3)
    rows: list[Record] = []
    for t, task in enumerate(TASKS):
        for m, (method, level) in enumerate(METHODS.items()):
            for seed in range(SEEDS):
                rows.append(
                    make_record(
                        f"key-{task}-{method}-{seed}",
                        task=f"pocket/{task}",
                        method=method,
                        seed=seed,
                        test_score=level * (1 + t) * random.uniform(0.8, 1.25),
                        hyperparameters=SETTINGS.format(rates[m]),
                        wall_seconds=10.0 + m,
                        peak_memory_mib=500.0 + 100 * m,
                        num_trainable=1000 * (m + 1),
                        metric="relative_l2" if t % 2 else "error",
                        minutes=float(len(rows)),
                    )
                )
    rows.append(
        make_record(
            "key-failed",
            method="fpt",
            test_score=None,
            status=Status.FAILED_OOM,
            error="CUDA out of memory: tried to allocate 2 GiB",
            minutes=60,
        )
    )
    for index, rate in enumerate((1e-4, 3e-4, 1e-3)):
        rows.append(
            make_record(
                f"search-{index}",
                phase="search",
                test_score=None,
                validation_score=0.5 - 0.1 * index,
                minutes=61.0 + index,
                hyperparameters=SETTINGS.format(rate),
            )
        )
    return rows


def curves(rows: Sequence[Record]) -> list[CurvePoint]:
    """Return five epochs of each scored trial.

    Trials of ``orca`` have five epochs of aligning, too.
    """
    points = []
    for record in rows:
        if record.test_score is None:
            continue
        key = (record.sweep, record.trial_key)
        for epoch in range(1, 6):
            score = record.test_score * (1 + 2 / epoch)
            points.append(
                CurvePoint(*key, "refine", epoch, 1 / epoch, None, score, 1e-3, 1.0)
            )
            if record.method == "orca":
                points.append(
                    CurvePoint(*key, "align", epoch, None, 3 / epoch, None, 1e-3, 1.0)
                )
    return points


def tables(rows: Sequence[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return records and curves as the store does."""
    return (
        to_frame(from_rows((record.to_row() for record in rows), RECORDS)),
        to_frame(from_rows((point.to_row() for point in curves(rows)), CURVES)),
    )


@functools.cache
def data() -> dict[str, Any]:
    return page_of(records())


def page_of(rows: Sequence[Record], **options: Any) -> dict[str, Any]:
    frame, points = tables(rows)
    board = build(frame, benchmark="pocket")
    report = BoardReport(
        board,
        read_records=lambda: frame,
        read_curves=lambda: points,
        read_searches=lambda: read_searches(StoreSnapshot.of_frame(frame), board),
        **options,
    )
    return page_data(report)


def published() -> dict[str, Any]:
    """Return a page of published scores, without own ones."""
    results = compare(published_rows("pdebench"), "pdebench")
    return page_data(BoardReport(empty_board("pdebench"), published=results))
