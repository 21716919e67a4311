"""Ranks, bootstrap intervals and tests of significance, by hand and against SciPy."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.leaderboard.statistics.importance import groups, importance, kruskal_wallis
from orca_ray.leaderboard.statistics.intervals import (
    MIN_TASKS,
    chi_square_tail,
    drawn_tasks,
    indices,
    interval,
    mean_over_tasks,
    student_quantile,
    student_tail,
    tail,
)
from orca_ray.leaderboard.statistics.table import Floats
from orca_ray.leaderboard.statistics.verdict import holm, signed_rank, smallest_p
from orca_ray.testing.scores import random_table, table

BY_HAND = table(
    {
        "a": {"x": [0.1, 0.3], "y": [0.3, 0.3], "z": [0.4, 0.4]},
        "b": {"x": [0.5, 0.5], "y": [0.2, 0.2], "z": [0.5, 0.5]},
        "c": {"x": [0.1, 0.1], "y": [0.1, 0.1], "z": [0.2, 0.2]},
        "d": {"x": [0.1, 0.1], "y": [0.0, 0.0]},
    }
)


def values(name: str, scores: pd.DataFrame) -> dict[object, float]:
    return get_statistic(name).compute(scores)["value"].to_dict()


def test_by_hand() -> None:
    """Ranks are 1, 2, 3 on a, 2.5, 1, 2.5 on b and 1.5, 1.5, 3 on c; d has no score of z."""
    assert values("mean_rank", BY_HAND) == pytest.approx({"x": 5 / 3, "y": 4.5 / 3, "z": 8.5 / 3})
    assert values("wins", BY_HAND) == pytest.approx({"x": 1.5, "y": 1.5, "z": 0})
    rates = {("x", "y"): 0.5, ("x", "z"): 2.5 / 3, ("y", "z"): 1.0}
    assert values("win_rate", BY_HAND) == pytest.approx(rates | {(b, a): 1 - rate for (a, b), rate in rates.items()})
    for name in ("mean_rank", "wins", "win_rate"):
        assert set(get_statistic(name).compute(BY_HAND)["num_tasks"]) == {3}
    assert get_statistic("wins").compute(BY_HAND)["ties"].to_dict() == {"x": 1, "y": 1, "z": 0}


def test_mean_rank_against_scipy() -> None:
    scores = random_table(20, 6, 2)
    scores["score"] = scores["score"].round(1)
    means = scores.groupby(["task", "method"])["score"].mean().unstack()
    expected = scipy.stats.rankdata(means, axis=1).mean(axis=0)
    np.testing.assert_allclose(get_statistic("mean_rank").compute(scores)["value"], expected)


def test_scores_are_packed_in_the_order_of_seeds() -> None:
    rows = pd.DataFrame([("t", "b", 7, 0.5), ("t", "a", 9, 0.2), ("t", "a", 3, 0.1)])
    found = ScoreTable.of(rows.set_axis(["task", "method", "seed", "score"], axis=1))
    assert found.methods == ("a", "b")
    np.testing.assert_array_equal(found.scores_TMS, [[[0.1, 0.2], [0.5, np.nan]]])
    assert found.num_seeds_TM.tolist() == [[2, 1]]
    with pytest.raises(ValueError, match="one score for each task, method and seed"):
        ScoreTable.of(pd.concat([BY_HAND, BY_HAND[:1]]))
    with pytest.raises(ValueError, match="finite"):
        ScoreTable.of(BY_HAND.assign(score=np.inf))


def test_draws_are_uniform_and_independent() -> None:
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(indices((20_000, 2), 5).T), 1)
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 0.01


def test_intervals_without_width_and_without_data() -> None:
    value, low, high = mean_over_tasks(ScoreTable.of(table({"a": {"x": [1, 2, 3], "y": [5]}})), lambda means: means)
    assert value.tolist() == [2, 5]
    assert np.isnan([low, high]).all()  # one seed of few tasks
    scores = ScoreTable.of(random_table(MIN_TASKS, 2, 1))
    _, low, high = mean_over_tasks(scores, lambda means: np.full_like(means, 3.0))
    assert low.tolist() == high.tolist() == [3, 3]
    expected = scipy.stats.norm.cdf(-scipy.stats.t.ppf(0.975, 4) * math.sqrt(5 / 4))
    assert tail(5, 4) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [5, 8, 20])
@pytest.mark.parametrize("shape", ["normal", "heavy", "skewed"])
def test_students_interval_covers_as_often_as_the_bootstrap(shape: str, tasks: int) -> None:
    """The page shows Student's interval for a choice of tasks (docs/decisions/0023-page.md)."""
    random = np.random.default_rng(0)
    draw: dict[str, Callable[[tuple[int, int]], Floats]] = {
        "normal": lambda size: random.normal(0, 1, size),
        "heavy": lambda size: random.standard_t(3, size),
        "skewed": lambda size: random.exponential(1, size) - 1,
    }
    values = draw[shape]((tasks, 1000))
    low, high = interval(ScoreTable.of(random_table(tasks, 1, 1)), drawn_tasks(tasks) @ values / tasks)
    bootstrap = ((low <= 0) & (high >= 0)).mean()
    student = (scipy.stats.ttest_1samp(values, 0).pvalue > 0.05).mean()
    assert student >= max(bootstrap - 0.02, 0.85 if shape == "skewed" else 0.935)
    assert bootstrap >= (0.85 if shape == "skewed" else 0.9)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
