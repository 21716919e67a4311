"""The conformance suites of scores.

They test metrics, losses, and statistics of leaderboards.
"""

from collections.abc import Collection, Mapping
from functools import cache
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Array, Rows, Target
from orca_ray.leaderboard.statistics.table import INDEX, get_statistic
from orca_ray.tasks.losses import Loss, get_loss
from orca_ray.tasks.metrics import get_metric
from orca_ray.testing.suite import Suite


class MetricSuite(Suite):
    """Test class of metrics.

    Set `names` to their registered names, and `perfect` to predictions that score 0.
    """

    perfect: ClassVar[Mapping[str, tuple[Array, Array]]]
    """Predictions [N, *output_shape] and targets [N, ...] of each metric: the
    predictions have the score 0, and the same predictions times -1 a score above 0.4.
    """

    ordered: ClassVar[Collection[str]] = ()
    """Names of metrics that depend on the order of the samples."""

    def test_perfect_predictions_score_zero_and_worse_ones_more_up_to_the_largest(
        self, name: str
    ) -> None:
        predictions, targets = self.perfect[name]
        metric = get_metric(name)
        assert metric.compute(predictions, targets) == pytest.approx(0, abs=1e-12)
        assert 0.4 < metric.compute(-predictions, targets) <= metric.largest

    def test_the_order_of_samples_does_not_matter(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        score = get_metric(name).compute(-predictions, targets)
        reverse = get_metric(name).compute(-predictions[::-1], targets[::-1])
        assert reverse == pytest.approx(score) or name in self.ordered

    def test_the_losses_of_samples_have_it_as_their_mean(self, name: str) -> None:
        predictions, targets = self.perfect[name]
        metric = get_metric(name)
        if metric.losses is not None:
            mean = np.mean(metric.losses(-predictions, targets))
            expected = mean**0.5 if metric.root else mean
            assert metric.compute(-predictions, targets) == pytest.approx(expected)

    def test_predictions_not_finite_of_another_length_or_of_no_sample_are_refused(
        self, name: str
    ) -> None:
        predictions, targets = self.perfect[name]
        refused = [
            (predictions[1:], targets, "predictions for"),
            (predictions[:0], targets[:0], "0 predictions for 0 targets"),
        ]
        for value in (np.nan, np.inf):
            broken = predictions.astype(np.float64)
            broken[0] = value
            refused.append((broken, targets, "not finite"))
        for refused_predictions, refused_targets, message in refused:
            with pytest.raises(ValueError, match=message):
                get_metric(name).compute(refused_predictions, refused_targets)

    def test_its_name_title_definition_and_source_are_there(self, name: str) -> None:
        metric = get_metric(name)
        assert metric.name == name
        assert metric.title
        assert len(metric.definition) > 20
        assert metric.source


class LossSuite(Suite):
    """Test class of losses.

    Set `names` to the registered names of the losses to test.
    """

    target: ClassVar[Target] = Target("classes", size=4)
    train_y: ClassVar[Rows] = np.array([0, 0, 0, 0, 1, 1, 2, 3])
    """Training targets for which the losses are made; they must fit `target`."""

    def inputs(self, name: str) -> tuple[Tensor, Tensor]:
        """Return float64 predictions and targets of five samples.

        Targets of classes are int64.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (5, *self.target.output_shape)
        predictions, other = (
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        if self.target.kind == "classes":
            return predictions, torch.arange(5) % self.target.size
        if self.target.kind == "labels":
            return predictions, (other > 0).double()
        return predictions, other

    def loss(self, name: str) -> Loss:
        """Return the loss made for `train_y` and `target`, on the CPU."""
        return get_loss(name).make(self.train_y, self.target, torch.device("cpu"))

    def test_it_is_the_mean_of_the_samples_losses(self, name: str) -> None:
        predictions, y = self.inputs(name)
        loss = self.loss(name)
        losses = torch.stack(
            [loss(predictions[i : i + 1], y[i : i + 1]) for i in range(5)]
        )
        torch.testing.assert_close(loss(predictions, y), losses.mean())

    def test_its_gradient_agrees_with_finite_differences(self, name: str) -> None:
        predictions, y = self.inputs(name)
        assert torch.autograd.gradcheck(
            lambda p: self.loss(name)(p, y), predictions.requires_grad_()
        )

    def test_it_has_a_finite_gradient_far_out(self, name: str) -> None:
        predictions, y = self.inputs(name)
        far = (1e4 * predictions).float().requires_grad_()
        loss = self.loss(name)(far, y if y.dtype == torch.int64 else y.float())
        (gradient,) = torch.autograd.grad(loss, far)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()

    def test_its_name_definition_and_source_are_there(self, name: str) -> None:
        loss = get_loss(name)
        assert loss.name == name
        assert len(loss.definition) > 20
        assert loss.source


COLUMNS = ["task", "method", "seed", "score"]


def table(cells: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a score table, given scores by task and method.

    E.g. ``{"t": {"a": [0.1, 0.2]}}`` has scores of method a on task t, for two seeds.
    """
    rows = [
        (task, method, seed, float(score))
        for task, methods in cells.items()
        for method, scores in methods.items()
        for seed, score in enumerate(np.atleast_1d(scores))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def random_table(
    tasks: int, methods: int, seeds: int, *, missing: float = 0.0, number: int = 0
) -> pd.DataFrame:
    """Return a table of random scores, each left out with the probability ``missing``.

    Later methods have higher (worse) scores on average. ``number`` is the seed of the
    random numbers.
    """
    random = np.random.default_rng(number)
    scale = np.exp(random.normal(0, 2, tasks))
    rows = [
        (
            f"t{task:02}",
            f"m{method:02}",
            seed,
            scale[task] * np.exp(random.normal(0.05 * method, 0.3)),
        )
        for task, method, seed in product(range(tasks), range(methods), range(seeds))
    ]
    whole = pd.DataFrame(rows, columns=COLUMNS)
    return whole[random.random(len(whole)) >= missing].reset_index(drop=True)


TABLES = {
    "many tasks": random_table(12, 4, 3),
    "missing cells": random_table(12, 4, 2, missing=0.2),
    "few tasks": random_table(3, 4, 3),
    "one seed": random_table(8, 3, 1),
    "one method": random_table(6, 1, 2),
    "one score": table({"t": {"a": 0.5}}),
    "no common task": table({"t": {"a": 0.5}, "u": {"b": 0.5}}),
    "equal scores": table(
        {
            f"t{task}": {"a": [0.5, 0.5], "b": [0.5, 0.5], "c": [0.5, 0.5]}
            for task in range(6)
        }
    ),
    "zeros": table(
        {
            f"t{task}": {"a": [0.0, 0.0], "b": [0.0, 0.1], "c": [0.0, 0.0]}
            for task in range(6)
        }
    ),
    "nothing": table({}),
}


def inputs(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return ``scores``, and random ``costs``, ``searches`` and ``curves``, by name.

    All have the same tasks and methods.
    """
    random = np.random.default_rng(1)
    cells = scores[["task", "method"]].drop_duplicates()
    searches = pd.concat([scores.assign(number=number) for number in range(4)])
    hyperparameters = pd.Series(
        [{"rate": float(rate)} for rate in random.random(len(searches))], dtype=object
    )
    trials = scores["task"] + scores["method"] + scores["seed"].astype(str)
    epochs = [
        scores.assign(trial=trials, epoch=epoch, learning_rate=1 / epoch)
        for epoch in range(1, 7)
    ]
    curves = pd.concat(epochs).drop(columns="seed")
    curves["score"] *= np.exp(random.normal(size=len(curves)))
    return {
        "scores": scores,
        "curves": curves,
        "costs": cells.assign(cost=random.random(len(cells)) + 0.1),
        "searches": (
            searches.assign(hyperparameters=hyperparameters.to_numpy()).drop(
                columns="seed"
            )
        ),
    }


def compute(
    name: str, scores: pd.DataFrame, *, shuffled: bool = False, **options: Any
) -> pd.DataFrame:
    """Return a statistic of the tables that `inputs` makes of ``scores``.

    ``shuffled`` permutes their rows.
    """
    statistic = get_statistic(name)
    tables = [inputs(scores)[table_name] for table_name in statistic.inputs]
    if shuffled:
        tables = [frame.sample(frac=1, random_state=0) for frame in tables]
    return statistic.compute(*tables, **options)


@cache
def _computed(name: str, kind: str) -> pd.DataFrame:
    return compute(name, TABLES[kind])


class StatisticSuite(Suite):
    """Test class of statistics, for the contract of `Statistic`.

    Set `names` to their registered names.
    """

    def test_has_words(self, name: str) -> None:
        statistic = get_statistic(name)
        assert statistic.title
        assert len(statistic.definition) > 40
        assert "Error" not in statistic.definition  # readers of the page see it

    @pytest.mark.parametrize("kind", TABLES)
    def test_shape(self, name: str, kind: str) -> None:
        statistic = get_statistic(name)
        scores = TABLES[kind]
        frame = _computed(name, kind)
        assert tuple(frame.index.names) == INDEX[statistic.shape]
        assert frame.index.is_unique
        methods = set(scores["method"])
        if statistic.shape == "method":
            assert set(frame.index) == methods
        elif statistic.shape == "pair":
            assert set(frame.index) == {
                (one, other) for one in methods for other in methods - {one}
            }
        elif statistic.shape == "cell":
            assert set(frame.index) == set(
                zip(scores["task"], scores["method"], strict=True)
            )
        else:
            assert set(frame.index.get_level_values("method")) <= methods
        assert frame["value"].dtype == np.float64
        if statistic.shape == "method":
            assert {"low", "high"} <= set(frame)
        if statistic.shape in ("method", "pair"):
            assert frame["num_tasks"].dtype == np.int64
        if "low" in frame:
            assert not (frame["low"] > frame["value"] + 1e-12).any()
            assert not (frame["high"] < frame["value"] - 1e-12).any()
            assert frame["low"].isna().equals(frame["high"].isna())

    @pytest.mark.parametrize("kind", TABLES)
    def test_the_order_of_rows_does_not_matter_and_tables_stay_as_they_are(
        self, name: str, kind: str
    ) -> None:
        before = TABLES[kind].copy()
        pd.testing.assert_frame_equal(
            _computed(name, kind), compute(name, TABLES[kind], shuffled=True)
        )
        compute(name, TABLES[kind])
        pd.testing.assert_frame_equal(before, TABLES[kind])

    def test_renamed_methods_and_tasks_get_the_same_values(self, name: str) -> None:
        if get_statistic(name).shape == "curve":
            return
        scores = random_table(7, 3, 2)
        renamed = scores.assign(
            method="x" + scores["method"], task="x" + scores["task"]
        )
        actual, expected = (
            compute(name, frame).select_dtypes("number") for frame in (renamed, scores)
        )
        np.testing.assert_array_equal(actual, expected)

    def test_units_do_not_matter(self, name: str) -> None:
        """Scaling the scores of some tasks changes no statistic.

        Statistics of the shape ``cell`` are excepted.
        """
        if get_statistic(name).shape == "cell":
            return
        scores = random_table(7, 3, 2)
        scaled = scores.assign(
            score=scores["score"] * np.where(scores["task"] < "t03", 256.0, 1.0)
        )
        pd.testing.assert_frame_equal(
            compute(name, scores), compute(name, scaled), rtol=1e-9
        )

    def test_a_method_that_is_better_on_every_task(self, name: str) -> None:
        statistic = get_statistic(name)
        if (
            statistic.inputs == ("scores",)
            and statistic.better
            and statistic.shape != "pair"
        ):
            values = compute(
                name,
                table({f"t{n}": {"a": [0.1, 0.2], "b": [0.3, 0.4]} for n in range(6)}),
            )["value"]
            good, bad = values.groupby("method").mean()
            assert good != bad
            assert (good < bad) == (statistic.better == "lower")
