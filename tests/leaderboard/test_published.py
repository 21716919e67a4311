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
    (found,) = (
        r
        for r in tables.all_published()
        if (r.task, r.method, r.source) == (task, method, source)
    )
    return found


def test_every_row_is_valid_and_its_score_is_the_published_one_in_our_unit() -> None:
    for row in tables.all_published():
        allowed = (
            row.kind in KINDS,
            row.protocol in tables.PROTOCOLS,
            row.flag in tables.FLAGS,
        )
        assert allowed == (True, True, True), row
        assert row.direction in ("lower", "higher")
        assert row.published
        text = tables.sources()[row.source]
        assert ("DIGITISED" in text) == (row.kind == "digitised")
        assert (text.startswith("secondary") or "transcribed" in text) == (
            row.kind == "secondary"
        )
        assert row.setting != tables.CLAIM or (
            row.task in all_benchmarks(),
            row.score,
            row.metric,
        ) == (True, None, "")
    for row in SCORED:
        task = get_task(row.task)
        if row.metric:
            of_cosmic = (
                {"false_negative_rate"} if task.short_name == "cosmic" else set()
            )
            assert row.metric in {task.metric, task.paper_metric} | of_cosmic
            assert row.score is not None
            assert 0 <= row.score <= all_metrics()[row.metric].largest
        assert row.protocol != "paper" or row.metric == (
            task.paper_metric or task.metric
        )
        scale = 100 if row.published_metric.endswith("(%)") else 1
        value = Decimal(row.published) / scale
        assert row.score == float(1 - value if row.direction == "higher" else value)
        assert row.std == (
            float(Decimal(row.published_std) / scale) if row.published_std else None
        )
    keys = [
        (row.task, row.method, row.quantity, row.setting)
        for row in SCORED
        if not row.flag
    ]
    assert len(set(keys)) == len(keys) == 194
    assert {row.source for row in tables.all_published()} == set(tables.sources())


def test_ranks_of_the_complete_methods_agree_with_what_the_authors_state() -> None:
    """The project page states ranks of ORCA on NAS-Bench-360.

    It is first on 7 of 10 tasks, and among three on all.
    """
    table = published("nasbench360").tables[0]
    complete = [method for method in table.methods if len(texts(table, method)) == 10]
    assert complete == [
        "ORCA",
        "DASH",
        "Hand-designed",
        "NAS-Bench-360 (best NAS)",
        "FPT",
        "Perceiver IO",
    ]
    scores = np.array(
        [[table.cells[m, c].score for c in table.columns] for m in complete],
        dtype=float,
    )
    mean_ranks = [table.statistics(m)["mean_rank"] for m in complete]
    assert mean_ranks == pytest.approx(rankdata(scores, axis=0).mean(axis=1).tolist())
    ranks = rankdata(scores, method="min", axis=0)[0]
    assert ((ranks == 1).sum(), ranks.max() <= 3) == (7, True)
    assert table.statistics("ORCA")["wins"] == 6.5  # one of the seven is a tie of two
    assert table.statistics("WRN (default)") == {"mean_rank": None, "wins": None}
    document = json.loads(
        json.dumps(published("nasbench360").to_dict(), allow_nan=False)
    )
    assert {row["source"] for row in document["rows"]} == set(document["sources"])


