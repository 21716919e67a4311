"""The page in a headless browser.

`open_page` fails a test in which the page logs or requests anything. What the views of
four pages say is compared with ``texts.json``. To renew the file, delete it: the next
run writes it, and fails.
"""

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from orca_ray.cli.output import duration
from orca_ray.leaderboard import BoardReport, EffectGrid, build_effects, empty_board
from orca_ray.leaderboard.page import page_data
from orca_ray.leaderboard.published.comparison import compare
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.results import artefacts
from orca_ray.results.artefacts import Group, Image, Plot, Points, Quantised
from orca_ray.results.record import Record, Status
from tests.leaderboard.page.conftest import (
    HOSTILE,
    METHODS,
    SCRIPT,
    TASKS,
    Open,
    data,
    page_of,
    records,
    tables,
)
from tests.results.factories import make_record

VIEWS = ("table", "task", "profiles", "differences", "pareto", "effects", "record")
pytestmark = pytest.mark.slow


def methods(page: Any) -> list[str]:
    return [
        text.strip()
        for text in (
            page.locator("table.board").first.locator("tbody th").all_inner_texts()
        )
    ]


def go(page: Any, place: str, shown: str = "") -> None:
    """Show a view, and wait until it is there."""
    page.evaluate("place => { location.hash = place }", place)
    page.wait_for_selector(
        f'main[data-shown^="{shown or place.strip("#/").split("/")[0] + "/"}"]'
    )


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "dark")])
def test_every_view_fits_the_window(open_page: Open, scheme: str, width: int) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for view in (*VIEWS, "task/pocket%2Fdigits", "record/key-digits-orca-1"):
        go(page, f"#/{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark.strip("rgb()").split(","))) < 200) == (scheme == "dark")


def test_the_table_is_sorted_and_searched(open_page: Open) -> None:
    page = open_page()
    page.click('button[id="sort-pocket/mnist"]')
    assert methods(page) == ["nft", "orca", "scratch", "fpt"]
    page.click('button[id="sort-pocket/mnist"]')
    assert methods(page) == [
        "scratch",
        "orca",
        "nft",
        "fpt",
    ]  # the one without a score stays last
    assert page.locator('th[aria-sort="descending"]').count() == 1
    page.focus("#search")
    page.keyboard.type("scratch")  # each letter draws the table again
    assert methods(page) == ["scratch"]
    page.fill("#search", "wdbc")
    assert len(methods(page)) == len(METHODS) + 1
    assert page.locator("table.board").first.locator("thead th").count() == 4
    page.fill("#search", "nothing")
    assert (
        page.locator('[role="status"]').inner_text()
        == "No method or task has this name."
    )


def test_scores_lead_to_their_trials(open_page: Open) -> None:
    page = open_page()
    page.click("td.failed a")  # a method whose trials all failed
    page.wait_for_selector('main[data-shown="record/key-failed"]')
    assert "CUDA out of memory" in page.inner_text("pre")
    page.click("#view-table")
    score = page.locator('table.board td a[href*="key-digits-orca-"]').first
    assert (
        score.get_attribute("title")
        == "The mean over 3 seeds. Opens the trial of seed 0, one of them."
    )
    mean = score.inner_text().split()[0]
    score.focus()
    score.press("Enter")
    page.wait_for_selector('main[data-shown="record/key-digits-orca-0"]')
    assert (
        page.get_by_role("note")
        .inner_text()
        .endswith(f"; the table shows their mean, {mean}.")
    )


def test_the_command_to_run_a_trial_again_is_one_command(open_page: Open) -> None:
    key = "k; touch 'x' $(y)"
    page = open_page(f"/record/{quote(key, safe='')}", page_of([make_record(key)]))
    assert shlex.split(page.inner_text(".command code")) == [
        "orca-sweep",
        "reproduce",
        key,
    ]


def test_a_subset_is_kept_in_the_link(open_page: Open) -> None:
    about = {
        f"pocket/{task}": {
            "kind": "pde" if "16" in task else "image",
            "size": "1 to 100",
        }
        for task in TASKS
    }
    content = page_of(records(), read_about=lambda: about)
    page = open_page(content=content)
    page.click("summary#subset")
    page.uncheck('input[value="scratch"]')
    assert "scratch" not in methods(page)
    again = open_page(page.url.partition("#")[2], content)
    assert methods(again) == methods(page)
    again.click("nav a >> text=Profiles")
    again.wait_for_selector('main[data-shown="profiles/"]')
    assert (
        again.inner_text("summary#subset")
        == f"Choose methods and tasks (3 of 4 methods, all {len(TASKS)} tasks)"
    )
    page.click(".chip:has-text('orca') >> text=only")
    assert methods(page) == ["orca"]
    assert page.inner_text(".brief").startswith(
        "orca is the only method with scores here, on 6 tasks."
    )
    page.click("#methods-none")
    assert page.inner_text("main section") == "Choose at least one method and one task."
    page.click("#methods-all")
    assert page.url.endswith("#/")
    assert page.locator("#size").count() == 0  # all tasks are alike
    assert page.locator("#kind option").all_inner_texts() == [
        "all",
        "image (4)",
        "pde (2)",
    ]
    page.select_option("#kind", "pde")
    page.click(".chip:has-text('darcy16') >> text=only")
    assert "kind=pde&tasks=pocket%2Fdarcy16" in page.url


def test_a_table_is_saved_as_it_is_shown(open_page: Open) -> None:
    page = open_page("/table?search=digits")
    with page.expect_download() as saved:
        page.click("text=CSV >> nth=0")
    head, *rows = csv.reader(io.StringIO(saved.value.path().read_text("utf-8")))
    assert head == [
        "Method",
        "Mean rank",
        "95 % interval",
        "≈",
        "digits",
        "error ↓",
        "≈",
        "Time",
    ]
    assert [row[0] for row in rows] == methods(page)
    assert [float(row[4]) for row in rows[:3]] == pytest.approx(
        [0.3, 0.3, 0.9], rel=0.3
    )


def test_wide_tables_are_printed_in_parts(open_page: Open) -> None:
    page = open_page(
        content=page_of(
            [
                make_record(f"{t}", task=f"pocket/a_task_of_a_long_name_{t}")
                for t in range(9)
            ]
        )
    )
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    heads = [
        table.locator("thead th").all_inner_texts()
        for table in page.locator(".scroll >> nth=0 >> table").all()
    ]
    assert (
        {head[0] for head in heads},
        sum(map(len, heads)) - len(heads),
        len(heads) > 1,
    ) == ({"Method"}, 11, True)


def test_a_method_has_one_mark_and_its_lines_stand_out(open_page: Open) -> None:
    few = page_of([make_record(method, method=method) for method in ("a", "nft")])
    pages = [open_page("/profiles"), open_page("/profiles", few)]
    marks = [
        page.locator(".legend span", has_text="nft").locator("svg").inner_html()
        for page in pages
    ]
    assert marks[0] == marks[1]
    assert pages[0].locator("figure g[aria-label]").count() == 0  # a group has no role
    pages[0].hover(".legend span:has-text('nft')")
    assert (
        pages[0].locator("g.faint").count() == 4
    )  # lines and points of two other methods


def test_numbers_are_rounded_as_python_rounds_and_trials_are_sorted(
    open_page: Open,
) -> None:
    page = open_page("/record")
    seconds = [
        0.1,
        8.25,
        8.44,
        59.94,
        59.96,
        60,
        111.1,
        359.6,
        3599.4,
        3599.6,
        7199.7,
        7629,
        360_000,
    ]
    assert page.evaluate("all => all.map(orca.format.duration)", seconds) == [
        duration(each) for each in seconds
    ]
    values = [2.125, 2.375, -0.625, 0.005, 2.675, 1e-9, 1234.5, 0.0]
    assert page.evaluate("all => all.map(x => orca.format.fixed(x, 2))", values) == [
        f"{each:.2f}" for each in values
    ]
    page.click("#order-test")
    shown = [
        text
        for text in page.locator("tbody tr td:nth-child(7)").all_inner_texts()
        if text != "–"
    ]
    assert shown == sorted(shown, key=float)
    page.click("#order-test")
    assert page.locator("#order-test").inner_text() == "Test score ▼"
    page.locator('a[title="key-digits-nft-0"]').click()
    page.wait_for_selector('main[data-shown="record/key-digits-nft-0"]')


def test_a_long_list_of_trials_says_so_and_is_shown_whole(open_page: Open) -> None:
    rows = [make_record("confirmed")]
    rows += [
        make_record(f"s{n}", phase="search", test_score=None, validation_score=0.25)
        for n in range(250)
    ]
    page = open_page("/record", page_of(rows))
    assert page.locator("tbody tr").count() == 200
    assert page.get_by_role("status").inner_text() == "The first 200 of 251 trials."
    page.click("text=Show all 251")
    assert page.locator("tbody tr").count() == 251
    assert (
        page.locator("tbody tr").last.locator("td:nth-child(6)").inner_text()
        == "0.2500"
    )
    assert "listed=all" in page.url


def test_everything_is_reached_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    reached: list[str] = []
    while "view-effects" not in reached:
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.textContent.trim()"
            )
        )
        assert (
            page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            != "none"
        ), reached[-1]
        assert len(reached) < 60
    assert {"view-table", "view-profiles"} <= set(reached)
    page.keyboard.press("Enter")
    page.wait_for_selector('main[data-shown="effects/"]')
    assert page.evaluate("document.activeElement.tagName") == "H2"
    page.focus("#view-effects")
    page.keyboard.press("Enter")  # the view is shown already
    assert page.evaluate("document.activeElement.id") == "view-effects"


