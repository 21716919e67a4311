"""What the views of four pages say is what ``texts.json`` holds.

To renew the file, delete it: the next run writes it, and fails.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orca_ray.leaderboard import BoardReport, EffectGrid, build_effects, empty_board
from orca_ray.leaderboard.page import page_data
from orca_ray.results.artefacts import Plot, Points
from orca_ray.results.record import Record
from tests.leaderboard.page.conftest import (
    TASKS,
    Open,
    data,
    page_of,
    published,
    tables,
)
from tests.results.factories import make_record

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
FILE = FOLDER / "texts.json"
TEXTS = (FOLDER / "texts.js").read_text()
"""Program that returns the texts of a view."""
GO = (FOLDER / "go.js").read_text()
"""Program that shows a view."""

SCORES = {
    "nft": [0.1] * 6,
    "orca": [0.2] * 5 + [0.05],
    "orca_guarded": [0.1] * 6,
    "scratch": [0.2, 0.12, 0.11, 0.18, 0.12, 0.13],
}
"""Test scores of each method of `odd`, by task."""
SECONDS = {"nft": 30.0, "orca": 50.0, "orca_guarded": 29.0, "scratch": 920.0}
"""Wall time of a trial of each method of `odd`."""


def odd() -> dict[str, Any]:
    """Return a page with special cases.

    They are a tie, a guard, costs within five per cent, one seed, an effect on few
    tasks, and a search.
    """
    features = Points(
        title="Features",
        caption="Features.",
        x="first",
        y="second",
        panels=(Plot("before", ()), Plot("after", ())),
    )
    pictures = {"orca_guarded-0": [json.loads(features.to_json())]}
    rows = [odd_record(method, t) for method in SCORES for t in range(6)]
    rows += [odd_search(number) for number in range(12)]
    content = page_of(
        rows,
        read_about=lambda: {"nft": {"title": "no align"}},
        read_artefacts=lambda: pictures,
        reproduce="orca-sweep reproduce KEY --results DIR",
    )
    content["curves"]["orca_guarded-2"] = {
        "align": {"epoch": [1, 2], "distance": [3.0, 2.0]}
    }
    return content


def odd_record(method: str, t: int) -> Record:
    distance = "otdd" if method == "orca_guarded" else "l2"
    record = make_record(
        f"{method}-{t}",
        task=f"pocket/{TASKS[t]}",
        method=method,
        seed=1,
        test_score=SCORES[method][t],
        wall_seconds=SECONDS[method],
        hyperparameters=json.dumps({"align.distance": distance}),
    )
    if method == "orca_guarded":
        record = replace(record, align_chosen=0, align_reused=True)
    return record


def odd_search(number: int) -> Record:
    values = {"matters": number % 2, "constant": 1, "noise": number % 3}
    return make_record(
        f"s{number}",
        phase="search",
        test_score=None,
        validation_score=[0.9, 0.1][number % 2] + number / 1000,
        minutes=number,
        hyperparameters=json.dumps(values),
    )


def grid() -> dict[str, Any]:
    """Return a page of the effects of a grid with one factor."""
    rows = []
    for rate, score in ((1, 0.2), (2, 0.1)):
        for seed in (0, 1):
            rows.append(
                make_record(
                    f"g{rate}{seed}",
                    seed=seed,
                    test_score=score + seed / 100,
                    hyperparameters=json.dumps({"rate": rate}),
                )
            )
    records, _ = tables(rows)
    cells = [({"rate": "slow"}, {"rate": 1}), ({"rate": "fast"}, {"rate": 2})]
    effects = build_effects(
        records,
        EffectGrid({("pocket/digits", "orca"): cells}, [0, 1]),
        benchmark="pocket",
        sweep="pocket/quick",
    )
    return page_data(BoardReport(empty_board("pocket"), effects=effects))


FIVE = "&".join(f"tasks=pocket%2F{task}" for task in TASKS[1:])
"""Part of an address that chooses all tasks but the first."""
PAGES: Mapping[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "board": (
        data,
        (
            "table task task/pocket%2Fdigits profiles differences pareto effects"
            f" record record/key-digits-orca-1 table?{FIVE} differences?{FIVE}"
            f" effects?{FIVE} differences/orca%20against%20scratch"
        ),
    ),
    "odd": (
        odd,
        (
            "table task/pocket%2Fdigits differences"
            " pareto?cost=wall_seconds&on=pocket%2Fdigits effects record/orca_guarded-0"
        ),
    ),
    "grid": (grid, "effects"),
    "published": (published, "table"),
}


def texts(open_page: Open) -> Iterator[tuple[str, str]]:
    """Yield the text of each view, by the name of the page and the view's place."""
    for name, (content, views) in PAGES.items():
        places = views.split()
        page_content = dict(content())
        # The docstrings of statistics may change.
        page_content["statistics"] = [
            statistic | {"definition": ""} for statistic in page_content["statistics"]
        ]
        page = open_page(f"/{places[0]}", page_content)
        for place in places:
            page.evaluate(GO, f"#/{place}")
            yield f"{name}/{place}", page.evaluate(TEXTS)


def test_the_views_say_what_they_said(open_page: Open) -> None:
    texts_of_views = dict(texts(open_page))
    if not FILE.exists():
        content = json.dumps(texts_of_views, indent=0, ensure_ascii=False)
        FILE.write_text(f"{content}\n", encoding="utf-8")
        pytest.fail(f"{FILE.name} is new: read it, and run again")
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    assert texts_of_views.keys() == expected.keys()
    for name, text in texts_of_views.items():
        assert text == expected[name], name
