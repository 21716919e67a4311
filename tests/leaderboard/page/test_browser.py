"""The page in a headless browser; `open_page` fails a test in which the page logs or requests anything."""

import json
import re
import shlex
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from orca_ray.cli.output import duration
from orca_ray.leaderboard import Grid, Report, build_effects, empty_board, render
from orca_ray.leaderboard.page import page_data
from orca_ray.leaderboard.published import all_published, compare, published_rows
from orca_ray.results import artefacts
from orca_ray.results.artefacts import Image, Plot, Quantised
from orca_ray.results.record import Status
from tests.leaderboard.page.boards import HOSTILE, METHODS, SCRIPT, SEEDS, TASKS, data, page_of, tables
from tests.leaderboard.page.conftest import Open
from tests.results.factories import make_record

VIEWS = ("table", "task", "profiles", "differences", "pareto", "effects", "record")
pytestmark = pytest.mark.slow


def methods(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("table.board").first.locator("tbody th").all_inner_texts()]


def go(page: Any, place: str, shown: str = "") -> None:
    """Show a view, and wait until it is there."""
    page.evaluate("place => { location.hash = place }", place)
    page.wait_for_selector(f'main[data-shown^="{shown or place.strip("#/").split("/")[0] + "/"}"]')


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "dark")])
def test_every_view_fits_the_window(open_page: Open, scheme: str, width: int) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for view in (*VIEWS, "task/pocket%2Fdigits", "record/key-digits-orca-1"):
        go(page, f"#/{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("main h2").count() == 1
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark.strip("rgb()").split(","))) < 200) == (scheme == "dark")


def test_the_table_is_sorted_and_searched(open_page: Open) -> None:
    page = open_page()
    content = data()
    task = next(index for index, each in enumerate(content["tasks"]) if each["label"] == "digits")
    means = {
        each["name"]: sum(score for t, m, _, score, _ in content["scores"] if (t, m) == (task, index)) / SEEDS
        for index, each in enumerate(content["methods"])
        if each["name"] in METHODS
    }
    page.click('button[id="sort-pocket/digits"]')
    assert methods(page) == [*sorted(means, key=means.__getitem__), "fpt"]
    page.click('button[id="sort-pocket/digits"]')
    assert methods(page) == [*sorted(means, key=means.__getitem__, reverse=True), "fpt"]
    assert page.locator('th[aria-sort="descending"]').count() == 1
    page.focus("#search")
    page.keyboard.type("scratch")  # each letter draws the table again
    assert page.input_value("#search") == "scratch"
    assert methods(page) == ["scratch"]
    page.fill("#search", "wdbc")
    assert len(methods(page)) == len(METHODS) + 1
    assert page.locator("table.board").first.locator("thead th").count() == 4
    page.fill("#search", "nothing")
    assert page.locator('[role="status"]').inner_text() == "No method or task has this name."


def test_scores_lead_to_their_trials(open_page: Open) -> None:
    page = open_page()
    assert methods(page)[-1] == "fpt"
    page.click("td.failed a")  # a method whose trials all failed
    page.wait_for_selector('main[data-shown="record/key-failed"]')
    assert "CUDA out of memory" in page.inner_text("pre")
    page.click("#view-table")
    score = page.locator('table.board td a[href*="key-digits-orca-"]').first
    assert score.get_attribute("title") == "The mean over 3 seeds. Opens the trial of seed 0, one of them."
    mean = score.inner_text().split()[0]
    score.focus()
    score.press("Enter")
    page.wait_for_selector('main[data-shown="record/key-digits-orca-0"]')
    assert page.get_by_role("note").inner_text().startswith("This is seed 0, one of 3: its test score is ")
    assert page.get_by_role("note").inner_text().endswith(f"; the table shows their mean, {mean}.")
    text = page.inner_text("main")
    assert "orca-sweep reproduce key-digits-" in text
    assert all(part in text for part in ("refine.learning_rate", "0123456789abcdef", "orca-ray 0.1.0", "torch 2.9.0"))


def test_the_command_to_run_a_trial_again_is_one_command(open_page: Open) -> None:
    key = "k; touch 'x' $(y)"
    page = open_page(f"/record/{quote(key, safe='')}", page_of([make_record(key)]))
    command = page.inner_text(".command code")
    assert shlex.split(command) == ["orca-sweep", "reproduce", key]
    page = open_page("/record/k", page_of([make_record("k")], reproduce="orca-sweep reproduce KEY --results DIR"))
    assert "DIR: the folder given as --results when this page was made." in page.inner_text("main")