def test_text_from_records_is_never_markup(open_page: Open) -> None:
    hostile = [
        make_record(
            "h0",
            method=HOSTILE,
            hyperparameters=json.dumps({HOSTILE: SCRIPT}),
            notes=SCRIPT,
            device=HOSTILE,
        ),
        make_record("h1", method=SCRIPT, test_score=0.25, minutes=2, body=HOSTILE),
        make_record(
            "h2",
            method=HOSTILE,
            seed=1,
            test_score=None,
            status=Status.LOST,
            error=SCRIPT + HOSTILE,
        ),
        make_record(
            SCRIPT, method=HOSTILE, task=f"pocket/{SCRIPT}", minutes=4, metric=HOSTILE
        ),
    ]
    page = open_page(
        content=page_of(
            hostile, reproduce=f"orca-sweep reproduce KEY --results {HOSTILE}"
        )
    )
    for view in (
        *VIEWS,
        "task/pocket%2Fdigits",
        "record/h0",
        "record/h2",
        "record/%3C%2Fscript%3E",
    ):
        go(page, f"#/{view}")
        assert page.locator("img, main script").count() == 0
    assert HOSTILE in page.inner_text("main")


def test_a_broken_link_shows_something(open_page: Open) -> None:
    page = open_page("/nonsense")
    for place, shown, heading in (
        ("/nonsense", "table/", "Scores"),
        ("/record/unknown", "record/unknown", "Trials"),
        ("/task/%E0%A4%A", "task/", "Tasks"),
        ("/table?methods=nobody&sort=nothing", "table/", "Scores"),
        (
            "/differences/__proto__%20against%20constructor",
            "differences/",
            "Differences",
        ),
    ):
        go(page, place, shown)
        assert page.locator("main h2").all_inner_texts() == [heading]


