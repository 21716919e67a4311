"""Scores of predictions with their intervals."""

import math
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_ray.adaptation.intervals import Interval, Judged
from orca_ray.data.rows import Array
from tests.adaptation.toy import Toy

NUM_DRAWS = 200
"""Number of data sets for which an interval is compared with the truth."""


def draw_judged(metric: str) -> Judged:
    """Return random predictions of 40 samples, which are classes or fields."""
    random = np.random.default_rng(0)
    if metric == "error":
        classes = random.integers(3, size=40)
        chances = random.dirichlet(np.ones(3), 40)
        return Judged(metric, "softmax", classes, [chances], 1)
    fields = random.normal(size=(40, 3, 2))
    noise = random.normal(size=fields.shape)
    return Judged(metric, "values", fields, [fields + noise], 1)


@pytest.mark.parametrize("metric", ["relative_l2", "nrmse", "rmse", "error"])
def test_losses_of_samples_have_the_metric_as_their_mean(metric: str) -> None:
    judged = draw_judged(metric)
    [predictions] = judged.predictions
    losses = judged.losses(predictions)
    assert losses is not None
    assert losses.shape == (40,)
    interval = judged.interval(predictions)
    assert interval.value == pytest.approx(judged.score(predictions), rel=1e-6)
    assert interval.low < interval.value < interval.high


def draw_errors_of_groups(units: Array, random: np.random.Generator) -> Judged:
    """Return predictions of two classes, with a true error of 0.5."""
    hardness = random.normal(0, 1, 60)[units]
    is_wrong = hardness + random.normal(0, 1, len(units)) > 0
    predictions = np.where(is_wrong[:, None], [0.3, 0.7], [0.7, 0.3])
    return Judged("error", "softmax", np.zeros(len(units), int), [predictions], 1)


def draw_numbers_of_groups(units: Array, random: np.random.Generator) -> Judged:
    """Return predictions of numbers, with a true error of the square root of 2."""
    hardness = random.normal(0, 1, 60)[units]
    predictions = hardness + random.normal(0, 1, len(units))
    return Judged("rmse", "values", np.zeros(len(units)), [predictions], 1)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [(draw_errors_of_groups, 0.5), (draw_numbers_of_groups, math.sqrt(2))],
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


def test_groups_without_an_error_have_a_wider_interval_than_their_samples() -> None:
    y = np.zeros(60, int)
    right = np.tile([0.9, 0.1], (60, 1))
    groups = np.arange(60) // 15
    single = Judged("error", "softmax", y, [], 1, None).interval(right)
    grouped = Judged("error", "softmax", y, [], 1, groups).interval(right)
    assert single.high < 0.05
    assert 0.3 < grouped.high < 0.6


def test_few_errors_of_few_groups_leave_a_wide_interval() -> None:
    y = np.zeros(100, int)
    judged = Judged("error", "softmax", y, [], 1, np.arange(100) // 20)
    highs = list[float]()
    for num_errors in (0, 1, 2, 4):
        is_wrong = (np.arange(100) < num_errors)[:, None]
        predictions = np.where(is_wrong, [0.1, 0.9], [0.9, 0.1])
        highs.append(judged.interval(predictions).high)
    assert min(highs) > 0.15, "one error is as doubtful as none"


def test_an_interval_of_a_single_group_is_infinite() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    one_group = np.zeros(50, int)
    judged = Judged("rmse", "values", np.zeros(50), [], 1, one_group)
    ratio = judged.interval(*values.T, of=operator.truediv)
    assert ratio.low == -math.inf
    assert ratio.high == math.inf


def test_a_pooled_interval_is_narrower_than_its_parts() -> None:
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


def test_the_low_end_of_a_pooled_interval_is_well_above_0() -> None:
    lucky = Interval(0.05, 0.025, 0.085).pooled(Interval(0.0, 0.0, 0.05))
    assert lucky.low < 0.8 * lucky.value < lucky.value < 0.05


def test_an_interval_of_no_width_is_not_pooled() -> None:
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
        toy.add("nft", toy.draw_classifier(0.75, 100 + seed))
        judge = toy.judge()
        if holds(judge.single(judge.leader).score, 0.25):
            num_held += 1
    assert 48 <= num_held <= 59
