"""Published rows: what their sources say, in our units.

They stand beside own scores only where that is fair.
"""

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from orca_ray.leaderboard.board import Score
from orca_ray.leaderboard.published import (
    KINDS,
    Published,
    PublishedRow,
    PublishedTable,
    published_for,
    tables,
)
from orca_ray.leaderboard.published.comparison import compare, own_row, reason_apart
from orca_ray.leaderboard.selection import build
from orca_ray.results.submissions import SubmittedScore
from orca_ray.tasks.metrics import all_metrics
from orca_ray.tasks.registry import all_benchmarks, get_task
from tests.leaderboard.test_leaderboard import frame, run

ORCA = [
    "6.53",
    "29.85",
    "7.28e-3",
    "1.91",
    "0.152",
    "7.54",
    "0.56",
    "0.28",
    "11.59",
    "0.29",
]
"""The row of arXiv:2302.05738, as printed."""
SCORED = [row for row in tables.all_published() if row.setting != tables.CLAIM]


def published(benchmark: str) -> Published:
    return compare(tables.published_rows(benchmark), benchmark)


def texts(table: PublishedTable, method: str) -> list[str]:
    return [
        column.text(table.cells[method, column])
        for column in table.columns
        if (method, column) in table.cells
    ]


def published_row(task: str, method: str, source: str) -> PublishedRow:
    (matching_row,) = (
        row
        for row in tables.all_published()
        if (row.task, row.method, row.source) == (task, method, source)
    )
    return matching_row


def test_every_row_is_valid() -> None:
    for row in tables.all_published():
        assert row.kind in KINDS, row
        assert row.protocol in tables.PROTOCOLS, row
        assert row.flag in tables.FLAGS, row
        assert row.direction in ("lower", "higher")
        assert row.published
        if row.setting == tables.CLAIM:
            assert row.task in all_benchmarks()
            assert row.score is None
            assert row.metric == ""
    keys = [
        (row.task, row.method, row.quantity, row.setting)
        for row in SCORED
        if not row.flag
    ]
    assert len(set(keys)) == len(keys) == 294


def test_every_source_says_where_its_scores_were_read() -> None:
    for row in tables.all_published():
        text = tables.sources()[row.source]
        is_secondary = text.startswith("secondary") or "transcribed" in text
        assert ("DIGITISED" in text) == (row.kind == "digitised")
        assert is_secondary == (row.kind == "secondary")
    assert {row.source for row in tables.all_published()} == set(tables.sources())


def test_every_score_is_the_published_one_in_our_unit() -> None:
    for row in SCORED:
        scale = 100 if row.published_metric.endswith("(%)") else 1
        score = Decimal(row.published) / scale
        if row.direction == "higher":
            score = 1 - score
        assert row.score == float(score)
        std = None
        if row.published_std:
            std = float(Decimal(row.published_std) / scale)
        assert row.std == std


def test_every_metric_is_one_of_the_task() -> None:
    for row in SCORED:
        task = get_task(row.task)
        if row.metric:
            metrics = {task.metric, task.paper_metric}
            if task.short_name == "cosmic":
                metrics.add("false_negative_rate")
            assert row.metric in metrics
            assert row.score is not None
            assert 0 <= row.score <= all_metrics()[row.metric].largest
        if row.protocol == "paper":
            assert row.metric == (task.paper_metric or task.metric)


def test_ranks_of_the_complete_methods_agree_with_what_the_authors_state() -> None:
    """ORCA's project page says: first on 7 of 10 tasks, and among three on all."""
    table, *_ = published("nasbench360").tables
    complete = [method for method in table.methods if len(texts(table, method)) == 10]
    assert complete == [
        "ORCA",
        "DASH",
        "Hand-designed",
        "NAS-Bench-360 (best NAS)",
        "FPT",
        "Perceiver IO",
    ]
    scores_by_method = [
        [table.cells[method, column].score for column in table.columns]
        for method in complete
    ]
    scores = np.array(scores_by_method, dtype=float)
    mean_ranks = [table.statistics(method)["mean_rank"] for method in complete]
    assert mean_ranks == pytest.approx(rankdata(scores, axis=0).mean(axis=1).tolist())
    ranks_of_orca, *_ = rankdata(scores, method="min", axis=0)
    assert (ranks_of_orca == 1).sum() == 7
    assert ranks_of_orca.max() <= 3
    assert table.statistics("ORCA")["wins"] == 6.5  # one of the seven is a tie of two
    assert table.statistics("WRN (default)") == {"mean_rank": None, "wins": None}


