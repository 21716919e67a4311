"""A board with curves and failures, its page's data, and a browser that shows pages.

The browser is a headless Chromium; a test fails in which a page reports an error or
requests anything.
"""

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.leaderboard.assembly import read_searches
from orca_ray.leaderboard.format import BoardReport
from orca_ray.leaderboard.page import page_data, render
from orca_ray.leaderboard.selection import build
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.tables import CURVES, RECORDS, from_rows, to_frame
from tests.results.factories import make_record

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += ["--disable-component-update", "--disable-sync"]
LOCAL = ("file:", "data:")
Open = Callable[..., Any]
"""Opens a page, and returns playwright's Page.

Arguments are a hash, the page's data and options of the browser's context.
"""


@pytest.fixture(
    scope="package"
)  # not of the session: playwright keeps an event loop running in this thread
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install .[dev]"
    )
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium is installed, e.g. apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a page to disk and open it.

    After the test, check that no page logged or requested anything.
    """
    problems: list[str] = []
    contexts = []

    def show(
        place: str = "",
        content: dict[str, Any] | None = None,
        *,
        refresh: int = 0,
        **options: Any,
    ) -> Any:
        file = tmp_path / "board.html"
        file.write_text(
            render(content or data(), refresh_seconds=refresh), encoding="utf-8"
        )
        context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, "offline": True, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on(
            "console",
            lambda message: problems.append(f"{message.type}: {message.text}"),
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: problems.extend(
                [] if request.url.startswith(LOCAL) else [request.url]
            ),
        )
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        page.goto(f"file://{file}#{place}")
        page.wait_for_selector("main[data-shown]")
        return page

    yield show
    for context in contexts:
        context.close()
    assert problems == []


TASKS = ("burgers16", "darcy16", "digits", "mnist", "osuleaf", "wdbc")
METHODS = {"orca": 0.1, "nft": 0.11, "scratch": 0.3}
SEEDS = 3
HOSTILE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"


def records() -> list[Record]:
    """Return scored trials of all methods, a failed trial, and search trials of a task."""
    random = np.random.default_rng(0)
    cells = [
        (t, m, seed)
        for t in range(len(TASKS))
        for m in range(len(METHODS))
        for seed in range(SEEDS)
    ]
    names = list(METHODS)
    levels = list(METHODS.values())
    rates = (3e-4, 1e-3, 3e-3)
    settings = '{{"refine.epochs":5,"refine.learning_rate":{}}}'
    scored = [
        make_record(
            f"key-{TASKS[t]}-{names[m]}-{seed}",
            task=f"pocket/{TASKS[t]}",
            method=names[m],
            seed=seed,
            test_score=levels[m] * (1 + t) * random.uniform(0.8, 1.25),
            hyperparameters=settings.format(rates[m]),
            wall_seconds=10.0 + m,
            peak_memory_mib=500.0 + 100 * m,
            num_trainable=1000 * (m + 1),
            metric="relative_l2" if t % 2 else "error",
            minutes=float(number),
        )
        for number, (t, m, seed) in enumerate(cells)
    ]
    searches = [
        make_record(
            f"search-{index}",
            phase="search",
            test_score=None,
            validation_score=0.5 - 0.1 * index,
            minutes=61.0 + index,
            hyperparameters=settings.format(rate),
        )
        for index, rate in enumerate((1e-4, 3e-4, 1e-3))
    ]
    error = "CUDA out of memory: tried to allocate 2 GiB"
    oom = make_record(
        "key-failed",
        method="fpt",
        test_score=None,
        status=Status.FAILED_OOM,
        error=error,
        minutes=60,
    )
    return [*scored, oom, *searches]


def curves(rows: Sequence[Record]) -> list[CurvePoint]:
    """Return five epochs of each scored trial.

    Trials of ``orca`` have five epochs of aligning, too.
    """
    points = []
    for each in rows:
        place = (each.sweep, each.trial_key)
        for epoch in range(1, 6) if each.test_score is not None else ():
            score = (each.test_score or 0) * (1 + 2 / epoch)
            points.append(
                CurvePoint(*place, "refine", epoch, 1 / epoch, None, score, 1e-3, 1.0)
            )
            if each.method == "orca":
                points.append(
                    CurvePoint(*place, "align", epoch, None, 3 / epoch, None, 1e-3, 1.0)
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
    options |= {
        "read_searches": lambda: read_searches(StoreSnapshot.of_frame(frame), board)
    }
    return page_data(
        BoardReport(
            board, read_records=lambda: frame, read_curves=lambda: points, **options
        )
    )
