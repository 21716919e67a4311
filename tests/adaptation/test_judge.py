"""Choice of a configuration by out-of-fold predictions, and its expected score."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.adaptation.choice import find_usual
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from tests.adaptation.toy import NUM_KNOWN, NUM_SAMPLES, Predict, Toy
from tests.results.factories import make_record


def test_out_of_fold_predictions_are_those_of_the_fold_of_each_sample(toy: Toy) -> None:
    def predict(rows: Array) -> Array:
        return np.stack([rows, -rows], axis=1) / 100

    toy.add("nft", predict)
    judge = toy.judge()
    [configuration] = judge.ranked
    judged = judge.outputs.out_of_fold(configuration)
    exponentials = np.exp(predict(np.arange(NUM_KNOWN)))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(judged.predictions[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(judged.y, toy.y[:NUM_KNOWN])
    assert judged.num_folds == 5
    assert configuration.name == "nft"


def test_repeated_divisions_are_averaged_as_probabilities(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "results", num_divisions=2)
    sure = np.tile([4.0, -4.0], (NUM_SAMPLES, 1))
    toy.add("nft", lambda rows: sure[rows], folds=[1, 2, 3, 4, 5])
    toy.add("nft", lambda rows: 0 * sure[rows], folds=[6, 7, 8, 9, 10])
    judge = toy.judge()
    chance = 1 / (1 + np.exp(-8.0))
    judged = judge.outputs.out_of_fold(judge.leader)
    np.testing.assert_allclose(
        judged.predictions[0][:, 0], (chance + 0.5) / 2, rtol=1e-6
    )


def test_the_leader_is_best_on_common_folds_and_lags_only_by_missing_ones(
    toy: Toy,
) -> None:
    toy.add("nft", toy.draw_classifier(0.9, 1))
    toy.add("scratch", toy.draw_classifier(0.6, 2))
    toy.add("linear_probe", toy.draw_classifier(0.2, 3), folds=[1])
    toy.add("fno", toy.draw_classifier(0.95, 4), folds=[1])
    judge = toy.judge()
    assert judge.leader.method == "nft"
    assert [configuration.method for configuration in judge.ranked] == [
        "nft",
        "fno",
        "scratch",
        "linear_probe",
    ]


def test_of_equally_good_methods_the_most_usual_one_leads(toy: Toy) -> None:
    toy.add("cnn", toy.make_classifier_wrong_at([0, 1]))
    toy.add("linear", toy.make_classifier_wrong_at([2, 3, 4]))
    judge = toy.judge()
    assert [each.method for each in judge.ranked] == ["cnn", "linear"]
    assert judge.leader.method == "linear", "the difference is below a standard error"


def test_a_method_that_is_better_by_a_standard_error_leads(toy: Toy) -> None:
    toy.add("cnn", toy.make_classifier_wrong_at([0, 1]))
    toy.add("linear", toy.make_classifier_wrong_at(range(2, 12)))
    assert toy.judge().leader.method == "cnn"


def test_a_usual_method_without_a_model_of_all_samples_does_not_lead(toy: Toy) -> None:
    toy.add("cnn", toy.make_classifier_wrong_at([0, 1]))
    toy.add("linear_probe", toy.make_classifier_wrong_at([2, 3]))
    toy.add("unet", toy.make_classifier_wrong_at([]), folds=[1, 2])
    methods = ["unet", "linear_probe", "cnn"]
    judge = toy.judge()
    by_method = {each.method: each for each in judge.ranked}
    assert not judge.is_complete(by_method["unet"]), "two of five folds"
    assert judge.is_complete(by_method["cnn"]), "five folds"
    assert judge.is_complete(by_method["linear_probe"]), "it is fitted again"
    complete = filter(judge.is_complete, judge.ranked)
    usual = find_usual(by_method["cnn"], complete, methods, judge.outputs)
    assert usual.method == "linear_probe"


def test_one_fold_without_an_error_does_not_lead(toy: Toy) -> None:
    toy.add("linear", toy.make_classifier_wrong_at([0]))
    toy.add("nearest", toy.make_classifier_wrong_at([1, 2]))
    toy.add("forest", toy.make_classifier_wrong_at([3, 4, 5]))
    toy.add("gradient_boosting", toy.make_classifier_wrong_at([]), folds=[1])
    assert toy.judge().ranked[0].method == "linear", "a fold has twelve samples"


def test_a_method_of_many_errors_does_not_make_the_lead_of_another_doubtful(
    toy: Toy,
) -> None:
    def make_wrong(*num_errors: int) -> Predict:
        """Return a classifier with the given number of errors in each fold."""
        errors = [
            np.flatnonzero(toy.folds[0] == fold)[:count]
            for fold, count in enumerate(num_errors, start=1)
        ]
        return toy.make_classifier_wrong_at(np.concatenate(errors))

    toy.add("scratch", make_wrong(4, 4, 3, 4, 4))
    toy.add("fno", make_wrong(7, 12, 2, 12, 2))
    toy.add("nft", make_wrong(1), folds=[1])
    assert toy.judge().ranked[0].method == "nft", (
        "one error of 12, where scratch has 19 of 60"
    )


def test_a_temperature_is_kept_if_it_lowers_the_log_loss(toy: Toy) -> None:
    too_sure = 8.0  # a probability of 0.9999 where 0.8 is right
    toy.add("nft", toy.draw_classifier(0.8, 1, strength=too_sure))
    judge = toy.judge()
    assert judge.single(judge.leader).temperature > 4


def test_a_temperature_is_dropped_if_it_hardly_helps(toy: Toy) -> None:
    as_sure_as_right = np.log(4) / 2
    toy.add("nft", toy.draw_classifier(0.8, 1, strength=as_sure_as_right))
    judge = toy.judge()
    assert judge.single(judge.leader).temperature == 1


def test_the_outer_test_is_scored_by_the_mean_of_the_folds(toy: Toy) -> None:
    predict = toy.draw_classifier(0.7, 1)
    toy.add("nft", predict)
    judge = toy.judge()
    outer = judge.held_out(judge.single(judge.leader))
    assert outer is not None
    assert outer.value == pytest.approx(compute_error_on_test(toy, predict))


def compute_error_on_test(toy: Toy, predict: Predict) -> float:
    classes = predict(np.arange(NUM_KNOWN, NUM_SAMPLES)).argmax(axis=1)
    return float(np.mean(classes != toy.y[NUM_KNOWN:]))


def test_without_a_model_there_is_nothing_to_judge(toy: Toy) -> None:
    with pytest.raises(
        UserError, match="no trial of own/toy-123456 has ended with a model"
    ):
        toy.judge()


@pytest.mark.slow
def test_the_expected_score_allows_for_a_choice_among_equals(tmp_path: Path) -> None:
    """Each of 25 winners is the best of 8 methods with a true error of 0.25."""
    methods = [
        "nft",
        "scratch",
        "linear_probe",
        "fno",
        "cnn",
        "fpt",
        "linear",
        "forest",
    ]
    num_held = 0
    num_flattered = 0
    for seed in range(25):
        toy = Toy(tmp_path / f"{seed}")
        for number, method in enumerate(methods):
            toy.add(method, toy.draw_classifier(0.75, 100 * seed + number))
        judge = toy.judge()
        choice = judge.single(judge.leader)
        expected = judge.expected(choice, judge.held_out(choice))
        if expected.low <= 0.25 <= expected.high:
            num_held += 1
        if choice.score.value < 0.25:
            num_flattered += 1
    assert num_held >= 21
    assert num_flattered >= 21


def test_more_training_samples_lower_the_low_end_of_the_expected_score(
    toy: Toy,
) -> None:
    toy.add("cnn", toy.draw_classifier(0.75, 1), folds=[1])
    judge = toy.judge()
    choice = judge.single(judge.leader)
    before = judge.expected(choice, None)
    toy.records.append(
        make_record(
            "last",
            method="cnn",
            body="none",
            hyperparameters='{"data.fold": -1, "refine.start": "cnn1"}',
            task=toy.task.name,
        )
    )
    after = toy.judge().expected(choice, None)
    assert after.value == before.value
    assert after.high == before.high
    assert after.low == pytest.approx(before.low * 0.8 * NUM_KNOWN / NUM_SAMPLES)


def test_the_outer_test_decides_nothing(toy: Toy) -> None:
    is_test = np.arange(NUM_SAMPLES) >= NUM_KNOWN
    toy.add("cnn", toy.make_classifier(np.where(is_test, -1.0, 1.0)))
    toy.add("linear", toy.make_classifier(np.where(is_test, 1.0, -1.0)))
    judge = toy.judge()
    assert judge.leader.method == "cnn"
    assert judge.ensemble() is None


def test_a_continued_training_stands_for_a_configuration_of_few_folds(toy: Toy) -> None:
    toy.add("cnn", toy.draw_classifier(0.9, 1), folds=[1, 2])
    later = toy.draw_classifier(0.9, 3)
    toy.add_training_on("cnn", later, start="cnn1", fold=5)
    judge = toy.judge()
    record = judge.last_training(judge.leader)
    assert record is not None
    assert record.trial_key == "cnn5"
    toy.add("cnn", toy.draw_classifier(0.9, 1), folds=[3])
    judge = toy.judge()
    assert judge.last_training(judge.leader) is None, "three folds are averaged"