def test_published_results_are_json_with_their_sources() -> None:
    text = json.dumps(published("nasbench360").to_dict(), allow_nan=False)
    document = json.loads(text)
    assert {row["source"] for row in document["rows"]} == set(document["sources"])


ROW = published_row("nasbench360/cifar100", "ORCA", "orca-nasbench360")
DASH = published_row("nasbench360/cifar100", "DASH", "orca-nasbench360")
DASH_COSMIC = published_row("nasbench360/cosmic", "DASH", "orca-nasbench360")
MISPRINT = published_row("nasbench360/darcy_flow", "Perceiver IO", "orca-nasbench360")
FNO = published_row("pdebench/burgers_original", "FNO", "orca-pdebench")


@pytest.mark.parametrize(
    ("row", "metric", "protocol", "reason"),
    [
        (ROW, "error", "paper", ""),
        (
            ROW,
            "error",
            "held-out",
            "selected on test; own scores: selected on validation",
        ),
        (ROW, None, "paper", "no own score on the task"),
        (ROW, "one_minus_map", "paper", "its metric is error, not one_minus_map"),
        (
            DASH,
            "error",
            "paper",
            (
                "the source does not say which split selected; own scores: selected on"
                " test"
            ),
        ),
        (
            DASH_COSMIC,
            "cosmic_one_minus_auroc_thresholded",
            "paper",
            "its 1-AUROC may not be cosmic_one_minus_auroc_t",
        ),
        (MISPRINT, "relative_l2", "paper", "misp"),
        (FNO, "nrmse", "paper", "averaged over the time steps"),
    ],
)
def test_a_row_stands_beside_own_scores_only_with_equal_task_metric_and_protocol(
    row: PublishedRow, metric: str | None, protocol: str, reason: str
) -> None:
    reason_found = reason_apart(row, metric, protocol)
    assert reason_found.startswith(reason)
    assert bool(reason_found) == bool(reason)


@pytest.mark.parametrize(
    ("task", "methods"),
    [
        ("pdebench/advection", []),
        ("pdebench/advection_original", ["ORCA"]),
        ("pdebench/burgers", []),
        ("pdebench/burgers_original", ["ORCA"]),
    ],
)
def test_scores_of_papers_stand_beside_the_upload_that_they_are_of_only(
    task: str, methods: list[str]
) -> None:
    """The paper is of February 2023; the uploads were corrected later that year."""
    own = own_row(task, "orca", "nrmse", "paper", Score(0.5, 0.1, 3))
    results = compare(
        tables.published_rows("pdebench"),
        "pdebench",
        own=[own],
        metrics={task: "nrmse"},
        protocol="paper",
    )
    beside = results.beside.methods if results.beside else []
    assert [name for name in beside if "this store" not in name] == methods
    assert f"{task} is {tables.TASKS[task]}" in results.notes


def test_no_source_before_the_correction_is_of_a_corrected_upload() -> None:
    early_sources = ("orca-pdebench", "pdebench-supplement", "wizwand-orca")
    for row in tables.published_rows("pdebench"):
        if row.task in ("pdebench/advection", "pdebench/burgers"):
            assert row.source not in early_sources
            assert row.method != "ORCA"


def test_a_task_with_a_note_on_its_files_exists() -> None:
    for task in tables.TASKS:
        assert get_task(task).files[0].urls[0].split("/")[-1] in tables.TASKS[task]


