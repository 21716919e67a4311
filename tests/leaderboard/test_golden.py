"""Whole documents of boards, of a grid and of a page, and all statistics of some tables, as ``golden`` holds them.

After a wanted change, run ``python -m tests.leaderboard.test_golden`` and read the difference.
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from orca_ray.leaderboard import BoardReport, all_formats, build, empty_board, render
from orca_ray.leaderboard.published.comparison import compare
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.leaderboard.statistics import all_statistics
from orca_ray.leaderboard.statistics.questions import answers
from orca_ray.leaderboard.trials import read_searches
from orca_ray.results.record import Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.testing.scores import random_table, table
from tests.leaderboard.page.boards import data
from tests.leaderboard.test_effects import effects, grid, render_effects, square
from tests.leaderboard.test_leaderboard import failed, frame, run, seeds
from tests.results.factories import make_point

FOLDER = Path(__file__).with_name("golden")
TABLES = {
    "whole": random_table(12, 5, 3),
    "missing": random_table(11, 4, 3, missing=0.15, number=4),
    "few tasks, few seeds": random_table(4, 3, 2, missing=0.2, number=2),
    "ties": table({f"t{t}": {f"m0{m}": [0.25 * ((t * m) % 3), 0.5] for m in range(3)} for t in range(7)}),
}
FORMATS = ("csv", "json", "latex", "markdown", "table")


def report() -> BoardReport:
    """Return a board with a tie, missing and tiny scores, failures, searches, curves, costs and other sweeps."""
    cost = {"align_seconds": 0.0, "evaluate_seconds": 0.0, "peak_memory_mib": 1500.0, "num_trainable": 7_000_000}
    records = frame(
        *seeds("digits", "orca", 0.125, 0.25, 0.375, refine_seconds=10.5, wall_seconds=20.0, **cost),
        *seeds("digits", "nft", 0.25, 0.25, 0.25, refine_seconds=5.0, wall_seconds=6.0, **cost),
        *seeds("digits", "scratch", 0.5, 0.75, refine_seconds=2.0, wall_seconds=3.0, **cost),
        *seeds("darcy16", "orca", 1e-5, 3e-5, 2e-5, metric="relative_l2"),
        *seeds("darcy16", "nft", 0.01, 0.02, metric="relative_l2"),
        *seeds("darcy16", "scratch", 0.03, 0.05, metric="relative_l2"),
        *seeds("wdbc", "orca", 0.02, 0.03, 0.02, data_fingerprint="old", minutes=0),
        *seeds("wdbc", "nft", 0.05, minutes=5, data_fingerprint="new"),
        failed("wdbc", "scratch", Status.FAILED_OOM),
        failed("wdbc", "scratch", Status.FAILED_NAN),
        run("digits", "orca", 0.9, sweep="pocket/other"),
        run("digits", "nft", 0.9, protocol="paper", minutes=0),
        *(run("digits", "orca", None, phase="search", validation_score=0.5 - 0.1 * n, minutes=n) for n in range(3)),
    )
    board = build(records, benchmark="pocket", sweep="pocket/quick", protocol="held-out")
    points = [make_point(f"k{trial}", epoch, validation_score=0.6 / epoch) for trial in range(6) for epoch in (1, 2, 3)]
    curves = pd.DataFrame([point.to_row() for point in points])
    searches = read_searches(StoreSnapshot.of_frame(records), board)
    return BoardReport(board, read_curves=lambda: curves, read_searches=lambda: searches, left_out=("pocket/mnist",))


def documents() -> dict[str, str]:
    """Return the content of the files by name; the words of statistics are left out of the page."""
    suffixes = {name: all_formats()[name].suffix for name in FORMATS}
    found = {f"board{suffix}": str(render(report(), name)) for name, suffix in suffixes.items()}
    study = effects(*(square(task, 0.4, 0.2, 0.2, 0.1, noise=1.01) for task in "abcde"), of=grid(*"abcde"))
    found |= {
        f"effects{suffixes[name]}": render_effects(study, name) for name in FORMATS if all_formats()[name].effects
    }
    page = data()
    for benchmark in ("nasbench360", "pdebench"):
        published = BoardReport(empty_board(benchmark), published=compare(published_rows(benchmark), benchmark))
        found[f"published-{benchmark}.md"] = str(render(published, "markdown"))
    found["page.json"] = json.dumps(page | {"statistics": [each | {"definition": ""} for each in page["statistics"]]})
    found["statistics.json"] = json.dumps(vectors())
    return {name: json.dumps(json.loads(text)) if name.endswith("json") else text for name, text in found.items()}


def vectors() -> dict[str, Any]:
    """Return the columns of every statistic of some tables, and the ratios of the answers to questions."""
    found: dict[str, Any] = {}
    for name, scores in TABLES.items():
        renamed = scores.replace({"method": {"m00": "orca", "m01": "nft", "m02": "scratch"}})
        for each in all_statistics().values():
            if each.inputs == ("scores",):
                options = {"factors": [1, 1.05, 1.5, 2, 10]} if each.shape == "curve" else {}
                found[f"{name}: {each.name}"] = each.compute(renamed, **options).reset_index().to_dict("list")
        for answer in answers(renamed):
            found[f"{name}: {answer.sentence}"] = answer.comparison.tasks
    return found


def rounded(text: str) -> str:
    """Return a text with seven significant digits of each number: the last ones differ between processors."""
    return re.sub(r"\d+\.\d{7,}(e[-+]\d+)?", lambda found: f"{float(found[0]):.7g}", text)


def test_documents_are_the_golden_ones() -> None:
    expected = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    found = documents()
    assert found.keys() == expected.keys()
    assert [name for name in found if rounded(found[name]) != rounded(expected[name])] == []


if __name__ == "__main__":
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
