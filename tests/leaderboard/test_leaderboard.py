import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard import Other, build
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, from_rows, to_frame
from tests.results.factories import make_record

Run = dict[str, Any]


def frame(*runs: Run) -> pd.DataFrame:
    """Return records as the store does, one a run, each with its own key and a minute later than the last."""
    records = [make_record(f"k{index}", **({"minutes": index} | run)) for index, run in enumerate(runs)]
    return to_frame(from_rows((record.to_row() for record in records), RECORDS))


def run(task: str, method: str, score: float | None = 0.5, seed: int = 0, **changes: Any) -> Run:
    return {"task": f"pocket/{task}", "method": method, "test_score": score, "seed": seed, **changes}


def seeds(task: str, method: str, *scores: float, **changes: Any) -> list[Run]:
    return [run(task, method, score, seed, **changes) for seed, score in enumerate(scores)]


def failed(task: str, method: str, status: Status, **changes: Any) -> Run:
    return run(task, method, None, status=status, **changes)


class TestScores:
    def test_mean_and_sample_deviation_over_seeds(self) -> None:
        board = build(frame(*seeds("digits", "orca", 0.1, 0.2, 0.6), run("digits", "nft", 0.25)), benchmark="pocket")
        score = board.score("pocket/digits", "orca")
        assert score.mean == pytest.approx(0.3)
        assert score.std == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
        assert score.n == 3
        alone = board.score("pocket/digits", "nft")
        assert (alone.mean, alone.n) == (0.25, 1)
        assert np.isnan(alone.std)
        assert board.seeds == (0, 1, 2)
        assert board.metrics == {"pocket/digits": "error"}

    def test_search_trials_never_make_a_score(self) -> None:
        board = build(
            frame(run("digits", "orca", 0.3), run("digits", "orca", 0.0, 1, phase="search")), benchmark="pocket"
        )
        assert board.score("pocket/digits", "orca") == pytest.approx((0.3, float("nan"), 1), nan_ok=True)
        assert board.count("orca", Status.COMPLETED) == 2

    @pytest.mark.parametrize("status", [status for status in Status if status is not Status.COMPLETED])
    def test_only_completed_trials_make_a_score(self, status: Status) -> None:
        records = frame(run("digits", "orca", 0.3), run("digits", "orca", 0.1, 1, status=status))
        assert build(records, benchmark="pocket").score("pocket/digits", "orca").n == 1

    def test_a_method_without_a_score_is_there(self) -> None:
        board = build(
            frame(
                run("digits", "orca"), failed("digits", "nft", Status.FAILED_OOM), failed("wdbc", "nft", Status.LOST)
            ),
            benchmark="pocket",
        )
        assert board.tasks == ("pocket/digits", "pocket/wdbc")
        assert sorted(board.methods) == ["nft", "orca"]
        assert board.score("pocket/digits", "nft").n == board.score("pocket/wdbc", "orca").n == 0
        assert board.best("pocket/digits") == ["orca"]
        assert board.best("pocket/wdbc") == []

    def test_nothing_confirmed_yet(self) -> None:
        board = build(frame(run("digits", "orca", None, phase="search")), benchmark="pocket")
        assert board.seeds == ()
        assert board.score("pocket/digits", "orca").n == 0
        assert board.count("orca", Status.COMPLETED) == 1

    def test_several_bodies_on_one_task_get_a_column_each(self) -> None:
        board = build(
            frame(
                run("digits", "orca", 0.1, body="vit-s14"),
                run("digits", "orca", 0.2, body="minilm-l6"),
                run("osuleaf", "orca", 0.3, body="minilm-l6"),
                run("digits", "nft", 0.3, body="vit-s14"),
                run("osuleaf", "nft", 0.3, body="minilm-l6"),
            ),
            benchmark="pocket",
        )
        assert set(board.methods) == {"nft", "orca (minilm-l6)", "orca (vit-s14)"}
        assert board.score("pocket/digits", "orca (minilm-l6)").mean == 0.2

    def test_a_body_a_task_is_one_column(self) -> None:
        board = build(
            frame(run("digits", "orca", body="vit-s14"), run("osuleaf", "orca", body="minilm-l6")), benchmark="pocket"
        )
        assert board.methods == ("orca",)