def test_own_scores_beside_are_shown_in_the_published_unit() -> None:
    rows = tables.published_rows("nasbench360")
    own = own_row(
        "nasbench360/cifar100", "orca", "error", "paper", Score(0.0612, 0.001, 3)
    )
    metrics = {own.task: "error"}
    same_protocol = compare(
        rows, "nasbench360", own=[own], metrics=metrics, protocol="paper"
    )
    assert same_protocol.beside is not None
    lines = [" ".join(row) for row in same_protocol.beside.grid("nasbench360", "{}*")]
    assert lines[1:] == ["orca, this store 6.12* 1 1", "ORCA 6.53 2 0"]
    assert sum(same_protocol.reasons.values()) == len(rows) - 1

    other_protocol = compare(
        rows, "nasbench360", own=[own], metrics=metrics, protocol="held-out"
    )
    assert other_protocol.beside is None
    assert other_protocol.tables[0].methods[0] == "ORCA"


def test_a_board_takes_its_protocol_and_the_version_of_its_metric() -> None:
    runs = [
        run("x", "orca", 0.07, seed, benchmark="nasbench360", protocol="paper")
        | {"task": "nasbench360/cifar100"}
        for seed in (0, 1)
    ]
    first_version: Any = published_for(build(frame(*runs), benchmark="nasbench360"))
    assert first_version.beside.methods == ["ORCA", "orca, this store"]
    runs_of_version_2 = [run | {"metric_version": 2} for run in runs]
    second_version: Any = published_for(
        build(frame(*runs_of_version_2), benchmark="nasbench360")
    )
    assert second_version.beside is None
    reason = "its metric is error, not error (version 2)"
    assert reason in second_version.reasons


def test_scores_of_others_are_means_over_seeds_marked_with_their_source() -> None:
    common = ("theirs", "pocket/digits", "error", "held-out")
    scores = [
        SubmittedScore(*common, score, seed, "a paper")
        for seed, score in enumerate((0.1, 0.2, 0.6))
    ]
    scores.append(SubmittedScore(*common, 0.25, None, "a page", 0.02))
    seeds, mean = tables.rows_of_others("pocket", scores, {})
    assert seeds.score == pytest.approx(0.3)
    assert seeds.std == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert (seeds.n, seeds.source) == (3, "a paper")
    assert (mean.score, mean.std, mean.n) == (0.25, 0.02, None)
    assert mean.source == "a page"

    board = build(frame(run("digits", "orca", 0.2)), benchmark="pocket")
    results: Any = published_for(board, imported=scores)
    assert results.beside.methods == ["orca, this store", "theirs [2]", "theirs [1]"]
    assert results.notes[:2] == ("[1] a paper", "[2] a page")


@pytest.mark.parametrize(
    ("task", "version", "fingerprint", "reason"),
    [
        ("digits", 1, "0123456789abcdef", ""),
        ("digits", 2, "", "made with version 2 of error, which has version 1 here"),
        ("digits", 1, "new", "made on data new, which are 0123456789abcdef here"),
        ("mnist", 1, "old", "made on data old, which are new here"),
    ],
)
def test_scores_of_another_version_are_marked_and_have_no_rank(
    task: str, version: int, fingerprint: str, reason: str
) -> None:
    """Own scores say which version is the board's, else what is declared does."""
    board = build(frame(run("digits", "orca", 0.2)), benchmark="pocket")
    declared = {
        ("pocket/digits", "error", "held-out"): (1, "new"),
        ("pocket/mnist", "error", "held-out"): (1, "new"),
    }
    score = SubmittedScore(
        method="a",
        task=f"pocket/{task}",
        metric="error",
        protocol="held-out",
        score=0.1,
        seed=0,
        source="b",
        metric_version=version,
        data_fingerprint=fingerprint,
    )
    results: Any = published_for(board, imported=[score], current=declared)
    note = (
        f"a on pocket/{task}, 0.1 in b, is of another version of the task's data or"
        f" metric: {reason}; rep"
    )
    has_note = any(text.startswith(note) for text in results.notes)
    if reason:
        assert results.rows[0].flag == "version"
        assert has_note
        assert results.beside is None
    else:
        assert results.rows[0].flag == ""
        assert not has_note
        assert results.beside is not None