def test_a_subset_is_kept_in_the_link(open_page: Open) -> None:
    page = open_page()
    page.click("summary#subset")
    page.uncheck('input[value="scratch"]')
    assert "scratch" not in methods(page)
    again = open_page(page.url.partition("#")[2])
    assert methods(again) == methods(page)
    again.click("nav a >> text=Profiles")
    again.wait_for_selector('main[data-shown="profiles/"]')
    assert again.inner_text("summary#subset") == f"Choose methods and tasks (3 of 4 methods, all {len(TASKS)} tasks)"
    for method in ("nft", "fpt"):
        page.uncheck(f'input[value="{method}"]')
    assert methods(page) == ["orca"]
    assert page.locator('input[value="orca"]').is_disabled()
    assert "choose at least one" in page.inner_text("details.subset")
    assert page.inner_text(".brief").startswith("orca is the only method with scores here, on 6 tasks.")
    assert page.inner_text("#subset") == "Choose methods and tasks (1 of 4 methods, all 6 tasks)"
    page.click("#methods-all")
    assert page.url.endswith("#/")


def test_a_clear_effect_says_that_it_is_not_corrected_for_many_pairs(open_page: Open) -> None:
    """The interval of six ratios excludes 1; of the 28 pairs of eight methods, none is separable after correction."""
    factors: dict[str, tuple[float, ...]] = {"nft": (0.5, 0.9, 0.95, 0.6, 0.85, 0.9), "scratch": (1.0,) * 6}
    factors |= {f"m{m}": tuple(1 + 0.1 * ((t + m) % 3) for t in range(6)) for m in range(6)}
    rows = [
        make_record(f"{method}-{t}", method=method, task=f"pocket/{task}", test_score=factor)
        for method, each in factors.items()
        for t, (task, factor) in enumerate(zip(TASKS, each, strict=True))
    ]
    page = open_page("/effects", page_of(rows))
    note = page.inner_text('figure[aria-label="Did pretraining help?"] .note')
    assert note.startswith("Pretraining helped over 6 tasks")
    assert note.endswith(
        "The interval is for this one question, without correction for many comparisons: "
        "with it, nft and scratch are not separable (see Differences)."
    )


def test_methods_that_tie_are_all_named(open_page: Open) -> None:
    scores = {"nft": [0.1] * 6, "orca": [0.2] * 5 + [0.05], "orca_guarded": [0.1] * 6}
    rows = [
        make_record(f"{method}-{t}", task=f"pocket/{task}", method=method, seed=1, test_score=values[t])
        for method, values in scores.items()
        for t, task in enumerate(TASKS)
    ]
    rows = [replace(row, align_chosen=0, align_reused=True) if row.method == "orca_guarded" else row for row in rows]
    plots = (Plot("before", ()), Plot("after", ()))
    features = artefacts.Points(title="Features", caption="Features.", x="first", y="second", panels=plots)
    pictures = {"orca_guarded-0": [json.loads(features.to_json())]}
    page = open_page(
        content=page_of(rows, read_about=lambda: {"nft": {"title": "no align"}}, read_artefacts=lambda: pictures)
    )
    brief = page.locator(".brief p").all_inner_texts()
    assert brief[0] == (
        "nft and orca_guarded are each best on 5 of 6 tasks (tied on 5) and have the lowest mean rank (1.67)."
    )
    assert brief[1] == "nft and orca_guarded have equal scores on each of 6 tasks. All pairs"
    assert brief[-1] == "One seed per score (seed 1): no spread is known."
    about = page.locator("main dl.facts").first.inner_text()
    assert "no align" in about
    assert "in its scored configuration, its probe chose not to align on burgers16, darcy16, digits, mnist," in about
    go(page, "#/task")
    assert page.locator("text=Best: nft and orca_guarded").count() == 5
    go(page, "#/record/orca_guarded-0")
    text = page.inner_text("main")
    assert "chose not to align" in text
    assert "; aligning (tried and discarded) reused from an equal trial" in text
    assert "both of one fixed sample; tried and discarded" in text
    assert "Features. Aligning was tried and discarded: “after” shows the features before it, too." in text


def test_curves_of_distances_name_the_distance_of_each_method(open_page: Open) -> None:
    rows = [
        make_record(f"{method}-digits", method=method, hyperparameters=json.dumps({"align.distance": distance}))
        for method, distance in (("orca", "l2"), ("orca_guarded", "otdd"))
    ]
    content = page_of(rows)
    content["curves"]["orca_guarded-digits"] = {"align": {"epoch": [1, 2], "distance": [3.0, 2.0]}}
    page = open_page("/task/pocket%2Fdigits", content)
    legend = page.locator('figure[aria-label="Distance while aligning"] .legend').inner_text()
    assert legend.split("\n") == ["orca: l2 distance", "orca_guarded: otdd distance"]