class TestWhatIsLeftOut:
    def test_an_earlier_state_of_the_data(self) -> None:
        board = build(
            frame(
                *seeds("digits", "orca", 0.1, 0.1, 0.1, data_fingerprint="old"),
                run("wdbc", "orca", 0.4, data_fingerprint="old"),
                run("digits", "orca", 0.3, data_fingerprint="new"),
            ),
            benchmark="pocket",
        )
        assert board.score("pocket/digits", "orca")[::2] == (0.3, 1)
        assert board.score("pocket/wdbc", "orca").n == 1
        assert board.notes == ("3 confirm trial(s) on an earlier version of their task's data or metric left out",)

    def test_another_metric(self) -> None:
        board = build(
            frame(run("digits", "orca", 0.1, metric="error"), run("digits", "orca", 0.3, metric="rmse")),
            benchmark="pocket",
        )
        assert board.metrics["pocket/digits"] == "rmse"
        assert board.score("pocket/digits", "orca").mean == 0.3

    def test_a_failed_trial_does_not_say_which_data_is_current(self) -> None:
        board = build(
            frame(run("digits", "orca", 0.1), failed("digits", "orca", Status.FAILED_USER, data_fingerprint="odd")),
            benchmark="pocket",
        )
        assert board.score("pocket/digits", "orca").n == 1
        assert board.notes == ()

    @pytest.mark.parametrize(("num_new", "mean"), [(2, 0.1), (3, 0.9), (4, 0.9)])
    def test_configurations_are_not_mixed(self, num_new: int, mean: float) -> None:
        records = frame(
            *seeds("digits", "orca", 0.1, 0.1, 0.1, hyperparameters="{}"),
            *seeds("digits", "orca", *[0.9] * num_new, hyperparameters='{"refine.epochs":9}'),
        )
        board = build(records, benchmark="pocket")
        assert board.score("pocket/digits", "orca").mean == pytest.approx(mean)
        assert board.score("pocket/digits", "orca").n == max(3, num_new)
        assert len(board.notes) == 1
        assert "of other configurations" in board.notes[0]

    def test_a_completed_trial_without_test_score(self) -> None:
        board = build(frame(run("digits", "orca", 0.1), run("digits", "orca", None, 1)), benchmark="pocket")
        assert board.score("pocket/digits", "orca").n == 1
        assert board.notes == ("1 completed confirm trial(s) without a test score left out",)


