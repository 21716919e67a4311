"""What the views of four pages say: each text as ``texts.json`` has it.

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
from orca_ray.leaderboard.published.comparison import compare
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.results.artefacts import Plot, Points
from orca_ray.results.record import Record
from tests.leaderboard.page.boards import TASKS, data, page_of, tables
from tests.leaderboard.page.conftest import Open
from tests.results.factories import make_record

FILE = Path(__file__).with_name("texts.json")
TEXTS, GO = (Path(__file__).with_name(name).read_text() for name in ("texts.js", "go.js"))


def odd() -> dict[str, Any]:
    """Return a page with a tie, a guard, costs within five per cent, one seed, an effect on few tasks, and a search."""
    scores = {
        "nft": [0.1] * 6,
        "orca": [0.2] * 5 + [0.05],
        "orca_guarded": [0.1] * 6,
        "scratch": [0.2, 0.12, 0.11, 0.18, 0.12, 0.13],
    }
    seconds = {"nft": 30.0, "orca": 50.0, "orca_guarded": 29.0, "scratch": 920.0}
    distances = {"orca": "l2", "orca_guarded": "otdd"}

    def record(method: str, t: int) -> Record:
        values = json.dumps({"align.distance": distances.get(method, "l2")})
        row = make_record(
            f"{method}-{t}", task=f"pocket/{TASKS[t]}", method=method, seed=1, test_score=scores[method][t],
            wall_seconds=seconds[method], hyperparameters=values,
        )  # fmt: skip
        return replace(row, align_chosen=0, align_reused=True) if method == "orca_guarded" else row

    searches = [
        make_record(
            f"s{n}", phase="search", test_score=None, validation_score=[0.9, 0.1][n % 2] + n / 1000, minutes=n,
            hyperparameters=json.dumps({"matters": n % 2, "constant": 1, "noise": n % 3}),
        )
        for n in range(12)
    ]  # fmt: skip
    features = Points(
        title="Features", caption="Features.", x="first", y="second", panels=(Plot("before", ()), Plot("after", ()))
    )
    pictures = {"orca_guarded-0": [json.loads(features.to_json())]}
    rows = [*(record(method, t) for method in scores for t in range(6)), *searches]
    texts = {"nft": {"title": "no align"}}
    run_again = "orca-sweep reproduce KEY --results DIR"
    content = page_of(rows, read_about=lambda: texts, read_artefacts=lambda: pictures, reproduce=run_again)
    content["curves"]["orca_guarded-2"] = {"align": {"epoch": [1, 2], "distance": [3.0, 2.0]}}
    return content


def grid() -> dict[str, Any]:
    rows = [
        make_record(f"g{rate}{s}", seed=s, test_score=score + s / 100, hyperparameters=json.dumps({"rate": rate}))
        for rate, score in ((1, 0.2), (2, 0.1))
        for s in (0, 1)
    ]
    plan = {("pocket/digits", "orca"): [({"rate": "slow"}, {"rate": 1}), ({"rate": "fast"}, {"rate": 2})]}
    effects = build_effects(tables(rows)[0], EffectGrid(plan, [0, 1]), benchmark="pocket", sweep="pocket/quick")
    return page_data(BoardReport(empty_board("pocket"), effects=effects))


def published() -> dict[str, Any]:
    return page_data(BoardReport(empty_board("pdebench"), published=compare(published_rows("pdebench"), "pdebench")))


FIVE = "&".join(f"tasks=pocket%2F{task}" for task in TASKS[1:])
PAGES: Mapping[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "board": (data, "table task task/pocket%2Fdigits profiles differences pareto effects record "
                    f"record/key-digits-orca-1 table?{FIVE} differences?{FIVE} effects?{FIVE}"),
    "odd": (odd, "table task/pocket%2Fdigits differences pareto?cost=wall_seconds&on=pocket%2Fdigits effects "
                 "record/orca_guarded-0"),
    "grid": (grid, "effects"),
    "published": (published, "table"),
}  # fmt: skip


def texts(open_page: Open) -> Iterator[tuple[str, str]]:
    """Yield the text of each view, by the name of the page and the view's place."""
    for name, (content, views) in PAGES.items():
        places = views.split()
        shown = dict(content())
        # The docstrings of statistics may change.
        shown["statistics"] = [each | {"definition": ""} for each in shown["statistics"]]
        page = open_page(f"/{places[0]}", shown)
        for place in places:
            page.evaluate(GO, f"#/{place}")
            yield f"{name}/{place}", page.evaluate(TEXTS)


@pytest.mark.slow
def test_the_views_say_what_they_said(open_page: Open) -> None:
    found = dict(texts(open_page))
    if not FILE.exists():
        FILE.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.fail(f"{FILE.name} is new: read it, and run again")
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
