"""Tests of significance, against SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.leaderboard.statistics.critical_difference import holm, signed_rank, smallest_p
from orca_ray.leaderboard.statistics.distributions import chi_square_tail, student_quantile, student_tail
from orca_ray.leaderboard.statistics.importance import groups, importance, kruskal_wallis
from orca_ray.testing.tables import table


class TestDistributions:
    @pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
    def test_student(self, freedom: int) -> None:
        for t in (0.0, 0.3, 2.0, 6.0):
            assert student_tail(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(t, freedom), rel=1e-9, abs=1e-14)
        assert student_quantile(0.05, freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-12)

    @pytest.mark.parametrize("freedom", [1, 2, 3, 8, 19, 60])
    def test_chi_square(self, freedom: int) -> None:
        for x in (0.0, 0.5, 4.0, 30.0):
            assert chi_square_tail(x, freedom) == pytest.approx(scipy.stats.chi2.sf(x, freedom), rel=1e-12)


class TestSignedRank:
    @pytest.mark.parametrize("num", [1, 3, 6, 12, 25])
    def test_exact(self, num: int) -> None:
        differences = np.random.default_rng(num).normal(0.4, 1, num)
        expected = scipy.stats.wilcoxon(differences, method="exact").pvalue
        assert signed_rank(differences) == pytest.approx(expected, rel=1e-12)

    def test_exact_with_ties(self) -> None:
        """Ranks 1.5, 1.5, 3, 4 of which 1.5 is negative: sums up to 1.5 are 0 and twice 1.5, of 16 sign patterns."""
        assert signed_rank(np.array([1.0, -1.0, 2.0, 3.0, 0.0])) == pytest.approx(2 * 3 / 16)
        assert signed_rank(np.zeros(5)) == 1
        tied = np.array([1, 1, 1, 2, 2, -2, 3, 4, -1, 5.0])
        method = scipy.stats.PermutationMethod(n_resamples=2000)
        assert signed_rank(tied) == pytest.approx(scipy.stats.wilcoxon(tied, method=method).pvalue)

    @pytest.mark.parametrize("digits", [1, 6])
    def test_many(self, digits: int) -> None:
        differences = np.random.default_rng(0).normal(0.2, 1, 60).round(digits)
        expected = scipy.stats.wilcoxon(differences, method="approx").pvalue
        assert signed_rank(differences) == pytest.approx(expected, rel=1e-9)


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
            rate, width, kind = random.random(), random.random(), "xy"[number % 2]
            score = (rate - 0.5) ** 2 * 8 + 0.3 * (kind == "x") + random.normal(0, 0.1)
            values = {"rate": rate, "width": width, "kind": kind, "fixed": 1}
            rows.append(("ab"[number % 4 // 2], "orca", number, score, values))
        rows += [("c", "orca", number, 0.5, {"rate": 0.1}) for number in range(3)]
        columns = ["task", "method", "number", "score", "hyperparameters"]
        found = importance(pd.DataFrame(rows, columns=columns)).loc["orca"]
        assert list(found.index) == ["kind", "rate", "width"]
        assert found["value"]["rate"] > 0.5
        assert found["p"]["rate"] < 1e-6
        assert found["p"]["width"] > 0.05
        assert set(found["num_trials"]) == {80}
        assert set(found["num_tasks"]) == {2}