class TestWhichBoard:
    @pytest.fixture
    def records(self) -> pd.DataFrame:
        return frame(
            *seeds("digits", "orca", 0.1, 0.1, sweep="pocket/full"),
            *seeds("digits", "orca", 0.2, 0.2, 0.2, sweep="pocket/full", protocol="paper"),
            run("digits", "orca", 0.3, sweep="pocket/quick"),
            run("ecg", "orca", 0.4, sweep="nasbench360/full", benchmark="nasbench360"),
        )

    @pytest.mark.parametrize(
        ("asked", "got"),
        [
            ({}, ("pocket/full", "paper", 0.2)),
            ({"protocol": "held-out"}, ("pocket/full", "held-out", 0.1)),
            ({"sweep": "pocket/quick"}, ("pocket/quick", "held-out", 0.3)),
            ({"sweep": "pocket/full"}, ("pocket/full", "paper", 0.2)),
            ({"sweep": "pocket/full", "protocol": "held-out"}, ("pocket/full", "held-out", 0.1)),
        ],
    )
    def test_one_sweep_and_one_protocol(
        self, records: pd.DataFrame, asked: dict[str, Any], got: tuple[str, str, float]
    ) -> None:
        board = build(records, benchmark="pocket", **asked)
        assert (board.sweep, board.protocol) == got[:2]
        assert board.score("pocket/digits", "orca").mean == pytest.approx(got[2])
        all_pairs = {("pocket/full", "held-out"), ("pocket/full", "paper"), ("pocket/quick", "held-out")}
        assert sorted((other.sweep, other.protocol) for other in board.others) == sorted(all_pairs - {got[:2]})
        assert board.tasks == ("pocket/digits",)

    def test_the_most_recent_of_equals(self) -> None:
        records = frame(run("digits", "orca", sweep="z"), run("digits", "orca", sweep="a"))
        assert build(records, benchmark="pocket").sweep == "a"
        assert build(records.iloc[::-1], benchmark="pocket").sweep == "a"

    def test_many_configurations_of_one_seed_are_one_score(self) -> None:
        cells = [run("digits", "orca", 0.1, sweep="study/full", hyperparameters=f'{{"n":{n}}}') for n in range(5)]
        board = build(frame(*seeds("digits", "orca", 0.3, 0.3), *cells), benchmark="pocket")
        assert board.sweep == "pocket/quick"
        assert board.others == (Other("study/full", "held-out", 5),)

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            ({"benchmark": "poket"}, "no records of benchmark 'poket'. Did you mean 'pocket'"),
            ({"benchmark": "pocket", "sweep": "pocket/quik"}, "Did you mean 'pocket/quick'"),
            ({"benchmark": "pocket", "protocol": "heldout"}, "Did you mean 'held-out'"),
            (
                {"benchmark": "pocket", "sweep": "pocket/quick", "protocol": "paper"},
                "There are: held-out",
            ),
        ],
    )
    def test_names_that_are_not_there(self, records: pd.DataFrame, asked: dict[str, Any], told: str) -> None:
        with pytest.raises(UserError, match=re.escape(told)):
            build(records, **asked)

    def test_an_empty_store(self, tmp_path: Path) -> None:
        store = ResultsStore(tmp_path / "r", create=True)
        with pytest.raises(UserError, match="no records of benchmark 'pocket' yet: run"):
            build(store.records(), benchmark="pocket")


def test_methods_are_sorted_by_mean_rank_and_several_may_be_the_best() -> None:
    """The mean ranks on a, b and c are 5.5 / 3, 5.5 / 3 and 7 / 3; d has one method alone."""
    scores = {"a": (0.1, 0.2, 0.3), "b": (0.5, 0.5, 0.9), "c": (0.3, 0.2, 0.1)}
    runs = [
        run(task, method, score)
        for task, values in scores.items()
        for method, score in zip(("orca", "nft", "scratch"), values, strict=True)
    ]
    board = build(frame(*runs, run("d", "orca", 0.0)), benchmark="pocket")
    assert board.methods == ("nft", "orca", "scratch")
    assert board.best("pocket/b") == ["nft", "orca"]
    assert board.best("pocket/d") == ["orca"]


class TestStatuses:
    def test_every_trial_is_counted(self) -> None:
        records = frame(
            *(failed("digits", "orca", status, phase="search") for status in Status if status is not Status.COMPLETED),
            failed("wdbc", "orca", Status.FAILED_NAN),
            run("digits", "nft"),
        )
        board = build(records, benchmark="pocket")
        assert list(board.statuses.columns) == [status.value for status in Status]
        assert int(board.statuses.to_numpy().sum()) == len(records)
        assert board.count("orca", Status.FAILED_NAN) == 2
        assert board.count("nft", Status.LOST) == 0

    def test_through_the_store(self, tmp_path: Path) -> None:
        store = ResultsStore(tmp_path / "r", create=True)
        make: Callable[..., Record] = make_record
        store.append([make(f"k{seed}", seed=seed, test_score=0.1 * seed) for seed in range(3)])
        store.append([make("k9", seed=9, status=Status.LOST, test_score=None)])
        board = build(store.records(), benchmark="pocket")
        assert board.score("pocket/digits", "orca").mean == pytest.approx(0.1)
        assert board.count("orca", Status.LOST) == 1
