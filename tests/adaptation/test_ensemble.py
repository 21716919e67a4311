"""Ensembles of own data: when several configurations replace the leader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orca_ray.adaptation.report import make_standings
from orca_ray.data.rows import Array, Target
from tests.adaptation.toy import NUM_KNOWN, NUM_SAMPLES, Predict, Toy

PAIR = np.arange(NUM_SAMPLES) // 2
"""Number of the pair of each sample; a pair has one sample of each class."""


def weakly_wrong_at(toy: Toy, is_wrong: Array) -> Predict:
    """Return a classifier that is surely right, and hardly wrong where ``is_wrong``."""
    return toy.classifier(np.where(is_wrong, -0.2, 2.0))


def test_an_ensemble_of_no_more_errors_may_have_a_lower_log_loss(toy: Toy) -> None:
    toy.add("nft", toy.right(0.8, 1, strength=4.0))
    assert toy.judge().ensemble() is None
    toy.add("scratch", toy.right(0.8, 1, strength=0.05))
    ensemble = toy.judge().ensemble()
    assert ensemble is not None, "one is too sure, the other not sure enough"
    assert len(ensemble.parts) == 2


def test_equal_mistakes_make_no_ensemble(toy: Toy) -> None:
    is_wrong = PAIR % 4 == 0
    toy.add("nft", toy.classifier(np.where(is_wrong, -1.0, 1.0)))
    toy.add("scratch", toy.classifier(np.where(is_wrong, -2.0, 2.0)))
    assert toy.judge().ensemble() is None


def test_an_ensemble_of_other_mistakes_is_measurably_better(toy: Toy) -> None:
    toy.add("nft", toy.wrong_at(np.flatnonzero(PAIR % 4 == 0)))
    toy.add("linear_probe", toy.wrong_at(np.flatnonzero(PAIR % 4 == 1)))
    toy.add("cnn", toy.wrong_at(np.flatnonzero(PAIR % 4 == 2)))
    ensemble = toy.judge().ensemble()
    assert ensemble is not None
    methods = {configuration.method for configuration, _ in ensemble.parts}
    assert methods >= {"linear_probe", "cnn"}
    assert sum(weight for _, weight in ensemble.parts) == pytest.approx(1)
    assert ensemble.score.low <= ensemble.score.value < 0.1


def test_the_best_of_another_method_may_have_few_folds(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.adaptation.ensemble.LEAST_COMMON", 24)
    toy.add("linear", weakly_wrong_at(toy, PAIR % 4 == 0))
    toy.add("nearest", weakly_wrong_at(toy, PAIR % 4 == 1), folds=[1, 2])
    toy.add("forest", toy.right(0.3, 1))
    judge = toy.judge()
    ensemble = judge.ensemble()
    assert ensemble is not None
    assert len(ensemble.parts) == 2
    assert ensemble.judged.num_folds == 2, "two folds are common to both"
    assert judge.outputs.out_of_fold(judge.leader).num_folds == 5


def add_networks_that_are_made_twice(toy: Toy) -> None:
    """Add a method, and one fold of another that made the same network by more work."""
    toy.add("nft", weakly_wrong_at(toy, np.isin(PAIR % 8, [0, 1])))
    toy.add("orca_guarded", weakly_wrong_at(toy, np.isin(PAIR % 8, [0, 1])), folds=[1])
    toy.records = [
        replace(
            record,
            training_loss=0.1,
            align_seconds=1.0 if record.method == "orca_guarded" else 0.0,
        )
        for record in toy.records
    ]
    toy.add("forest", weakly_wrong_at(toy, np.isin(PAIR % 8, [2, 3, 4, 5])))


def test_networks_that_another_method_made_as_well_are_no_rival(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.adaptation.ensemble.LEAST_COMMON", 10)
    add_networks_that_are_made_twice(toy)
    judge = toy.judge()
    methods = [row["method"] for row in make_standings(judge)]
    assert methods == ["nft", "orca_guarded", "forest"], "it is listed"
    ensemble = judge.ensemble()
    assert ensemble is not None
    assert len(ensemble.parts) == 2
    assert ensemble.judged.num_folds == 5, (
        "its one fold would leave out those of the others"
    )


def test_networks_that_another_method_made_as_well_lead_if_they_have_more_folds(
    toy: Toy,
) -> None:
    add_networks_that_are_made_twice(toy)
    toy.records = [
        record
        for record in toy.records
        if record.method != "nft" or '"data.fold": 1' in record.hyperparameters
    ]
    predict = weakly_wrong_at(toy, np.isin(PAIR % 8, [0, 1]))
    toy.add("orca_guarded", predict, folds=[2, 3, 4, 5])
    assert toy.judge().leader.method == "orca_guarded"


def test_numbers_are_averaged_in_their_units(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "results", target=Target("scalar"))
    noise = np.random.default_rng(1).normal(size=(2, NUM_SAMPLES))
    toy.add("nft", lambda rows: toy.y[rows] + noise[0, rows])
    toy.add("cnn", lambda rows: toy.y[rows] + noise[1, rows])
    ensemble = toy.judge().ensemble()
    assert ensemble is not None
    mean_noise = noise[:, :NUM_KNOWN].mean(axis=0)
    error = float(np.sqrt(np.mean(mean_noise**2)))
    assert ensemble.score.value == pytest.approx(error, rel=0.1)
    assert ensemble.temperature == 1


def test_of_few_samples_one_fold_is_not_enough_to_lead(toy: Toy) -> None:
    toy.add("cnn", toy.right(0.85, 1))
    toy.add("fno", toy.right(1.0, 4), folds=[1])
    assert toy.judge().leader.method == "cnn"


def test_of_few_samples_the_mean_stands_for_what_is_not_worse(toy: Toy) -> None:
    toy.add("cnn", toy.right(0.85, 1))
    toy.add("linear", toy.right(0.8, 2))
    toy.add("fpt", toy.right(0.3, 3))
    toy.add("fno", toy.right(1.0, 4), folds=[1])
    ensemble = toy.judge().ensemble()
    assert ensemble is not None
    methods = {configuration.method for configuration, _ in ensemble.parts}
    assert methods == {"cnn", "linear"}


def test_of_few_series_a_usual_method_stands_for_what_is_not_worse(toy: Toy) -> None:
    toy.task = replace(toy.task, domain="time series")
    toy.add("cnn", toy.right(0.85, 1))
    toy.add("linear", toy.right(0.8, 2))
    toy.add("minirocket", toy.right(0.3, 5))
    assert toy.judge().leader.method == "cnn"
    toy.add("minirocket_hydra", toy.right(0.85, 1))
    judge = toy.judge()
    assert judge.leader.method == "minirocket_hydra"
    assert judge.ensemble() is None


def test_a_usual_method_needs_two_folds(toy: Toy) -> None:
    toy.task = replace(toy.task, domain="time series")
    toy.add("cnn", toy.right(0.85, 1))
    toy.add("hydra", toy.right(0.95, 4), folds=[1])
    assert toy.judge().leader.method == "cnn"
    toy.add("hydra", toy.right(0.95, 4), folds=[2])
    assert toy.judge().leader.method == "hydra"
