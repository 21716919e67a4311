"""Levels of configurations on different folds, with folds of known difficulty."""

import numpy as np
import pytest

from orca_ray.adaptation.levels import error_scales, fit_levels, pessimistic_levels


@pytest.mark.parametrize(
    "worst", [[3.0, 3.3, 2.9, 3.1, 2.8], [300.0, 9e9, 1e5, 40.0, 1e7]]
)
def test_a_bad_configuration_tells_little_about_the_difficulty_of_folds(
    worst: list[float],
) -> None:
    scores = [
        {1: 0.2},
        dict(enumerate([0.3, 0.1, 0.2, 0.1, 0.2], start=1)),
        dict(enumerate(worst, start=1)),
    ]
    first, second, third = fit_levels(scores)
    assert first < second < third, "the first is better on the only fold that it has"
    assert second - first == pytest.approx(0.1, abs=0.01)


def test_the_scale_of_errors_is_of_those_above_0_and_else_1() -> None:
    assert error_scales([0.0, 0.0, 0.01]) == [0.01] * 3
    assert error_scales([0.0, 0.0]) == [1.0] * 2
    assert error_scales([]) == []


def test_a_configuration_that_diverged_decides_nothing() -> None:
    random = np.random.default_rng(0)
    scores = list[dict[int, float]]()
    for level, num_folds in [(100.0, 2), (0.07, 10), (0.05, 10), (0.03, 2)]:
        factors = 1 + random.normal(scale=0.08, size=num_folds)
        scores.append(dict(enumerate((level * factors).tolist())))
    best_first = np.argsort(pessimistic_levels(scores))
    assert best_first.tolist() == [3, 2, 1, 0]