def test_distributions(freedom: int) -> None:
    for x in (0.0, 0.3, 2.0, 6.0, 30.0):
        assert student_tail(x, freedom) == pytest.approx(2 * scipy.stats.t.sf(x, freedom), rel=1e-9, abs=1e-14)
        assert chi_square_tail(x, freedom) == pytest.approx(scipy.stats.chi2.sf(x, freedom), rel=1e-12)
    assert student_quantile(0.05, freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-12)


@pytest.mark.parametrize("num", [1, 3, 6, 12, 25])
def test_signed_ranks(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.4, 1, num)
    expected = scipy.stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank(differences) == pytest.approx(expected, rel=1e-12)


def test_signed_ranks_with_ties_and_many() -> None:
    """Ranks 1.5, 1.5, 3, 4 of which 1.5 is negative: sums up to 1.5 are 0 and twice 1.5, of 16 sign patterns."""
    assert signed_rank(np.array([1.0, -1.0, 2.0, 3.0, 0.0])) == pytest.approx(2 * 3 / 16)
    assert signed_rank(np.zeros(5)) == 1
    tied = np.array([1, 1, 1, 2, 2, -2, 3, 4, -1, 5.0])
    method = scipy.stats.PermutationMethod(n_resamples=2000)
    assert signed_rank(tied) == pytest.approx(scipy.stats.wilcoxon(tied, method=method).pvalue)
    for digits in (1, 6):
        many = np.random.default_rng(0).normal(0.2, 1, 60).round(digits)
        assert signed_rank(many) == pytest.approx(scipy.stats.wilcoxon(many, method="approx").pvalue, rel=1e-9)


class TestManyPairs:
    def test_holm(self) -> None:
        assert holm(np.array([0.04, 0.01, math.nan, 0.03])) == pytest.approx([0.06, 0.03, math.nan, 0.06], nan_ok=True)
        assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]

    @pytest.mark.parametrize(("num_tasks", "possible"), [(8, False), (10, True)])
    def test_no_pair_is_separable_with_few_tasks(self, num_tasks: int, possible: bool) -> None:
        """Six methods of which each is ten times better than the next on every task: 15 pairs."""
        scores = table({f"t{t}": {f"m{m}": (1 + t) * 10.0**m for m in range(6)} for t in range(num_tasks)})
        adjusted = get_statistic("critical_difference").compute(scores)
        assert (adjusted["value"] <= 0.05).tolist() == [possible] * 30
        assert adjusted["value"].max() == pytest.approx(min(15 * 2 / 2**num_tasks, 1))
        assert smallest_p(num_tasks, 6) == pytest.approx(15 * 2 / 2**num_tasks)
        assert math.isnan(smallest_p(num_tasks, 1))


class TestImportance:
    def test_kruskal_wallis(self) -> None:
        random = np.random.default_rng(0)
        labels = np.arange(30) % 3
        scores = (random.normal(0, 1, 30) + 0.5 * labels).round(1)
        share, statistic, freedom, num = kruskal_wallis(scores, labels)
        expected = scipy.stats.kruskal(*(scores[labels == label] for label in range(3)))
        assert statistic == pytest.approx(expected.statistic)
        assert (freedom, num) == (2, 30)
        assert share == pytest.approx((expected.statistic - 2) / 27)

    def test_groups(self) -> None:
        assert groups(pd.Series([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert groups(pd.Series(["l2", "mmd", "l2"])).tolist() == [0, 1, 0]
        assert groups(pd.Series([1, 2, 1, 2])).tolist() == [0, 1, 0, 1]
        assert groups(pd.Series([True, None, [1]])).tolist() == [0, 1, 2]

    def test_what_matters_is_found(self) -> None:
        random = np.random.default_rng(0)
        rows: list[tuple[str, str, int, float, dict[str, object]]] = []
        for number in range(80):
            rate, width = random.random(), random.random()
            score = (rate - 0.5) ** 2 * 8 + random.normal(0, 0.1)
            rows.append(("ab"[number % 2], "orca", number, score, {"rate": rate, "width": width, "fixed": 1}))
        rows += [("c", "orca", number, 0.5, {"rate": 0.1}) for number in range(3)]
        columns = ["task", "method", "number", "score", "hyperparameters"]
        found = importance(pd.DataFrame(rows, columns=columns)).loc["orca"].loc[["rate", "width"]]
        assert found["value"]["rate"] > 0.5 > 0.1 > abs(found["value"]["width"])
        assert found["p"]["rate"] < 1e-6
        assert found["p"]["width"] > 0.05
        assert found[["num_trials", "num_tasks"]].to_numpy().tolist() == [[80, 2]] * 2
