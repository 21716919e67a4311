"""Which stored models predict which samples when the importance is measured."""

from orca_ray.adaptation.choice import mean_choice
from orca_ray.adaptation.held_out_importance import held_out_of
from tests.adaptation.toy import NUM_FOLDS, Toy


def test_models_of_folds_predict_their_own_folds(toy: Toy) -> None:
    toy.add("cnn", toy.draw_classifier(0.9, 1))
    toy.add("nft", toy.draw_classifier(0.9, 2), folds=[2, 4])
    judge = toy.judge()
    choice = mean_choice(judge.outputs.out_of_fold(*judge.ranked), judge.ranked)
    held_out = {
        fold: {record.trial_key: weight for record, weight in weighted}
        for fold, weighted in held_out_of(judge, choice)
    }
    assert held_out == {
        2: {"cnn2": 0.5, "nft2": 0.5},
        4: {"cnn4": 0.5, "nft4": 0.5},
    }


def test_samples_count_once_if_they_are_divided_twice(toy: Toy) -> None:
    toy = Toy(toy.folder, num_divisions=2)
    toy.add("cnn", toy.draw_classifier(0.9, 1))
    judge = toy.judge()
    held_out = held_out_of(judge, judge.single(judge.leader))
    assert [fold for fold, _ in held_out] == list(range(1, NUM_FOLDS + 1))