def test_a_live_page_reloads_itself_and_keeps_its_view(open_page: Open) -> None:
    page = open_page("/task/pocket%2Fdigits", refresh=1)
    page.wait_for_event("load")
    page.wait_for_selector('main[data-shown="task/pocket/digits"]')


def encoded(*values: float) -> Quantised:
    return Quantised.encode(list(values))


GROUP = Group("b", encoded(0, 1), encoded(1, 2))
FIELDS = (
    Image("true", Quantised.encode([[0.0, 1.0], [2.0, 4.0]])),
    Image("error", Quantised.encode([[-1.0, 0.0], [0.5, 1.0]]), "diverging"),
)
PICTURES = [
    artefacts.Matrix(
        title="Confusion",
        rows="true class",
        columns="predicted class",
        counts=((3, 1), (0, 4)),
    ),
    artefacts.Images(title="Field", panels=FIELDS),
    artefacts.Points(title="Features", x="1st", y="2nd", panels=(Plot("a", (GROUP,)),)),
    artefacts.Lines(
        title="Sample",
        x="time",
        series=(artefacts.Series("channel 0", encoded(0, 1, 0)),),
    ),
    artefacts.Bars(
        title="Labels",
        x="label",
        series=(artefacts.BarSeries(HOSTILE, (0.5, None, 0.75)),),
    ),
]


def test_a_record_has_its_pictures_and_a_damaged_one_leaves_it_whole(
    open_page: Open,
) -> None:
    key = "key-digits-orca-0"
    broken = [
        {"form": "images", "title": "Broken", "panels": [{"title": "x"}]},
        {"form": "none", "title": "New"},
    ]
    pictures = [*(json.loads(picture.to_json()) for picture in PICTURES), *broken]
    page = open_page(f"/record/{key}", {**data(), "artefacts": {key: pictures}})
    assert {picture.title for picture in PICTURES} < set(
        page.locator("figure h3").all_inner_texts()
    )
    assert page.locator("text=This picture is damaged").count() == 2
    counts = page.locator(
        'figure[aria-label="Confusion"] svg g[fill="var(--ink)"] text'
    ).all_text_contents()
    assert counts == ["3", "1", "4"]
    pixels = (
        "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 2, 2).data)"
    )
    true = page.locator('canvas[aria-label="true"]').evaluate(pixels)
    assert true[:3] + true[-4:-1] == [68, 1, 84, 253, 231, 37]  # the ends of viridis
    error = page.locator('canvas[aria-label="error"]').evaluate(pixels)
    assert error[2] > error[0]  # blue below, white at zero
    assert min(error[4:7]) > 230
    assert "refine.learning_rate" in page.inner_text("main")


