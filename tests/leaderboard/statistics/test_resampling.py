import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from orca_ray.leaderboard.statistics import resampling
from orca_ray.leaderboard.statistics.resampling import MIN_TASKS, drawn_tasks, indices, mean_over_tasks, words
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable
from orca_ray.testing.tables import random_table, table


def word(i: int) -> int:
    """Return one word with plain integers, as in the docstring of the module."""
    z = (i + 1) * 0x9E3779B9 % 2**32
    z = (z ^ z >> 16) * 0x21F0AAAD % 2**32
    z = (z ^ z >> 15) * 0x735A2D97 % 2**32
    return z ^ z >> 15


def test_words_and_indices_are_those_of_the_docstring_and_random() -> None:
    assert words(1000).tolist() == [word(i) for i in range(1000)]
    assert indices((10, 3), 7).ravel().tolist() == [math.floor(word(i) * 7 / 2**32) for i in range(30)]
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(indices((20_000, 2), 5).T), 1)
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 0.01  # uniform, and independent in pairs


class TestScheme:
    def test_seeds_of_few_tasks(self) -> None:
        scores = ScoreTable.of(table({"a": {"x": [1, 2, 3], "y": [5, 7]}, "b": {"x": [4, 8], "y": [1, 2]}}))
        found = resampling.resample(scores, lambda means: means)
        cells = [[[1, 2, 3], [5, 7]], [[4, 8], [1, 2]]]
        for r in (0, 3):
            means = [
                [np.mean([c[math.floor(word(((r * 2 + t) * 2 + m) * 3 + j) * len(c) / 2**32)] for j in range(len(c))])
                 for m, c in enumerate(row)]
                for t, row in enumerate(cells)
            ]  # fmt: skip
            assert found[r] == pytest.approx(np.mean(means, axis=0))

    def test_no_interval_from_one_seed_on_few_tasks(self) -> None:
        scores = ScoreTable.of(table({"a": {"x": [1, 2, 3], "y": [5]}}))
        value, low, high = mean_over_tasks(scores, lambda means: means)
        assert value.tolist() == [2, 5]
        assert np.isnan([low, high]).all()
        scores = ScoreTable.of(random_table(MIN_TASKS, 2, 1))
        _, low, high = mean_over_tasks(scores, lambda means: np.full_like(means, 3.0))
        assert low.tolist() == high.tolist() == [3, 3]


class TestInterval:
    def test_tail(self) -> None:
        expected = scipy.stats.norm.cdf(-scipy.stats.t.ppf(0.975, 4) * math.sqrt(5 / 4))
        assert resampling.tail(5, 4) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.slow
    @pytest.mark.parametrize("tasks", [5, 8, 20])
    @pytest.mark.parametrize("shape", ["normal", "heavy", "skewed"])
    def test_students_interval_covers_as_often(self, shape: str, tasks: int) -> None:
        """The page shows Student's interval for a choice of tasks (docs/decisions/0023-page.md)."""
        random = np.random.default_rng(0)
        draw: dict[str, Callable[[tuple[int, int]], Floats]] = {
            "normal": lambda size: random.normal(0, 1, size) + random.normal(0, 0.5, size),
            "heavy": lambda size: random.standard_t(3, size),
            "skewed": lambda size: random.exponential(1, size) - 1,
        }
        values = draw[shape]((tasks, 1000))
        low, high = resampling.interval(ScoreTable.of(random_table(tasks, 1, 1)), drawn_tasks(tasks) @ values / tasks)
        bootstrap = ((low <= 0) & (high >= 0)).mean()
        student = (scipy.stats.ttest_1samp(values, 0).pvalue > 0.05).mean()
        assert student >= bootstrap - 0.02
        assert student >= (0.85 if shape == "skewed" else 0.935)
        assert bootstrap >= (0.85 if shape == "skewed" else 0.9)