ROW = published_row("nasbench360/cifar100", "ORCA", "orca-nasbench360")
DASH = published_row("nasbench360/cifar100", "DASH", "orca-nasbench360")
DASH_COSMIC = published_row("nasbench360/cosmic", "DASH", "orca-nasbench360")
MISPRINT = published_row("nasbench360/darcy_flow", "Perceiver IO", "orca-nasbench360")
FNO = published_row("pdebench/burgers", "FNO", "orca-pdebench")


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
    found = reason_apart(row, metric, protocol)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_own_scores_beside_are_shown_in_the_published_unit() -> None:
    rows = tables.published_rows("nasbench360")
    own = [
        own_row(
            "nasbench360/cifar100", "orca", "error", "paper", Score(0.0612, 0.001, 3)
        )
    ]
    found: Any = compare(
        rows,
        "nasbench360",
        own=own,
        metrics={"nasbench360/cifar100": "error"},
        protocol="paper",
    )
    shown = [" ".join(row) for row in found.beside.grid("nasbench360", "{}*")]
    assert shown[1:] == ["orca, this store 6.12* 1 1", "ORCA 6.53 2 0"]
    assert sum(found.reasons.values()) == len(rows) - 1
    apart = compare(
        rows,
        "nasbench360",
        own=own,
        metrics={"nasbench360/cifar100": "error"},
        protocol="held-out",
    )
    assert apart.beside is None
    assert apart.tables[0].methods[0] == "ORCA"


def test_a_board_takes_its_protocol_and_the_version_of_its_metric() -> None:
    runs = [
        run("x", "orca", 0.07, seed, benchmark="nasbench360", protocol="paper")
        for seed in (0, 1)
    ]
    for each in runs:
        each["task"] = "nasbench360/cifar100"
    found: Any = published_for(build(frame(*runs), benchmark="nasbench360"))
    assert found.beside.methods == ["ORCA", "orca, this store"]
    found = published_for(
        build(
            frame(*(each | {"metric_version": 2} for each in runs)),
            benchmark="nasbench360",
        )
    )
    assert found.beside is None
    assert "its metric is error, not error (version 2)" in found.reasons


def test_scores_of_others_are_means_over_seeds_marked_with_their_source() -> None:
    common = ("theirs", "pocket/digits", "error", "held-out")
    scores = [
        SubmittedScore(*common, score, seed, "a paper")
        for seed, score in enumerate((0.1, 0.2, 0.6))
    ]
    scores.append(SubmittedScore(*common, 0.25, None, "a page", 0.02))
    seeds, mean = tables.rows_of_others("pocket", scores, {})
    assert seeds.n == 3
    assert (seeds.score, seeds.std) == pytest.approx(
        (0.3, np.std([0.1, 0.2, 0.6], ddof=1))
    )
    assert (mean.score, mean.std, mean.n) == (0.25, 0.02, None)
    assert [row.source for row in (seeds, mean)] == ["a paper", "a page"]
    found: Any = published_for(
        build(frame(run("digits", "orca", 0.2)), benchmark="pocket"), imported=scores
    )
    assert found.beside.methods == ["orca, this store", "theirs [2]", "theirs [1]"]
    assert found.notes[:2] == ("[1] a paper", "[2] a page")


def test_scores_of_another_version_are_marked_and_have_no_rank() -> None:
    """Own scores say which version is the board's, else what is declared does."""
    board = build(frame(run("digits", "orca", 0.2)), benchmark="pocket")
    current = {
        (f"pocket/{task}", "error", "held-out"): (1, "new")
        for task in ("digits", "mnist")
    }
    for task, version, fingerprint, reason in (
        ("digits", 1, "0123456789abcdef", ""),
        ("digits", 2, "", "made with version 2 of error, which has version 1 here"),
        ("digits", 1, "new", "made on data new, which are 0123456789abcdef here"),
        ("mnist", 1, "old", "made on data old, which are new here"),
    ):
        score = SubmittedScore(
            "a",
            f"pocket/{task}",
            "error",
            "held-out",
            0.1,
            0,
            "b",
            None,
            version,
            fingerprint,
        )
        found: Any = published_for(board, imported=[score], current=current)
        assert found.rows[0].flag == "version" * bool(reason)
        assert (found.beside is None) == bool(reason or task == "mnist")
        note = (
            f"a on pocket/{task}, 0.1 in b, is of another version of the task's data or"
            f" metric: {reason}; rep"
        )
        assert any(each.startswith(note) for each in found.notes) == bool(reason)
