"""What a report says: the verdict on transformers, and the standings."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from orca_ray.adaptation.choice import mean_choice
from orca_ray.adaptation.expected_seconds import seconds_of_untried
from orca_ray.adaptation.intervals import Interval
from orca_ray.adaptation.report import make_headline, make_standings, make_verdict
from orca_ray.methods.model_card import not_run_lines
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
        (0.99, "transformer earns its cost: nft has 0."),
        (0.2, "transformer does not pay: nft has"),
        (0.8, "transformer is not measurably better: nft has"),
    ],
)
def test_the_verdict_compares_with_the_best_baseline(
    toy: Toy, share: float, part: str
) -> None:
    add_methods(toy, share)
    verdict = make_verdict(toy.judge())
    assert verdict.baseline == "cnn"
    assert part in verdict.sentence
    assert "times the error [" in verdict.sentence
    assert verdict.sentence.endswith(
        "of cnn, which takes 0.25 s (60 samples of 5 common folds)"
    )


@pytest.mark.parametrize(
    ("folds", "part"),
    [
        ([1], "nft and cnn have too little in common to say which is better"),
        ([1, 2], "times the error"),
    ],
)
def test_a_verdict_takes_two_common_folds(
    toy: Toy, folds: list[int], part: str
) -> None:
    toy.add("nft", toy.draw_classifier(0.99, 1), folds=folds)
    toy.add("cnn", toy.draw_classifier(0.6, 2))
    assert part in make_verdict(toy.judge()).sentence


def test_one_validation_split_suffices_where_there_are_no_folds(toy: Toy) -> None:
    add_methods(toy, 0.99)
    judge = toy.judge()
    transformer = next(each for each in judge.ranked if each.is_pretrained)
    baseline = next(each for each in judge.ranked if not each.is_pretrained)
    for configuration in (transformer, baseline):
        configuration.records = {0: configuration.records[1]}
    judge.outputs.data = replace(toy.data, folds=None)
    num_validation = len(toy.data.validation)
    for configuration in (transformer, baseline):
        random = np.random.default_rng(0)
        judge.outputs._by_trial[configuration.records[0].trial_key] = {
            "validation": random.dirichlet([1, 1], size=num_validation)
        }
    assert "(20 samples of 1 common fold)" in make_verdict(judge).sentence


@pytest.mark.parametrize("share", [0.99, 0.2, 0.8])
def test_one_group_of_samples_allows_no_verdict(toy: Toy, share: float) -> None:
    add_methods(toy, share)
    toy.data = replace(toy.data, units=np.zeros(NUM_SAMPLES, int))
    assert make_verdict(toy.judge()).sentence.endswith(
        "than cnn, which takes 0.25 s (60 samples of 5 common folds, all of one group)"
    )


@pytest.mark.parametrize(
    ("methods", "subject"),
    [
        (["cnn"], "cnn has"),
        (["cnn", "nft"], "The mean of cnn and nft has"),
        (["cnn", "nft", "fno"], "The mean of cnn, nft and fno has"),
    ],
)
def test_the_headline_says_what_was_found(
    toy: Toy, methods: list[str], subject: str
) -> None:
    add_methods(toy, 0.8)
    judge = toy.judge()
    by_method = {each.method: each for each in judge.ranked}
    chosen = [by_method[method] for method in methods]
    choice = mean_choice(judge.outputs.out_of_fold(*chosen), chosen)
    headline = make_headline(choice, "error", Interval(0.097, 0.0612, 0.14))
    assert headline == f"{subject} an error of 9.7 % [6.1, 14.0]"
    headline = make_headline(choice, "rmse", Interval(12.345, 1.5, 200.0))
    assert headline == f"{subject} RMSE 12.3 [1.5, 200]"


def test_methods_that_did_not_run_have_the_time_that_they_need(toy: Toy) -> None:
    add_methods(toy, 0.8)
    judge = toy.judge()
    names = ["nft", "cnn", "orca"]
    plans = [
        SimpleNamespace(method=name, task="toy", first={"refine.epochs": 10})
        for name in names
    ]
    needed = seconds_of_untried(
        ["nft", "cnn"],
        judge.ranked,
        plans,  # type: ignore[arg-type]
        lambda plans: {("toy", name): 200.0 for name in names},
    )
    assert list(needed) == ["orca"]
    assert 40 < needed["orca"] < 1000, "corrected by at most four times"
    durations = {"orca": 200.0, "nft": 11.3, "scratch": 60.0}
    rows = [{"method": name, "seconds": value} for name, value in durations.items()]
    [line] = not_run_lines({"not_run": rows})
    assert line.startswith(
        "Not run: orca needs about 4 minutes, nft needs about 12 seconds, scratch needs"
        " about 1 minute for a trial."
    )
    assert not_run_lines({}) == []


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