def test_costs(open_page: Open) -> None:
    """Costs that differ by less than five per cent are equal; their axis is labelled over its whole range."""
    seconds = {"nft": 30.0, "orca": 29.0, "scratch": 920.0}
    rows = [
        make_record(method, method=method, test_score=0.1 + 0.1 * (method == "scratch"), wall_seconds=each)
        for method, each in seconds.items()
    ]
    place = "/pareto?cost=wall_seconds&on=pocket%2Fdigits"
    page = open_page(place, page_of(rows), viewport={"width": 390, "height": 800})
    labels = page.locator('figure svg [aria-label="x-axis tick label"] text').all_text_contents()
    assert labels == ["50", "100", "200", "500"]
    page.click("text=Numbers")
    fronts = [row.split("\t")[-1] for row in page.locator("figure tbody tr").all_inner_texts()]
    assert fronts == ["yes, equal to orca", "yes, equal to nft", "no"]


def test_durations_are_the_command_lines_and_trials_are_sorted(open_page: Open) -> None:
    page = open_page("/record")
    seconds = [0.1, 8.44, 59.94, 59.96, 60, 111.1, 359.6, 3599.4, 3599.6, 7199.7, 7629, 360_000]
    assert page.evaluate("all => all.map(orca.format.duration)", seconds) == [duration(each) for each in seconds]
    page.click("#order-test")
    shown = [text for text in page.locator("tbody tr td:nth-child(7)").all_inner_texts() if text != "–"]
    assert shown == sorted(shown, key=float)
    page.click("#order-test")
    assert page.locator("#order-test").inner_text() == "Test score ▼"
    page.locator('a[title="key-digits-nft-0"]').click()
    page.wait_for_selector('main[data-shown="record/key-digits-nft-0"]')


def test_a_long_list_of_trials_says_so_and_is_shown_whole(open_page: Open) -> None:
    rows = [make_record("confirmed")]
    rows += [make_record(f"s{n}", phase="search", test_score=None, validation_score=0.25) for n in range(250)]
    page = open_page("/record", page_of(rows))
    assert page.locator("tbody tr").count() == 200
    assert page.get_by_role("status").inner_text() == "The first 200 of 251 trials."
    page.click("text=Show all 251")
    assert page.locator("tbody tr").count() == 251
    assert page.locator("tbody tr").last.locator("td:nth-child(6)").inner_text() == "0.2500"
    assert "listed=all" in page.url


def test_everything_is_reached_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        label = page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        reached.append(label)
        assert outline != "none", label
        if label == "view-effects":
            page.keyboard.press("Enter")
            break
    assert {"view-table", "view-profiles"} <= set(reached)
    page.wait_for_selector('main[data-shown="effects/"]')
    assert page.evaluate("document.activeElement.tagName") == "H2"
    page.focus("#view-effects")
    page.keyboard.press("Enter")  # the view is shown already
    assert page.evaluate("document.activeElement.id") == "view-effects"


def test_text_from_records_is_never_markup(open_page: Open) -> None:
    hostile = [
        make_record("h0", method=HOSTILE, hyperparameters=json.dumps({HOSTILE: SCRIPT}), notes=SCRIPT, device=HOSTILE),
        make_record("h1", method=SCRIPT, test_score=0.25, minutes=2, body=HOSTILE),
        make_record(
            "h2", method=HOSTILE, seed=1, test_score=None, status=Status.FAILED_USER, error=HOSTILE + SCRIPT, minutes=3
        ),
        make_record(SCRIPT, method=HOSTILE, task=f"pocket/{SCRIPT}", minutes=4, metric=HOSTILE),
    ]
    page = open_page(content=page_of(hostile, reproduce=f"orca-sweep reproduce KEY --results {HOSTILE}"))
    for view in (*VIEWS, "task/pocket%2Fdigits", "record/h0", "record/h2", "record/%3C%2Fscript%3E"):
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
    ):
        go(page, place, shown)
        assert page.locator("main h2").all_inner_texts() == [heading]


def test_a_live_page_reloads_itself_and_keeps_its_view(open_page: Open) -> None:
    page = open_page("/task/pocket%2Fdigits", refresh=1)
    page.wait_for_event("load")
    page.wait_for_selector('main[data-shown="task/pocket/digits"]')


