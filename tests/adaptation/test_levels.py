"""Levels of configurations on different folds, with folds of known difficulty."""

import numpy as np
import pytest

from orca_ray.adaptation.levels import doubtful_levels, error_scales, levels


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
    found = levels(scores)
    assert found[0] < found[1] < found[2], (
        "the first is better on the only fold that it has"
    )
    assert found[1] - found[0] == pytest.approx(0.1, abs=0.01)


def test_scales_of_errors_where_most_are_0() -> None:
    assert error_scales([0.0, 0.0, 0.01]) == [0.01] * 3
    assert error_scales([0.0, 0.0]) == [1.0] * 2
    assert error_scales([]) == []


def test_a_configuration_that_diverged_decides_nothing() -> None:
    random = np.random.default_rng(0)
    given = [(100.0, 2), (0.07, 10), (0.05, 10), (0.03, 2)]
    scores = [
        (level * (1 + random.normal(scale=0.08, size=folds))).tolist()
        for level, folds in given
    ]
    found = doubtful_levels([dict(enumerate(each)) for each in scores])
    assert np.argsort(found).tolist() == [3, 2, 1, 0]
