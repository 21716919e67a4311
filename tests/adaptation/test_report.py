"""What a report says: the verdict on transformers, and the standings."""

from dataclasses import replace

import numpy as np
import pytest

from orca_ray.adaptation.report import make_standings, make_verdict
from orca_ray.sweep.worker.models import OUTPUTS
from tests.adaptation.toy import NUM_SAMPLES, Toy


def add_methods(toy: Toy, share: float) -> None:
    """Add a transformer that is right on a ``share`` of the samples, and baselines."""
    toy.add("nft", toy.draw_classifier(share, 1))
    toy.add("cnn", toy.draw_classifier(0.78, 2), seconds=0.25)
    toy.add("fno", toy.draw_classifier(0.5, 3))


@pytest.mark.parametrize(
    ("share", "part"),
    [
        (0.99, "transformer earns its cost: nft has"),
        (0.2, "does not pay"),
        (0.8, "not measurably"),
    ],
)
def test_the_verdict_compares_with_the_best_baseline(
    toy: Toy, share: float, part: str
) -> None:
    add_methods(toy, share)
    verdict = make_verdict(toy.judge())
    assert verdict.baseline == "cnn"
    assert part in verdict.sentence
    assert "cnn, which takes 0.25 s" in verdict.sentence


@pytest.mark.parametrize("share", [0.99, 0.2, 0.8])
def test_one_group_of_samples_allows_no_verdict(toy: Toy, share: float) -> None:
    add_methods(toy, share)
    toy.data = replace(toy.data, units=np.zeros(NUM_SAMPLES, int))
    assert make_verdict(toy.judge()).sentence.endswith(
        "than cnn, which takes 0.25 s (all compared samples are of one group)"
    )


def test_models_that_were_deleted_count_as_baselines_and_are_not_chosen(
    toy: Toy,
) -> None:
    toy.add("nft", toy.draw_classifier(0.7, 1))
    toy.add("cnn", toy.draw_classifier(0.9, 2))
    for record in toy.records:
        if record.method == "cnn":
            toy.models.remove(record.trial_key, keep=OUTPUTS)
    judge = toy.judge()
    assert judge.leader.method == "nft"
    assert [row["method"] for row in make_standings(judge)] == ["cnn", "nft"]
    assert make_verdict(judge).baseline == "cnn"


def test_a_network_that_trained_on_may_be_the_only_candidate(toy: Toy) -> None:
    toy.add("cnn", toy.draw_classifier(0.6, 1), folds=[1])
    toy.add_training_on(
        "cnn", toy.draw_classifier(0.9, 3), start="cnn1", samples=-2, fold=2
    )
    judge = toy.judge()
    assert judge.ensemble() is None
    assert judge.single(judge.leader).outer
    assert make_verdict(judge).baseline == "cnn"