def test_a_page_of_published_scores_counts_and_searches_them(open_page: Open) -> None:
    page = open_page("/table?search=mona", published())
    assert "published scores of 8 tasks, 12 methods" in page.inner_text("header")
    assert methods(page) == ["MoNA secondary"]


def test_a_guard_that_aligned_with_one_seed_did_not_choose_not_to(
    open_page: Open,
) -> None:
    seeds = [
        replace(make_record(f"g{n}", method="orca_guarded", seed=n), align_chosen=n)
        for n in (0, 1)
    ]
    assert "chose not to align" not in open_page("/table", page_of(seeds)).inner_text(
        "main"
    )
    assert "chose not to align" in open_page("/table", page_of(seeds[:1])).inner_text(
        "main"
    )


FILE = Path(__file__).with_name("texts.json")
TEXTS, GO = (
    Path(__file__).with_name(name).read_text() for name in ("texts.js", "go.js")
)


def odd() -> dict[str, Any]:
    """Return a page with special cases.

    They are a tie, a guard, costs within five per cent, one seed, an effect on few
    tasks, and a search.
    """
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
            f"{method}-{t}",
            task=f"pocket/{TASKS[t]}",
            method=method,
            seed=1,
            test_score=scores[method][t],
            wall_seconds=seconds[method],
            hyperparameters=values,
        )
        return (
            replace(row, align_chosen=0, align_reused=True)
            if method == "orca_guarded"
            else row
        )

    searches = [
        make_record(
            f"s{n}",
            phase="search",
            test_score=None,
            validation_score=[0.9, 0.1][n % 2] + n / 1000,
            minutes=n,
            hyperparameters=json.dumps(
                {"matters": n % 2, "constant": 1, "noise": n % 3}
            ),
        )
        for n in range(12)
    ]
    features = Points(
        title="Features",
        caption="Features.",
        x="first",
        y="second",
        panels=(Plot("before", ()), Plot("after", ())),
    )
    pictures = {"orca_guarded-0": [json.loads(features.to_json())]}
    rows = [*(record(method, t) for method in scores for t in range(6)), *searches]
    texts = {"nft": {"title": "no align"}}
    run_again = "orca-sweep reproduce KEY --results DIR"
    content = page_of(
        rows,
        read_about=lambda: texts,
        read_artefacts=lambda: pictures,
        reproduce=run_again,
    )
    content["curves"]["orca_guarded-2"] = {
        "align": {"epoch": [1, 2], "distance": [3.0, 2.0]}
    }
    return content


def grid() -> dict[str, Any]:
    rows = [
        make_record(
            f"g{rate}{s}",
            seed=s,
            test_score=score + s / 100,
            hyperparameters=json.dumps({"rate": rate}),
        )
        for rate, score in ((1, 0.2), (2, 0.1))
        for s in (0, 1)
    ]
    plan = {
        ("pocket/digits", "orca"): [
            ({"rate": "slow"}, {"rate": 1}),
            ({"rate": "fast"}, {"rate": 2}),
        ]
    }
    effects = build_effects(
        tables(rows)[0],
        EffectGrid(plan, [0, 1]),
        benchmark="pocket",
        sweep="pocket/quick",
    )
    return page_data(BoardReport(empty_board("pocket"), effects=effects))


def published() -> dict[str, Any]:
    return page_data(
        BoardReport(
            empty_board("pdebench"),
            published=compare(published_rows("pdebench"), "pdebench"),
        )
    )


FIVE = "&".join(f"tasks=pocket%2F{task}" for task in TASKS[1:])
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
        shown = dict(content())
        # The docstrings of statistics may change.
        shown["statistics"] = [
            each | {"definition": ""} for each in shown["statistics"]
        ]
        page = open_page(f"/{places[0]}", shown)
        for place in places:
            page.evaluate(GO, f"#/{place}")
            yield f"{name}/{place}", page.evaluate(TEXTS)


def test_the_views_say_what_they_said(open_page: Open) -> None:
    found = dict(texts(open_page))
    if not FILE.exists():
        FILE.write_text(
            json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        pytest.fail(f"{FILE.name} is new: read it, and run again")
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
