"""Scores of predictions with their intervals."""

import math
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_ray.adaptation.intervals import Interval, Judged
from orca_ray.data.rows import Array
from orca_ray.models.mixture import Average
from tests.adaptation.toy import Toy

NUM_DRAWS = 200
"""Number of data sets for which an interval is compared with the truth."""


@pytest.mark.parametrize("metric", ["relative_l2", "nrmse", "rmse", "error"])
def test_losses_of_samples_have_the_metric_as_their_mean(metric: str) -> None:
    random = np.random.default_rng(0)
    average: Average
    y: Array
    predictions: Array
    if metric == "error":
        average = "softmax"
        y = random.integers(3, size=40)
        predictions = random.dirichlet(np.ones(3), 40)
    else:
        average = "values"
        y = random.normal(size=(40, 3, 2))
        predictions = y + random.normal(size=y.shape)
    judged = Judged(metric, average, y, [predictions], 1)
    losses = judged.losses(predictions)
    assert losses is not None
    assert losses.shape == (40,)
    interval = judged.interval(predictions)
    assert interval.value == pytest.approx(judged.score(predictions), rel=1e-6)
    assert interval.low < interval.value < interval.high


def errors_of_groups(units: Array, random: np.random.Generator) -> Judged:
    """Return predictions of two classes, with a true error of 0.5."""
    hardness = random.normal(0, 1, 60)[units]
    is_wrong = hardness + random.normal(0, 1, len(units)) > 0
    predictions = np.where(is_wrong[:, None], [0.3, 0.7], [0.7, 0.3])
    return Judged("error", "softmax", np.zeros(len(units), int), [predictions], 1)


def numbers_of_groups(units: Array, random: np.random.Generator) -> Judged:
    """Return predictions of numbers, with a true error of the square root of 2."""
    hardness = random.normal(0, 1, 60)[units]
    predictions = hardness + random.normal(0, 1, len(units))
    return Judged("rmse", "values", np.zeros(len(units)), [predictions], 1)


@pytest.mark.parametrize(
    ("draw", "truth"), [(errors_of_groups, 0.5), (numbers_of_groups, math.sqrt(2))]
)
def test_the_interval_of_samples_in_groups_holds_the_score_of_new_groups(
    draw: Callable[[Array, np.random.Generator], Judged], truth: float
) -> None:
    random = np.random.default_rng(0)
    units = np.repeat(np.arange(20) * 3, 15)  # numbers may be absent
    num_held_with_groups = 0
    num_held_without = 0
    for _ in range(NUM_DRAWS):
        samples = draw(units, random)
        [predictions] = samples.predictions
        grouped = Judged(samples.metric, samples.average, samples.y, [], 1, units)
        if holds(grouped.interval(predictions), truth):
            num_held_with_groups += 1
        if holds(samples.interval(predictions), truth):
            num_held_without += 1
    assert 0.8 <= num_held_with_groups / NUM_DRAWS <= 0.96
    assert num_held_without / NUM_DRAWS < 0.7, "as if samples were independent"


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_groups_without_an_error_count_as_samples() -> None:
    y = np.zeros(60, int)
    right = np.tile([0.9, 0.1], (60, 1))
    groups = np.arange(60) // 15
    single = Judged("error", "softmax", y, [], 1, None).interval(right)
    grouped = Judged("error", "softmax", y, [], 1, groups).interval(right)
    assert single.high < 0.05
    assert 0.3 < grouped.high < 0.6


def test_errors_of_few_groups_are_in_doubt() -> None:
    y = np.zeros(100, int)
    judged = Judged("error", "softmax", y, [], 1, np.arange(100) // 20)
    highs = list[float]()
    for count in (0, 1, 2, 4):
        is_wrong = (np.arange(100) < count)[:, None]
        predictions = np.where(is_wrong, [0.1, 0.9], [0.9, 0.1])
        highs.append(judged.interval(predictions).high)
    assert min(highs) > 0.15, "one error is as doubtful as none"


def test_a_single_group_says_nothing_of_others() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    one_group = np.zeros(50, int)
    judged = Judged("rmse", "values", np.zeros(50), [], 1, one_group)
    ratio = judged.interval(*values.T, of=operator.truediv)
    assert (ratio.low, ratio.high) == (-math.inf, math.inf)


def test_two_scores_are_pooled() -> None:
    chosen = Interval(0.2, 0.18, 0.22)
    outer = Interval(0.21, 0.17, 0.25)
    pooled = chosen.pooled(outer)
    assert 0.2 < pooled.value < 0.205
    assert pooled.high - pooled.low < chosen.high - chosen.low


def test_a_score_that_differs_beyond_noise_hardly_counts() -> None:
    outer = Interval(0.21, 0.17, 0.25)
    flattered = Interval(0.05, 0.03, 0.07).pooled(outer)
    assert flattered.value == pytest.approx(0.21, abs=0.01)
    assert flattered.high - flattered.low == pytest.approx(
        outer.high - outer.low, rel=0.05
    )


def test_pooling_keeps_ends_that_are_not_negative() -> None:
    lucky = Interval(0.05, 0.025, 0.085).pooled(Interval(0.0, 0.0, 0.05))
    assert lucky.low < 0.8 * lucky.value < lucky.value < 0.05


def test_an_interval_without_noise_says_nothing() -> None:
    outer = Interval(0.21, 0.17, 0.25)
    assert outer.pooled(Interval(0.1, 0.1, 0.1)) == outer


def test_a_wider_interval_does_not_become_negative() -> None:
    assert Interval(0.0, 0.0, 0.01).widened(2.0) == Interval(0.0, 0.0, 0.02)


@pytest.mark.slow
def test_the_interval_holds_the_true_score(tmp_path: Path) -> None:
    """The 90 % interval holds a true error of 0.25 in 80 to 98 % of 60 toys."""
    num_held = 0
    for seed in range(60):
        toy = Toy(tmp_path / f"{seed}")
        toy.add("nft", toy.right(0.75, 100 + seed))
        judge = toy.judge()
        if holds(judge.single(judge.leader).score, 0.25):
            num_held += 1
    assert 48 <= num_held <= 59
