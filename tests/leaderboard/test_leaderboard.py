"""Boards: which trials make a score, which sweep and protocol a board has.

Also how trials are counted, and how boards differ.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard import Other, build
from orca_ray.leaderboard.difference import Kind, compare_boards
from orca_ray.leaderboard.format import score_frame
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, from_rows, to_frame
from tests.results.factories import make_record

Run = dict[str, Any]


def frame(*runs: Run) -> pd.DataFrame:
    """Return records as the store does, one a run.

    Each has its own key, and finished a minute later than the last.
    """
    records = [
        make_record(f"k{index}", **({"minutes": index} | run))
        for index, run in enumerate(runs)
    ]
    return to_frame(from_rows((record.to_row() for record in records), RECORDS))


def run(
    task: str, method: str, score: float | None = 0.5, seed: int = 0, **changes: Any
) -> Run:
    return {
        "task": f"pocket/{task}",
        "method": method,
        "test_score": score,
        "seed": seed,
        **changes,
    }


def seeds(task: str, method: str, *scores: float, **changes: Any) -> list[Run]:
    return [
        run(task, method, score, seed, **changes) for seed, score in enumerate(scores)
    ]


def failed(task: str, method: str, status: Status, **changes: Any) -> Run:
    return run(task, method, None, status=status, **changes)


def orca(score: float | None = 0.5, seed: int = 0, **changes: Any) -> Run:
    return run("digits", "orca", score, seed, **changes)


def test_mean_and_sample_deviation_over_seeds() -> None:
    board = build(
        frame(*seeds("digits", "orca", 0.1, 0.2, 0.6), run("digits", "nft", 0.25)),
        benchmark="pocket",
    )
    assert board.score("pocket/digits", "orca") == pytest.approx(
        (0.3, np.std([0.1, 0.2, 0.6], ddof=1), 3)
    )
    assert board.score("pocket/digits", "nft") == pytest.approx(
        (0.25, np.nan, 1), nan_ok=True
    )
    assert board.seeds == (0, 1, 2)
    assert board.metrics == {"pocket/digits": "error"}


def two_configurations(num_seeds: int, num_later_seeds: int) -> list[Run]:
    """Return runs with the score 0.1, and later ones of another configuration, 0.9."""
    first = [orca(0.1, seed, hyperparameters="{}") for seed in range(num_seeds)]
    later = [
        orca(0.9, seed, hyperparameters='{"refine.epochs":9}')
        for seed in range(num_later_seeds)
    ]
    return [*first, *later]


OLDER = "confirm trial(s) on an earlier version of their task's data or metric left out"


@pytest.mark.parametrize(
    ("runs", "mean", "n", "notes"),
    [
        ([orca(0.3), orca(0.0, 1, phase="search")], 0.3, 1, []),
        *(
            ([orca(0.3), orca(0.1, 1, status=status)], 0.3, 1, [])
            for status in Status
            if status is not Status.COMPLETED
        ),
        (
            [orca(0.1), orca(None, 1)],
            0.1,
            1,
            ["1 completed confirm trial(s) without a test score left out"],
        ),
        (
            [
                *(orca(0.1, seed, data_fingerprint="old") for seed in range(3)),
                orca(0.3, data_fingerprint="new"),
            ],
            0.3,
            1,
            [f"3 {OLDER}"],
        ),
        ([orca(0.1, metric="error"), orca(0.3, metric="rmse")], 0.3, 1, [f"1 {OLDER}"]),
        # A failed trial does not say which data is current.
        (
            [orca(0.1), orca(None, status=Status.FAILED_USER, data_fingerprint="odd")],
            0.1,
            1,
            [],
        ),
        (two_configurations(3, 2), 0.1, 3, None),
        (two_configurations(3, 3), 0.9, 3, None),
        (two_configurations(3, 4), 0.9, 4, None),
    ],
)
def test_completed_confirm_trials_of_the_configuration_with_most_seeds_make_a_score(
    runs: list[Run], mean: float, n: int, notes: list[str] | None
) -> None:
    """Among configurations with equally many seeds, the latest one counts."""
    board = build(frame(*runs), benchmark="pocket")
    score = board.score("pocket/digits", "orca")
    assert score.mean == pytest.approx(mean)
    assert score.n == n
    if notes is None:
        (note,) = board.notes
        assert "of other configurations" in note
    else:
        assert list(board.notes) == notes
    assert sum(board.count("orca", status) for status in Status) == len(runs)


def test_a_method_and_a_task_without_a_score_are_there() -> None:
    failures = (
        failed("digits", "nft", Status.FAILED_OOM),
        failed("wdbc", "nft", Status.LOST),
    )
    board = build(frame(orca(), *failures), benchmark="pocket")
    assert board.tasks == ("pocket/digits", "pocket/wdbc")
    assert sorted(board.methods) == ["nft", "orca"]
    assert board.score("pocket/digits", "nft").n == 0
    assert board.score("pocket/wdbc", "orca").n == 0
    assert board.best("pocket/digits") == []
    assert board.best("pocket/wdbc") == []
    assert board.count("nft", Status.FAILED_OOM) == 1
    assert board.count("nft", Status.LOST) == 1
    assert board.count("nft", Status.COMPLETED) == 0
    nothing = build(frame(orca(None, phase="search")), benchmark="pocket")
    assert nothing.seeds == ()
    assert nothing.count("orca", Status.COMPLETED) == 1


def test_several_bodies_on_one_task_get_a_column_each() -> None:
    one_each = frame(orca(body="vit-s14"), run("osuleaf", "orca", body="minilm-l6"))
    assert build(one_each, benchmark="pocket").methods == ("orca",)
    several = frame(
        orca(0.1, body="vit-s14"),
        orca(0.2, body="minilm-l6"),
        run("osuleaf", "orca", 0.3, body="minilm-l6"),
        run("digits", "nft", 0.3, body="vit-s14"),
        run("osuleaf", "nft", 0.3, body="minilm-l6"),
    )
    board = build(several, benchmark="pocket")
    assert set(board.methods) == {"nft", "orca (minilm-l6)", "orca (vit-s14)"}
    assert board.score("pocket/digits", "orca (minilm-l6)").mean == 0.2


class TestWhichBoard:
    @pytest.fixture
    def records(self) -> pd.DataFrame:
        return frame(
            *seeds("digits", "orca", 0.1, 0.1, sweep="pocket/full"),
            *seeds(
                "digits", "orca", 0.2, 0.2, 0.2, sweep="pocket/full", protocol="paper"
            ),
            orca(0.3, sweep="pocket/quick"),
            run("ecg", "orca", 0.4, sweep="nasbench360/full", benchmark="nasbench360"),
        )

    def test_one_sweep_and_one_protocol(self, records: pd.DataFrame) -> None:
        full = ("pocket/full", "held-out")
        paper = ("pocket/full", "paper")
        quick = ("pocket/quick", "held-out")
        for options, chosen, mean in (
            ({}, paper, 0.2),
            ({"protocol": "held-out"}, full, 0.1),
            ({"sweep": "pocket/quick"}, quick, 0.3),
            ({"sweep": "pocket/full", "protocol": "held-out"}, full, 0.1),
        ):
            board = build(records, benchmark="pocket", **options)
            not_shown = {(sweep.sweep, sweep.protocol) for sweep in board.others}
            assert (board.sweep, board.protocol) == chosen
            assert not_shown == {full, paper, quick} - {chosen}
            assert board.score("pocket/digits", "orca").mean == pytest.approx(mean)
            assert board.tasks == ("pocket/digits",)

    def test_the_most_recent_of_equal_sweeps_is_shown(self) -> None:
        records = frame(orca(sweep="z"), orca(sweep="a"))
        assert build(records, benchmark="pocket").sweep == "a"
        assert build(records.iloc[::-1], benchmark="pocket").sweep == "a"

    def test_many_configurations_of_one_seed_are_one_score(self) -> None:
        cells = [
            orca(0.1, sweep="study/full", hyperparameters=f'{{"n":{n}}}')
            for n in range(5)
        ]
        records = frame(*seeds("digits", "orca", 0.3, 0.3), *cells)
        board = build(records, benchmark="pocket")
        assert board.sweep == "pocket/quick"
        assert board.others == (Other("study/full", "held-out", 5),)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"benchmark": "poket"},
                "no records of benchmark 'poket'. Did you mean 'pocket'",
            ),
            (
                {"benchmark": "pocket", "sweep": "pocket/quik"},
                "Did you mean 'pocket/quick'",
            ),
            ({"benchmark": "pocket", "protocol": "heldout"}, "Did you mean 'held-out'"),
            (
                {"benchmark": "pocket", "sweep": "pocket/quick", "protocol": "paper"},
                "There are: held-out",
            ),
        ],
    )
    def test_unknown_names_are_answered_with_the_nearest(
        self, options: dict[str, str], message: str, records: pd.DataFrame
    ) -> None:
        with pytest.raises(UserError, match=re.escape(message)):
            build(records, **options)


def test_methods_are_sorted_by_mean_rank_and_several_may_be_the_best() -> None:
    # The mean ranks on a, b and c are 5.5 / 3, 5.5 / 3 and 7 / 3. Only one method has a
    # score on d.
    records = frame(
        run("a", "orca", 0.1),
        run("a", "nft", 0.2),
        run("a", "scratch", 0.3),
        run("b", "orca", 0.5),
        run("b", "nft", 0.5),
        run("b", "scratch", 0.9),
        run("c", "orca", 0.3),
        run("c", "nft", 0.2),
        run("c", "scratch", 0.1),
        run("d", "orca", 0.0),
    )
    board = build(records, benchmark="pocket")
    assert board.methods == ("nft", "orca", "scratch")
    assert board.best("pocket/b") == ["nft", "orca"]
    assert board.best("pocket/d") == [], "a single score is not the best"


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path / "r", create=True)
    with pytest.raises(
        UserError, match="'pocket' yet: run `orca-sweep benchmark pocket`"
    ):
        build(store.records(), benchmark="pocket")


Seeds = list[float] | dict[int, float]


def scores_of(**scores: Seeds) -> pd.DataFrame:
    """Return the scores of methods on the task digits, by seed."""
    runs = []
    for name, values in scores.items():
        by_seed = values if isinstance(values, dict) else dict(enumerate(values))
        runs += [run("digits", name, score, seed) for seed, score in by_seed.items()]
    return score_frame(build(frame(*runs), benchmark="pocket"))


NAN = math.nan


@pytest.mark.parametrize(
    ("before", "after", "kind", "difference", "error", "seeds"),
    [
        # The differences are -0.1, -0.1 and -0.13, then 0.1, -0.1 and 0.03: noise
        # between seeds cancels.
        (
            [0.9, 0.5, 0.2],
            [0.8, 0.4, 0.07],
            Kind.BETTER,
            -0.11,
            0.0173205 / math.sqrt(3),
            3,
        ),
        (
            [0.4, 0.5, 0.2],
            [0.5, 0.4, 0.23],
            Kind.WITHIN_NOISE,
            0.01,
            0.1014889 / math.sqrt(3),
            3,
        ),
        # Other seeds are not paired: two variances of 0.02 over two seeds each.
        ({0: 0.2, 1: 0.4}, {5: 1.7, 6: 1.9}, Kind.WORSE, 1.5, math.sqrt(0.02), 0),
        (
            {0: 0.2, 1: 0.4},
            {5: 0.7, 6: 0.9},
            Kind.WITHIN_NOISE,
            0.5,
            math.sqrt(0.02),
            0,
        ),
        # Of one common seed, only this seed is compared.
        ([0.5, 0.25, 0.4], {0: 0.125}, Kind.UNKNOWN, -0.375, NAN, 1),
        ([0.5], [0.25], Kind.UNKNOWN, -0.25, NAN, 1),
        ([0.5], [0.5], Kind.EQUAL, 0, NAN, 1),
        ([0.5, 0.25], [0.5, 0.25], Kind.EQUAL, 0, 0, 2),
        # Seeds that differ by the same amount show no noise.
        ([0.5, 0.25], [0.375, 0.125], Kind.UNKNOWN, -0.125, 0, 2),
        ([0.01, 0.02], [0.02, 0.03], Kind.UNKNOWN, 0.01, 0, 2),
        ({0: 0.1, 1: 0.1}, {5: 0.2, 6: 0.2}, Kind.UNKNOWN, 0.1, 0, 0),
        ([0.5, 0.25], {7: 0.5}, Kind.WITHIN_NOISE, 0.125, math.sqrt(0.03125 * 1.5), 0),
    ],
)
def test_a_change_is_compared_with_the_noise_over_seeds(
    before: Seeds, after: Seeds, kind: Kind, difference: float, error: float, seeds: int
) -> None:
    (change,) = compare_boards(scores_of(orca=before), scores_of(orca=after))
    assert change.kind == kind
    assert change.seeds == seeds
    assert change.difference == pytest.approx(difference, rel=1e-5)
    assert change.error == pytest.approx(error, rel=1e-5, abs=1e-12, nan_ok=True)
    assert change.after - change.before == pytest.approx(difference)


def test_scores_that_appear_and_disappear() -> None:
    before = build(
        frame(*seeds("digits", "orca", 0.1), run("mnist", "nft", None)),
        benchmark="pocket",
    )
    after = build(frame(*seeds("mnist", "nft", 0.2)), benchmark="pocket")
    changes = compare_boards(score_frame(before), score_frame(after))
    by_cell = {(change.task, change.method): change for change in changes}
    gone = by_cell["pocket/digits", "orca"]
    new = by_cell["pocket/mnist", "nft"]
    assert (gone.kind, gone.before) == (Kind.DISAPPEARED, 0.1)
    assert (new.kind, new.after) == (Kind.APPEARED, 0.2)
    assert np.isnan([gone.after, new.before, gone.difference]).all()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("metric_version", 2, "metric version 1 → 2"),
        ("metric", "f1", "metric error → f1"),
        ("data_fingerprint", "ff", "data fingerprint 0123456789abcdef → ff"),
        ("protocol", "paper", "protocol held-out → paper"),
    ],
)
def test_other_versions_are_not_compared(
    column: str, value: int | str, reason: str
) -> None:
    before = scores_of(orca=[0.1, 0.2])
    (change,) = compare_boards(before, before.assign(**{column: value}))
    assert (change.kind, change.reason) == (Kind.INCOMPARABLE, reason)
