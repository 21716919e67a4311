"""Ensembles of own data: when several configurations replace the leader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orca_ray.adaptation.report import make_standings
from orca_ray.data.rows import Array, Target
from tests.adaptation.toy import NUM_KNOWN, NUM_SAMPLES, Predict, Toy

PAIR = np.arange(NUM_SAMPLES) // 2
"""Pair number of each sample [N]. A pair has one sample of each class."""


def make_weakly_wrong_at(toy: Toy, is_wrong: Array) -> Predict:
    """Return a classifier that is wrong where ``is_wrong`` [N] is true.

    It is sure where it is right, and unsure where it is wrong.
    """
    return toy.make_classifier(np.where(is_wrong, -0.2, 2.0))


def test_an_ensemble_with_as_many_errors_is_chosen_for_a_lower_log_loss(
    toy: Toy,
) -> None:
    toy.add("nft", toy.draw_classifier(0.8, 1, strength=4.0))
    assert toy.judge().ensemble() is None
    toy.add("scratch", toy.draw_classifier(0.8, 1, strength=0.05))
    ensemble = toy.judge().ensemble()
    assert ensemble is not None, "one is too sure, the other not sure enough"
    assert len(ensemble.parts) == 2


def test_configurations_with_the_same_errors_make_no_ensemble(toy: Toy) -> None:
    is_wrong = PAIR % 4 == 0
    toy.add("nft", toy.make_classifier(np.where(is_wrong, -1.0, 1.0)))
    toy.add("scratch", toy.make_classifier(np.where(is_wrong, -2.0, 2.0)))
    assert toy.judge().ensemble() is None


def test_configurations_with_different_errors_make_a_better_ensemble(toy: Toy) -> None:
    toy.add("nft", make_weakly_wrong_at(toy, PAIR % 4 == 0))
    toy.add("linear_probe", make_weakly_wrong_at(toy, PAIR % 4 == 1))
    toy.add("cnn", make_weakly_wrong_at(toy, PAIR % 4 == 2))
    ensemble = toy.judge().ensemble()
    assert ensemble is not None
    assert len(ensemble.parts) >= 2
    assert sum(weight for _, weight in ensemble.parts) == pytest.approx(1)
    assert ensemble.score.low <= ensemble.score.value < 0.1


def test_a_configuration_with_few_folds_may_join_an_ensemble(toy: Toy) -> None:
    toy.add("linear", make_weakly_wrong_at(toy, PAIR % 4 == 0))
    toy.add("nearest", make_weakly_wrong_at(toy, PAIR % 4 == 1), folds=[1, 2])
    toy.add("forest", toy.draw_classifier(0.3, 1))
    judge = toy.judge()
    ensemble = judge.ensemble()
    assert ensemble is not None
    assert len(ensemble.parts) == 2
    assert ensemble.judged.num_folds == 2, "two folds are common to both"
    assert judge.outputs.out_of_fold(judge.leader).num_folds == 5


def test_a_network_joins_an_ensemble_only_with_enough_folds(
    toy: Toy,
) -> None:
    toy.add("linear", make_weakly_wrong_at(toy, PAIR % 4 == 0))
    toy.add("cnn", make_weakly_wrong_at(toy, PAIR % 4 == 1), folds=[1, 2])
    assert toy.judge().ensemble() is None, "two folds of five"
    toy.add("cnn", make_weakly_wrong_at(toy, PAIR % 4 == 1), folds=[3])
    assert toy.judge().ensemble() is not None


def add_copy_of_network(toy: Toy) -> None:
    """Add a method, a second one that made the first's network again, and a third.

    The second method has one fold, and took more time for it.
    """
    toy.add("nft", make_weakly_wrong_at(toy, np.isin(PAIR % 8, [0, 1])))
    toy.add(
        "orca_guarded", make_weakly_wrong_at(toy, np.isin(PAIR % 8, [0, 1])), folds=[1]
    )
    align_seconds = {"nft": 0.0, "orca_guarded": 1.0}
    toy.records = [
        replace(record, training_loss=0.1, align_seconds=align_seconds[record.method])
        for record in toy.records
    ]
    toy.add("forest", make_weakly_wrong_at(toy, np.isin(PAIR % 8, [2, 3, 4])))


def test_a_copy_of_a_network_by_another_method_does_not_join_the_ensemble(
    toy: Toy,
) -> None:
    add_copy_of_network(toy)
    judge = toy.judge()
    methods = [row["method"] for row in make_standings(judge)]
    assert methods == ["nft", "orca_guarded", "forest"], "it is listed"
    ensemble = judge.ensemble()
    assert ensemble is not None
    assert len(ensemble.parts) == 2
    assert ensemble.judged.num_folds == 5, (
        "its one fold would leave out those of the others"
    )


def test_a_copy_of_a_network_by_another_method_leads_if_it_has_more_folds(
    toy: Toy,
) -> None:
    add_copy_of_network(toy)
    later_keys = {"nft2", "nft3", "nft4", "nft5"}
    toy.records = [
        record for record in toy.records if record.trial_key not in later_keys
    ]
    predict = make_weakly_wrong_at(toy, np.isin(PAIR % 8, [0, 1]))
    toy.add("orca_guarded", predict, folds=[2, 3, 4, 5])
    assert toy.judge().leader.method == "orca_guarded"


def test_numbers_are_averaged_in_their_units(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "results", target=Target("scalar"))
    noise = np.random.default_rng(1).normal(size=(2, NUM_SAMPLES))
    noise_of_nft, noise_of_cnn = noise
    toy.add("nft", lambda rows: toy.y[rows] + noise_of_nft[rows])
    toy.add("cnn", lambda rows: toy.y[rows] + noise_of_cnn[rows])
    ensemble = toy.judge().ensemble()
    assert ensemble is not None
    mean_noise = noise[:, :NUM_KNOWN].mean(axis=0)
    error = float(np.sqrt(np.mean(mean_noise**2)))
    assert ensemble.score.value == pytest.approx(error, rel=0.1)
    assert ensemble.temperature == 1
