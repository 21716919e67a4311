"""The page in a headless browser.

`open_page` fails a test in which the page logs or requests anything.
"""

import csv
import io
import json
import shlex
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from orca_ray.cli.output import duration
from orca_ray.results import artefacts
from orca_ray.results.artefacts import Group, Image, Plot, Quantised
from orca_ray.results.record import Status
from tests.leaderboard.page.conftest import (
    HOSTILE,
    METHODS,
    SCRIPT,
    TASKS,
    Open,
    data,
    page_of,
    published,
    records,
)
from tests.results.factories import make_record

VIEWS = ("table", "task", "profiles", "differences", "pareto", "effects", "record")
"""Names of the views of a page."""
pytestmark = pytest.mark.slow


def methods(page: Any) -> list[str]:
    """Return the names of the methods in the table, from top to bottom."""
    names = page.locator("table.board").first.locator("tbody th").all_inner_texts()
    return [name.strip() for name in names]


def go(page: Any, place: str, view: str = "") -> None:
    """Show a view, and wait until it is there.

    ``view`` is by default the first part of ``place``.
    """
    if not view:
        view = place.strip("#/").split("/")[0] + "/"
    page.evaluate("place => { location.hash = place }", place)
    page.wait_for_selector(f'main[data-shown^="{view}"]')


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "dark")])
def test_every_view_fits_the_window(open_page: Open, scheme: str, width: int) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for view in (*VIEWS, "task/pocket%2Fdigits", "record/key-digits-orca-1"):
        go(page, f"#/{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    colours = map(int, background.strip("rgb()").split(","))
    assert (sum(colours) < 200) == (scheme == "dark")


def test_the_table_is_sorted_and_searched(open_page: Open) -> None:
    page = open_page()
    page.click('button[id="sort-pocket/mnist"]')
    assert methods(page) == ["nft", "orca", "scratch", "fpt"]
    page.click('button[id="sort-pocket/mnist"]')
    # The method without a score stays last.
    assert methods(page) == ["scratch", "orca", "nft", "fpt"]
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
    note = page.get_by_role("note").inner_text()
    assert note.endswith(f"; the table shows their mean, {mean}.")


def test_the_command_to_run_a_trial_again_is_one_command(open_page: Open) -> None:
    key = "k; touch 'x' $(y)"
    page = open_page(f"/record/{quote(key, safe='')}", page_of([make_record(key)]))
    assert shlex.split(page.inner_text(".command code")) == [
        "orca-sweep",
        "reproduce",
        key,
    ]


ABOUT = {
    f"pocket/{task}": {"kind": "pde" if "16" in task else "image", "size": "1 to 100"}
    for task in TASKS
}
"""Kinds and sizes of the tasks; two are of the kind pde."""


def test_a_subset_is_kept_in_the_link(open_page: Open) -> None:
    content = page_of(records(), read_about=lambda: ABOUT)
    page = open_page(content=content)
    page.click("summary#subset")
    page.uncheck('input[value="scratch"]')
    assert "scratch" not in methods(page)
    linked = open_page(page.url.partition("#")[2], content)
    assert methods(linked) == methods(page)
    linked.click("nav a >> text=Profiles")
    linked.wait_for_selector('main[data-shown="profiles/"]')
    assert (
        linked.inner_text("summary#subset")
        == f"Choose methods and tasks (3 of 4 methods, all {len(TASKS)} tasks)"
    )


def test_methods_and_tasks_are_chosen(open_page: Open) -> None:
    page = open_page(content=page_of(records(), read_about=lambda: ABOUT))
    page.click("summary#subset")
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
    rows = [
        make_record(f"{t}", task=f"pocket/a_task_of_a_long_name_{t}") for t in range(9)
    ]
    page = open_page(content=page_of(rows))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    heads = [
        table.locator("thead th").all_inner_texts()
        for table in page.locator(".scroll >> nth=0 >> table").all()
    ]
    assert len(heads) > 1
    assert {head[0] for head in heads} == {"Method"}
    assert sum(map(len, heads)) - len(heads) == 11


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
    # Lines and points of the two other methods become faint.
    assert pages[0].locator("g.faint").count() == 4


def test_durations_are_written_as_python_writes_them(open_page: Open) -> None:
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
    texts = open_page().evaluate("all => all.map(orca.format.duration)", seconds)
    assert texts == [duration(number) for number in seconds]


def test_numbers_are_rounded_as_python_rounds(open_page: Open) -> None:
    values = [2.125, 2.375, -0.625, 0.005, 2.675, 1e-9, 1234.5, 0.0]
    program = "all => all.map(x => orca.format.fixed(x, 2))"
    texts = open_page().evaluate(program, values)
    assert texts == [f"{value:.2f}" for value in values]


def test_trials_are_sorted_and_opened(open_page: Open) -> None:
    page = open_page("/record")
    page.click("#order-test")
    cells = page.locator("tbody tr td:nth-child(7)").all_inner_texts()
    scores = [text for text in cells if text != "–"]
    assert scores == sorted(scores, key=float)
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
    last_row = page.locator("tbody tr").last
    assert last_row.locator("td:nth-child(6)").inner_text() == "0.2500"
    assert "listed=all" in page.url


def test_everything_is_reached_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    name_of_focus = (
        "document.activeElement.id || document.activeElement.textContent.trim()"
    )
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    reached: list[str] = []
    while "view-effects" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(name_of_focus))
        assert page.evaluate(outline) != "none", reached[-1]
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
    command = f"orca-sweep reproduce KEY --results {HOSTILE}"
    page = open_page(content=page_of(hostile, reproduce=command))
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
    for place, view, heading in (
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
        go(page, place, view)
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
    assert "published scores of 10 tasks, 13 methods" in page.inner_text("header")
    assert methods(page) == ["MoNA secondary"]


def test_a_guard_that_aligned_with_one_seed_did_not_choose_not_to(
    open_page: Open,
) -> None:
    seeds = [
        replace(make_record(f"g{n}", method="orca_guarded", seed=n), align_chosen=n)
        for n in (0, 1)
    ]
    page = open_page("/table", page_of(seeds))
    assert "chose not to align" not in page.inner_text("main")
    page_of_one_seed = open_page("/table", page_of(seeds[:1]))
    assert "chose not to align" in page_of_one_seed.inner_text("main")
