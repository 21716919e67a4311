"""Whether trials had converged: curves by hand, simulated studies, and a stored one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.convergence_calibration import NULLS, Study, rate
from orca_ray.leaderboard import BoardReport, build
from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.leaderboard.statistics.convergence import trial_ends
from orca_ray.leaderboard.text import footer
from orca_ray.results.store import ResultsStore

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reading-a-board.md"


def curves(*scores_of_trials: list[float], method: str = "nft") -> pd.DataFrame:
    """Return the curves of trials, of which each has a task of its own."""
    rows = [
        (f"t{trial}", method, f"{method}-{trial}", epoch, score, 0.1 / epoch)
        for trial, scores in enumerate(scores_of_trials)
        for epoch, score in enumerate(scores, start=1)
    ]
    names = ["task", "method", "trial", "epoch", "score", "learning_rate"]
    return pd.DataFrame(rows, columns=names)


class TestTrialEnds:
    def test_by_hand(self) -> None:
        ends = trial_ends(curves([4.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 0.99]))
        assert ends["best_last"].tolist() == [True, False, True]
        assert ends["still_falling"].tolist() == [True, False, False]
        assert ends["fall"].tolist() == pytest.approx([0.5, 0.5, 0.01])
        assert ends["chance"].tolist() == pytest.approx([1 / 3] * 3)
        assert ends["last_rate"].tolist() == pytest.approx([1 / 3] * 3)

    def test_the_end_of_long_training_is_its_last_twentieth_or_tenth(self) -> None:
        flat = [1.0] * 40
        ends = trial_ends(
            curves([*flat[:38], 0.5, 0.6], [*flat[:37], 0.5, 0.6, 0.6], [*flat, 0.5])
        )
        assert ends["best_last"].tolist() == [False, False, True]
        assert ends["still_falling"].tolist() == [True, False, True]
        assert ends["fall"].tolist() == pytest.approx([0.4, 0.4, 0.5])
        assert ends["chance"].tolist() == pytest.approx([0.05, 0.05, 2 / 41])

    def test_a_score_of_zero_and_a_single_epoch(self) -> None:
        ends = trial_ends(curves([1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0]))
        assert ends["still_falling"].tolist() == [True, False, False, False]
        assert ends["fall"].tolist() == pytest.approx(
            [1.0, 0.0, np.nan, np.nan], nan_ok=True
        )


def test_few_trials_may_still_improve_by_chance() -> None:
    """Of six epochs, the last is the best by chance in one trial of six."""
    plateau = [1.0, 0.9, 0.8, 0.7, 0.6, 0.65]
    falling = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    for num_falling, is_unfinished in ((2, False), (8, True)):
        trials = curves(*[falling] * num_falling, *[plateau] * (12 - num_falling))
        found = get_statistic("still_falling").compute(trials).loc["nft"]
        assert found["value"] == pytest.approx(num_falling / 12)
        assert found["unfinished"] == is_unfinished


def report(store: ResultsStore, benchmark: str) -> BoardReport:
    board = build(store, benchmark=benchmark)
    return BoardReport(board, read_curves=lambda: store.curves(board.sweep))


def test_a_study_of_six_epochs_may_not_have_converged() -> None:
    study = report(ResultsStore(str(ROOT / "docs/stores/cabinet")), "cabinet")
    trainings = {training.method: training for training in study.trainings}
    assert "gradient_boosting" not in trainings  # it has no learning rate
    assert not trainings["cnn"].may_not_have_converged
    for method in ("nft", "orca", "scratch"):
        assert trainings[method].may_not_have_converged
        assert trainings[method].epochs_text == "6 to 30"
        assert trainings[method].schedules == ("warmup_linear",)
        assert trainings[method].anneals
    (sentence,) = [line for line in footer(study) if "may not have converged" in line]
    assert "nft (40%)" in sentence
    assert "cnn" not in sentence


@pytest.mark.parametrize("epochs", [6, 100])
def test_studies_that_have_converged_are_as_seldom_called_unfinished_as_documented(
    epochs: int,
) -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().split("\n")]
    (documented,) = [cells for name, *cells in rows if name == f"{epochs} epochs"]
    for (name, noise), cell in zip(NULLS.items(), documented, strict=True):
        share = float(cell) / 100
        assert share <= 0.05, name
        error = (max(share * (1 - share), 0.002) * (1 / 300 + 1 / 2000)) ** 0.5
        simulated = rate(Study(epochs, noise), 300, seed=1)
        assert simulated == pytest.approx(share, abs=4 * error), name


def test_studies_that_still_improve_are_called_unfinished() -> None:
    assert rate(Study(6, NULLS["noise of 5 %"], fall=0.2), 50, seed=1) > 0.9
