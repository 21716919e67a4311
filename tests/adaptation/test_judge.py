"""Choice of the model of own data by out-of-fold predictions.

Tested are what leads, what is averaged, and what is reported.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from orca_ray.adaptation.intervals import Interval, Judged
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.report import make_standings, make_verdict
from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError
from orca_ray.methods.model_folder import CONFIG
from orca_ray.models.mixture import Average
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.testing.trials import make_task
from tests.results.factories import make_record

N = 60
N_TEST = 40
TWO = Target("classes", size=2)
Predict = Callable[[Array], Array]
"""Function from the numbers of samples to their logits [n, 2]."""


class Toy:
    """A store with the outputs of trials, which tests add."""

    def __init__(self, folder: Path, *, target: Target = TWO, repeats: int = 1) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.models = StoredModels(folder)
        self.records = list[Record]()
        self.task = replace(make_task(target, (1, 1)), name="own/toy-123456")
        self.y = np.arange(N + N_TEST) % 2
        if target.kind == "scalar":
            self.y = random.normal(size=N + N_TEST).astype(np.float32)
        self.folds = np.array(
            [random.permutation(np.arange(N) % 5) + 1 for _ in range(repeats)], np.int8
        )
        x = np.zeros((N + N_TEST, 1, 1), np.float32)
        names: tuple[SplitName, ...] = ("train", "validation", "test")
        parts = zip(names, np.split(x, [40, N]), np.split(self.y, [40, N]), strict=True)
        splits = {name: Split(inputs, targets) for name, inputs, targets in parts}
        self.data = PreparedData(
            self.task.name, "0" * 16, splits, None, None, Path(), self.folds
        )

    def add(
        self,
        method: str,
        predict: Predict,
        folds: list[int] | None = None,
        seconds: float = 1.0,
    ) -> None:
        """Add trials of a method whose model predicts ``predict`` (rows).

        Rows from N on are the outer test.
        """
        for fold in folds or range(1, 5 * len(self.folds) + 1):
            rows = np.flatnonzero(self.folds[(fold - 1) // 5] == (fold - 1) % 5 + 1)
            key = f"{method}{fold}"
            parts = {
                "validation": predict(rows),
                "test": predict(np.arange(N, N + N_TEST)),
            }
            directory = self.folder / "new" / key
            directory.mkdir(parents=True)
            save_file(
                {
                    name: np.ascontiguousarray(part, np.float32)
                    for name, part in parts.items()
                },
                directory / OUTPUTS,
            )
            (directory / CONFIG).write_text("{}")
            self.models.add(key, directory)
            found = parts["validation"]
            self.records.append(
                make_record(
                    key,
                    method=method,
                    body="none",
                    hyperparameters=json.dumps({"data.fold": fold, "a": 1}),
                    validation_score=(
                        0.5
                        if found.ndim == 1
                        else float(np.mean(found.argmax(axis=1) != self.y[rows]))
                    ),
                    wall_seconds=seconds,
                    task=self.task.name,
                )
            )

    def judge(self) -> Judge:
        return Judge(self.task, self.data, self.records, self.models)

    def right(self, share: float, seed: int, strength: float = 3.0) -> Predict:
        """Return a classifier that is right on a random share of the samples."""
        correct = np.random.default_rng(seed).random(N + N_TEST) < share
        return lambda rows: (
            strength
            * (
                2 * np.eye(2)[np.where(correct[rows], self.y[rows], 1 - self.y[rows])]
                - 1
            )
        )


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "results")


def test_out_of_fold_predictions_are_those_of_the_fold_of_each_sample(toy: Toy) -> None:
    toy.add("nft", lambda rows: np.stack([rows, -rows], axis=1) / 100)
    judge = toy.judge()
    [candidate] = judge.ranked
    judged = judge.outputs.out_of_fold(candidate)
    logits = np.stack([np.arange(N), -np.arange(N)], axis=1) / 100
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(judged.predictions[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(judged.y, toy.y[:N])
    assert judged.num_folds == 5
    assert candidate.name == "nft"


def test_repeated_divisions_are_averaged_as_probabilities(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "results", repeats=2)
    sure = np.tile([4.0, -4.0], (N + N_TEST, 1))
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
    toy.add("nft", toy.right(0.9, 1))
    toy.add("scratch", toy.right(0.6, 2))
    toy.add("linear_probe", toy.right(0.2, 3), folds=[1])
    toy.add("fno", toy.right(0.95, 4), folds=[1])
    judge = toy.judge()
    assert judge.leader.method == "nft"
    assert [each.method for each in judge.ranked] == [
        "nft",
        "fno",
        "scratch",
        "linear_probe",
    ]


def test_one_fold_without_an_error_does_not_lead(toy: Toy) -> None:
    def wrong_at(*rows: int) -> Predict:
        signs = np.where(np.isin(np.arange(N + N_TEST), rows), -1.0, 1.0)
        return lambda rows: signs[rows, None] * (2 * np.eye(2)[toy.y[rows]] - 1)

    toy.add("linear", wrong_at(0))
    toy.add("nearest", wrong_at(1, 2))
    toy.add("forest", wrong_at(3, 4, 5))
    toy.add("gradient_boosting", wrong_at(), folds=[1])
    assert toy.judge().ranked[0].method == "linear", "a fold has twelve samples"


def test_a_method_of_many_errors_does_not_make_the_lead_of_another_doubtful(
    toy: Toy,
) -> None:
    def wrong(*counts: int) -> Predict:  # number of errors of each fold
        errors = [
            np.flatnonzero(toy.folds[0] == fold)[:count]
            for fold, count in enumerate(counts, start=1)
        ]
        sign = np.where(np.isin(np.arange(N + N_TEST), np.concatenate(errors)), -1, 1)
        return lambda rows: sign[rows, None] * (2 * np.eye(2)[toy.y[rows]] - 1)

    toy.add("scratch", wrong(4, 4, 3, 4, 4))
    toy.add("fno", wrong(7, 12, 2, 12, 2))
    toy.add("nft", wrong(1), folds=[1])
    assert toy.judge().ranked[0].method == "nft", (
        "one error of 12, where scratch has 19 of 60"
    )


def test_the_best_of_another_method_may_have_few_folds(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.adaptation.ensemble.LEAST_COMMON", 24)

    def weakly_wrong_at(remainder: int) -> Predict:
        strength = np.where(np.arange(N + N_TEST) // 2 % 4 == remainder, -0.2, 2.0)
        return lambda rows: strength[rows, None] * (2 * np.eye(2)[toy.y[rows]] - 1)

    toy.add("linear", weakly_wrong_at(0))
    toy.add("nearest", weakly_wrong_at(1), folds=[1, 2])
    toy.add("forest", toy.right(0.3, 1))
    judge = toy.judge()
    found = judge.ensemble()
    assert found is not None
    assert (len(found.parts), found.judged.num_folds) == (
        2,
        2,
    ), "two folds are common to both"
    assert judge.outputs.out_of_fold(judge.leader).num_folds == 5


def test_networks_that_another_method_made_as_well_are_no_rival(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.adaptation.ensemble.LEAST_COMMON", 10)

    def weakly_wrong_at(*remainders: int) -> Predict:
        strength = np.where(
            np.isin(np.arange(N + N_TEST) // 2 % 8, remainders), -0.2, 2.0
        )
        return lambda rows: strength[rows, None] * (2 * np.eye(2)[toy.y[rows]] - 1)

    toy.add("nft", weakly_wrong_at(0, 1))
    toy.add("orca_guarded", weakly_wrong_at(0, 1), folds=[1])
    toy.records = [
        replace(each, training_loss=0.1, align_seconds=float(each.method > "o"))
        for each in toy.records
    ]
    toy.add("forest", weakly_wrong_at(2, 3, 4, 5))
    judge = toy.judge()
    assert [each["method"] for each in make_standings(judge)] == [
        "nft",
        "orca_guarded",
        "forest",
    ], "it is listed"
    chosen = judge.ensemble()
    assert chosen is not None
    assert (len(chosen.parts), chosen.judged.num_folds) == (
        2,
        5,
    ), "its one fold would leave out those of the others"
    toy.records = [
        each
        for each in toy.records
        if each.method != "nft" or '"data.fold": 1' in each.hyperparameters
    ]
    toy.add("orca_guarded", weakly_wrong_at(0, 1), folds=[2, 3, 4, 5])
    assert toy.judge().leader.method == "orca_guarded", (
        "it has more folds, as trials of the other have failed"
    )


def test_an_ensemble_of_no_more_errors_may_have_a_lower_log_loss(toy: Toy) -> None:
    toy.add("nft", toy.right(0.8, 1, strength=4.0))
    assert toy.judge().ensemble() is None
    toy.add("scratch", toy.right(0.8, 1, strength=0.05))
    found = toy.judge().ensemble()
    assert found is not None, "equal errors; one is too sure, the other not sure enough"
    assert len(found.parts) == 2


@pytest.mark.parametrize("metric", ["relative_l2", "nrmse", "rmse", "error"])
def test_losses_of_samples_have_the_metric_as_their_mean(metric: str) -> None:
    random = np.random.default_rng(0)
    average: Average = "softmax" if metric == "error" else "values"
    y = (
        random.integers(3, size=40)
        if metric == "error"
        else random.normal(size=(40, 3, 2))
    )
    predictions = (
        random.dirichlet(np.ones(3), 40)
        if metric == "error"
        else y + random.normal(size=y.shape)
    )
    judged = Judged(metric, average, y, [predictions], 1)
    losses = judged.losses(predictions)
    assert losses is not None
    assert losses.shape == (40,)
    found = judged.interval(predictions)
    assert found.value == pytest.approx(judged.score(predictions), rel=1e-6)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("metric", ["error", "rmse"])
def test_the_interval_of_samples_in_groups_holds_the_score_of_new_groups(
    metric: str,
) -> None:
    random = np.random.default_rng(0)
    held = {True: 0, False: 0}
    for _ in range(200):
        units = np.repeat(np.arange(20) * 3, 15)  # numbers may be absent
        hard = random.normal(0, 1, 60)[units]
        if metric == "error":
            predictions = np.where(
                (hard + random.normal(0, 1, len(units)) > 0)[:, None],
                [0.3, 0.7],
                [0.7, 0.3],
            )
            y = np.zeros(len(units), int)
            truth = 0.5
        else:
            predictions = y = hard + random.normal(0, 1, len(units))
            y = np.zeros(len(units))
            truth = math.sqrt(2)
        for grouped in held:
            judged = Judged(
                metric,
                "softmax" if metric == "error" else "values",
                y,
                [],
                1,
                units if grouped else None,
            )
            found = judged.interval(predictions)
            held[grouped] += found.low <= truth <= found.high
    assert 0.8 <= held[True] / 200 <= 0.96
    assert held[False] / 200 < 0.7, "as if samples were independent"


def test_groups_without_an_error_count_as_samples() -> None:
    y = np.zeros(60, int)
    right = np.tile([0.9, 0.1], (60, 1))
    one, other = (
        Judged("error", "softmax", y, [], 1, units).interval(right)
        for units in (None, np.arange(60) // 15)
    )
    assert one.high < 0.05 < 0.3 < other.high < 0.6


def test_errors_and_comparisons_of_few_groups_are_in_doubt() -> None:
    y = np.zeros(100, int)
    units = np.arange(100) // 20
    highs = []
    for count in (0, 1, 2, 4):
        wrong = (np.arange(100) < count)[:, None]
        judged = Judged("error", "softmax", y, [], 1, units)
        highs.append(judged.interval(np.where(wrong, [0.1, 0.9], [0.9, 0.1])).high)
    assert min(highs) > 0.15, "one error is as doubtful as none"
    random = np.random.default_rng(0)
    values = random.normal(size=(50, 2))
    one = np.zeros(50, int)
    found = Judged("rmse", "values", np.zeros(50), [], 1, one).interval(
        *values.T, of=lambda a, b: a / b
    )
    assert (found.low, found.high) == (
        -math.inf,
        math.inf,
    ), "a single group says nothing of others"


def test_an_ensemble_is_kept_only_if_it_is_measurably_better(toy: Toy) -> None:
    def wrong_at(remainder: int, strength: float = 1.0) -> Predict:
        sign = np.where(np.arange(N + N_TEST) // 2 % 4 == remainder, -1, 1)
        return lambda rows: (
            strength * (sign[rows, None] * (2 * np.eye(2)[toy.y[rows]] - 1))
        )

    toy.add("nft", wrong_at(0))
    toy.add("scratch", wrong_at(0, strength=2.0))
    assert toy.judge().ensemble() is None, "equal mistakes"
    toy.add("linear_probe", wrong_at(1))
    toy.add("cnn", wrong_at(2))
    found = toy.judge().ensemble()
    assert found is not None
    assert {candidate.method for candidate, _ in found.parts} >= {"linear_probe", "cnn"}
    assert sum(weight for _, weight in found.parts) == pytest.approx(1)
    assert found.score.low <= found.score.value < 0.1


def test_a_temperature_is_kept_only_if_it_lowers_the_log_loss(toy: Toy) -> None:
    toy.add("nft", toy.right(0.8, 1, strength=8.0))  # 0.9999 where 0.8 is right
    judge = toy.judge()
    choice = judge.single(judge.leader)
    assert choice.temperature > 4
    calm = Toy(toy.folder.parent / "calm")
    calm.add("nft", calm.right(0.8, 1, strength=np.log(4) / 2))
    judge = calm.judge()
    assert judge.single(judge.leader).temperature == 1


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.99, "transformer earns its cost: nft has"),
        (0.2, "does not pay"),
        (0.8, "not measurably"),
    ],
)
def test_the_verdict_compares_with_the_best_baseline(
    toy: Toy, share: float, said: str
) -> None:
    toy.add("nft", toy.right(share, 1))
    toy.add("cnn", toy.right(0.78, 2), seconds=0.25)
    toy.add("fno", toy.right(0.5, 3))
    base, verdict = make_verdict(toy.judge())
    assert base == "cnn"
    assert said in verdict
    assert "cnn, which takes 0.25 s" in verdict
    toy.data = replace(toy.data, units=np.zeros(N + N_TEST, int))
    assert make_verdict(toy.judge()).sentence.endswith(
        "than cnn, which takes 0.25 s (all compared samples are of one group)"
    )


def test_the_outer_test_is_scored_by_the_mean_of_the_folds(toy: Toy) -> None:
    predict = toy.right(0.7, 1)
    toy.add("nft", predict)
    judge = toy.judge()
    wrong = predict(np.arange(N, N + N_TEST)).argmax(axis=1) != toy.y[N:]
    outer = judge.held_out(judge.single(judge.leader))
    assert outer is not None
    assert outer.value == pytest.approx(wrong.mean())


def test_numbers_are_averaged_in_their_units(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "results", target=Target("scalar"))
    noise = np.random.default_rng(1).normal(size=(2, N + N_TEST))
    for method, part in zip(("nft", "cnn"), noise, strict=True):
        toy.add(method, lambda rows, part=part: toy.y[rows] + part[rows])  # type: ignore[misc]
    judge = toy.judge()
    choice = judge.ensemble()
    assert choice is not None
    assert choice.score.value == pytest.approx(
        float(np.sqrt(np.mean(noise[:, :N].mean(axis=0) ** 2))), rel=0.1
    )
    assert choice.temperature == 1


def test_models_that_were_deleted_count_as_baselines_and_are_not_chosen(
    toy: Toy,
) -> None:
    toy.add("nft", toy.right(0.7, 1))
    toy.add("cnn", toy.right(0.9, 2))
    for record in toy.records:
        if record.method == "cnn":
            toy.models.remove(record.trial_key, keep=OUTPUTS)
    judge = toy.judge()
    assert judge.leader.method == "nft"
    assert [row["method"] for row in make_standings(judge)] == ["cnn", "nft"]
    assert make_verdict(judge)[0] == "cnn"


def test_without_a_model_there_is_nothing_to_judge(toy: Toy) -> None:
    with pytest.raises(
        UserError, match="no trial of own/toy-123456 has ended with a model"
    ):
        toy.judge()


@pytest.mark.slow
def test_the_interval_holds_the_true_score(tmp_path: Path) -> None:
    """The 90 % interval holds a true error of 0.25 in 80 to 98 % of 60 toys."""
    held = 0
    for seed in range(60):
        toy = Toy(tmp_path / f"{seed}")
        toy.add("nft", toy.right(0.75, 100 + seed))
        judge = toy.judge()
        score = judge.single(judge.leader).score
        held += score.low <= 0.25 <= score.high
    assert 48 <= held <= 59


@pytest.mark.slow
def test_the_expected_score_allows_for_a_choice_among_equals(tmp_path: Path) -> None:
    """The expected score holds the true error of most winners among equals.

    Each of 25 winners is one of 8 methods with a true error of 0.25.

    The score out of fold, which is the best of 8, lies below in all but a few.
    """
    methods = (
        "nft",
        "scratch",
        "linear_probe",
        "fno",
        "cnn",
        "fpt",
        "linear",
        "forest",
    )
    held = 0
    flattered = 0
    for seed in range(25):
        toy = Toy(tmp_path / f"{seed}")
        for number, method in enumerate(methods):
            toy.add(method, toy.right(0.75, 100 * seed + number))
        judge = toy.judge()
        choice = judge.single(judge.leader)
        found = judge.expected(choice, judge.held_out(choice))
        held += found.low <= 0.25 <= found.high
        flattered += choice.score.value < 0.25
    assert held >= 21
    assert flattered >= 21


def test_two_scores_are_pooled_unless_they_differ_beyond_noise() -> None:
    chosen = Interval(0.2, 0.18, 0.22)
    outer = Interval(0.21, 0.17, 0.25)
    pooled = chosen.pooled(outer)
    assert 0.2 < pooled.value < 0.205
    assert pooled.high - pooled.low < chosen.high - chosen.low
    flattered = Interval(0.05, 0.03, 0.07).pooled(outer)
    assert flattered.value == pytest.approx(0.21, abs=0.01)
    assert flattered.high - flattered.low == pytest.approx(
        outer.high - outer.low, rel=0.05
    )
    lucky = Interval(0.05, 0.025, 0.085).pooled(Interval(0.0, 0.0, 0.05))
    assert lucky.low < 0.8 * lucky.value < lucky.value < 0.05
    assert outer.pooled(Interval(0.1, 0.1, 0.1)) == outer
    assert Interval(0.0, 0.0, 0.01).widened(2.0) == Interval(0.0, 0.0, 0.02)


def test_a_network_that_trained_on_may_be_better_than_its_folds(toy: Toy) -> None:
    toy.add("cnn", toy.right(0.75, 1), folds=[1])
    judge = toy.judge()
    choice = judge.single(judge.leader)
    before = judge.expected(choice, None)
    last = json.dumps({"data.fold": -1, "refine.start": "cnn1"})
    toy.records.append(
        make_record(
            "last", method="cnn", body="none", hyperparameters=last, task=toy.task.name
        )
    )
    after = toy.judge().expected(choice, None)
    assert (after.value, after.high) == (before.value, before.high)
    assert after.low == pytest.approx(before.low * 0.8 * N / (N + N_TEST))


def test_a_network_that_trained_on_without_the_outer_test_is_judged_by_it(
    toy: Toy,
) -> None:
    toy.add("cnn", toy.right(0.6, 1), folds=[1])
    toy.add("linear", toy.right(0.7, 2))
    assert toy.judge().leader.method == "linear"
    later = toy.right(0.95, 3, strength=2.0)
    toy.add("cnn", later, folds=[2])
    last = json.dumps({"data.fold": -2, "refine.start": "cnn1"})
    toy.records[-1] = replace(toy.records[-1], hyperparameters=last)
    judge = toy.judge()
    assert judge.leader.method == "cnn", "the race gave it the time"
    assert judge.ensemble() is None, "the mean with it has more errors"
    choice = judge.single(judge.leader)
    wrong = later(np.arange(N, N + N_TEST)).argmax(axis=1) != toy.y[N:]
    assert choice.score.value == pytest.approx(wrong.mean())
    outer = judge.held_out(choice)
    assert (outer, judge.expected(choice, outer)) == (choice.score, choice.score)
    for fold, share, kept in (
        (3, 0.6, "cnn2"),
        (4, 1.0, "cnn4"),
    ):  # on samples that it saw
        toy.add("cnn", toy.right(share, 5), folds=[fold])
        last = json.dumps({"data.fold": -1, "refine.start": "cnn2"})
        toy.records[-1] = replace(toy.records[-1], hyperparameters=last)
        judge = toy.judge()
        assert getattr(judge.trained(judge.leader), "trial_key", "") == kept
        low = choice.score.low * (N / (N + N_TEST) if kept == "cnn4" else 1)
        assert judge.expected(choice, outer) == replace(choice.score, low=low)
    toy.add("nearest", toy.right(0.9, 8, strength=1.0))
    judge = toy.judge()
    assert judge.leader.method == "cnn"
    mixed = judge.ensemble()
    assert mixed is not None, "others have other mistakes"
    assert [(each.method, weight) for each, weight in mixed.parts] == [
        ("cnn", 0.5),
        ("nearest", 0.5),
    ]
    assert mixed.outer
    toy.add("forest", toy.right(1.0, 4))
    assert toy.judge().leader.method == "forest", (
        "it is measurably better on the outer test"
    )


def test_a_network_that_trained_on_may_be_the_only_candidate(toy: Toy) -> None:
    toy.add("cnn", toy.right(0.6, 1), folds=[1])
    toy.add("cnn", toy.right(0.9, 3), folds=[2])
    last = json.dumps({"data.fold": -2, "refine.start": "cnn1"})
    toy.records[-1] = replace(toy.records[-1], hyperparameters=last)
    judge = toy.judge()
    assert judge.ensemble() is None
    assert judge.single(judge.leader).outer
    assert make_verdict(judge)[0] == "cnn"


def test_of_few_samples_the_usual_method_or_the_mean_stands_for_what_is_not_worse(
    toy: Toy,
) -> None:
    toy.task = replace(toy.task, domain="time series")
    toy.add("cnn", toy.right(0.85, 1))
    toy.add("linear", toy.right(0.8, 2))
    toy.add("fpt", toy.right(0.3, 3))
    toy.add("fno", toy.right(1.0, 4), folds=[1])
    judge = toy.judge()
    assert judge.leader.method == "cnn", "one fold is not enough"
    toy.add("hydra", toy.right(0.95, 4), folds=[1, 2])
    assert toy.judge().leader.method == "hydra", "two are"
    del toy.records[-2:]
    found = judge.ensemble()
    assert found is not None
    assert {each.method for each, _ in found.parts} == {"cnn", "linear"}
    toy.add("minirocket", toy.right(0.3, 5))
    assert toy.judge().leader.method == "cnn"
    toy.add("minirocket_hydra", toy.right(0.85, 1))
    judge = toy.judge()
    assert judge.leader.method == "minirocket_hydra"
    assert judge.ensemble() is None