PICTURES = [
    artefacts.Matrix(title="Confusion", rows="true class", columns="predicted class", counts=((3, 1), (0, 4))),
    artefacts.Images(
        title="Field",
        panels=(
            Image("true", Quantised.encode([[0.0, 1.0], [2.0, 4.0]])),
            Image("error", Quantised.encode([[-1.0, 0.0], [0.5, 1.0]]), "diverging"),
        ),
    ),
    artefacts.Points(
        title="Features", x="first", y="second",
        panels=(Plot("after", (artefacts.Group("a", Quantised.encode([0.0, 1.0]), Quantised.encode([1.0, 2.0])),)),),
    ),
    artefacts.Lines(
        title="Sample", x="time", series=(artefacts.Series("channel 0", Quantised.encode([0.0, 1.0, 0.0])),)
    ),
    artefacts.Bars(title="Labels", x="label", series=(artefacts.BarSeries(HOSTILE, (0.5, None, 0.75)),)),
]  # fmt: skip


def test_a_record_has_its_pictures_and_a_damaged_one_leaves_it_whole(open_page: Open) -> None:
    key = "key-digits-orca-0"
    broken = [{"form": "images", "title": "Broken", "panels": [{"title": "x"}]}, {"form": "none", "title": "New"}]
    pictures = [*(json.loads(picture.to_json()) for picture in PICTURES), *broken]
    page = open_page(f"/record/{key}", {**data(), "artefacts": {key: pictures}})
    shown = page.locator("figure h3").all_inner_texts()
    assert {picture.title for picture in PICTURES} < set(shown)
    assert page.locator("text=This picture is damaged").count() == 2
    counts = page.locator('figure[aria-label="Confusion"] svg [aria-label="text"] text').all_text_contents()
    assert counts == ["3", "1", "4"]
    pixels = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 2, 2).data)"
    true = page.locator('canvas[aria-label="true"]').evaluate(pixels)
    assert true[:3] + true[-4:-1] == [68, 1, 84, 253, 231, 37]  # the ends of viridis
    error = page.locator('canvas[aria-label="error"]').evaluate(pixels)
    assert error[2] > error[0]  # blue below, white at zero
    assert min(error[4:7]) > 230
    assert "refine.learning_rate" in page.inner_text("main")


def test_published_scores_of_an_empty_store(open_page: Open) -> None:
    published = compare(published_rows("nasbench360"), "nasbench360")
    page = open_page(content=page_data(Report(empty_board("nasbench360"), published)))
    assert "Nothing was run here yet" in page.inner_text(".brief")
    first = page.locator("table.board tbody tr").first.locator("th, td").all_inner_texts()
    values = ["6.53", "29.85", "7.28e-3", "1.91", "0.152", "7.54", "0.56", "0.28", "11.59", "0.29"]
    assert [text.strip() for text in first] == ["ORCA", "1.45", *values]
    assert page.locator("td.best").first.inner_text() == "29.85"
    benchmark = next(row.benchmark for row in all_published() if row.kind == "digitised")
    digitised = compare(published_rows(benchmark), benchmark)
    page = open_page(content=page_data(Report(empty_board(benchmark), digitised)))
    assert page.locator("main .flag >> text=read off a figure").count() > 0


def test_the_page_of_a_grid_begins_with_its_effects(open_page: Open) -> None:
    rows = [
        make_record(
            f"g{rate}{seed}", seed=seed, test_score=score + seed / 100, hyperparameters=json.dumps({"rate": rate})
        )
        for rate, score in ((1, 0.2), (2, 0.1))
        for seed in (0, 1)
    ]
    plan = {("pocket/digits", "orca"): [({"rate": "slow"}, {"rate": 1}), ({"rate": "fast"}, {"rate": 2})]}
    frame, _ = tables(rows)
    effects = build_effects(frame, Grid(plan, [0, 1]), benchmark="pocket", sweep="pocket/quick")
    text = str(render(Report(empty_board("pocket"), effects=effects), "html"))
    content = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    page = open_page(content=content)
    assert page.inner_text("main h3 >> nth=0") == "Effect of rate, relative to slow"
    page.click("text=Numbers")
    assert f"{0.105 / 0.205:.3f}" in page.inner_text("figure")
    page.click("text=Test scores, mean ± standard deviation over seeds 0, 1")
    assert page.locator("details.panel table").last.locator("tr").all_inner_texts()[1:] == [
        "slow\t0.2050 ± 0.0071", "fast\t0.1050 ± 0.0071",
    ]  # fmt: skip
    assert page.locator("details.panel b").first.text_content() == "0.51"  # better beyond noise


def test_importance_of_hyper_parameters_is_shown_with_the_effects(open_page: Open) -> None:
    trials = [
        make_record(
            f"s{index}", phase="search", test_score=None, validation_score=[0.1, 0.9][index % 2] + index / 1000,
            minutes=index, hyperparameters=json.dumps({"matters": index % 2, "constant": 1, "noise": index % 3}),
        )
        for index in range(12)
    ]  # fmt: skip
    page = open_page("/effects", page_of([make_record("scored", minutes=20.0), *trials]))
    rows = page.locator(".panel tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["matters", "noise"]
