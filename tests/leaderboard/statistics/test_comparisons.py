"""Statistics against cases by hand and against SciPy; some, and in the long run all,
against their contract.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import ScoreTable, all_statistics, get_statistic
from orca_ray.leaderboard.statistics.intervals import binomial, moderated, student
from orca_ray.leaderboard.statistics.paired import (
    LogScores,
    QuestionAnswer,
    answers,
    holm,
)
from orca_ray.leaderboard.statistics.ranks import strengths
from orca_ray.leaderboard.statistics.scores import (
    groups,
    importance,
    kruskal_wallis,
    pareto_front,
)
from orca_ray.leaderboard.statistics.verdict import needed
from orca_ray.testing import StatisticSuite
from orca_ray.testing.scores import compute, table

SAMPLE = ("bradley_terry", "mean_rank", "verdict")


class TestSomeStatistics(StatisticSuite):
    names = SAMPLE


@pytest.mark.exhaustive
class TestEveryStatistic(StatisticSuite):
    names = sorted({*all_statistics()} - {*SAMPLE})


def ratios(*factors: float, spread: float = 0.0) -> pd.DataFrame:
    """Return one task per factor, with scores of ``b`` in its own unit and of ``a``
    that factor times as large.
    """
    cells = {}
    for number, factor in enumerate(factors):
        seeds = 10.0 ** (number % 5 - 2) * np.exp([spread, -spread])
        cells[f"t{number:03}"] = {"a": factor * seeds, "b": seeds}
    return table(cells)


def pair(
    frame: pd.DataFrame, method: str = "a", other: str = "b"
) -> Mapping[str, float]:
    return {
        str(name): value for name, value in frame.loc[[(method, other)]].iloc[0].items()
    }


def test_score_by_hand() -> None:
    found = compute("score", table({"t": {"a": [0.1, 0.2, 0.6], "b": 0.5}}))
    std = np.std([0.1, 0.2, 0.6], ddof=1)
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.3, scale=std / math.sqrt(3))
    columns = ["value", "low", "high", "std", "num_seeds"]
    assert found[columns].iloc[0].tolist() == pytest.approx([0.3, low, high, std, 3])
    assert found[columns].iloc[1].tolist() == pytest.approx(
        [0.5, *[math.nan] * 3, 1], nan_ok=True
    )


class TestImprovement:
    def test_by_hand(self) -> None:
        found = compute(
            "improvement", ratios(0.5, 2.0, 0.25, 0.5, 1.0, 0.5), baseline="b"
        )
        assert found[["value", "low", "high"]].to_numpy()[1].tolist() == [1, 1, 1]
        value, low, high = found[["value", "low", "high"]].to_numpy()[0]
        assert value == pytest.approx(0.5 ** (4 / 6))
        assert 0.25 < low < value < high < 2
        zero = compute(
            "improvement",
            table({"t": {"a": [0.0, 0.0], "b": [0.02, 0.06]}}),
            baseline="b",
        )
        assert zero["value"]["a"] == pytest.approx(
            0.01 / 0.04
        )  # half of the smallest score
        assert set(compute("improvement", ratios(0.5, 0.5, 2.0))["baseline"]) == {
            "b"
        }  # the worst
        with pytest.raises(UserError, match="unknown method 'c'"):
            compute("improvement", ratios(0.5), baseline="c")
        with pytest.raises(UserError, match="Did you mean 'mean_rank'"):
            get_statistic("mean_rang")


def test_performance_profile_by_hand() -> None:
    scores = table(
        {
            "t": {"a": 1, "b": 1.1},
            "u": {"a": 3, "b": 2},
            "v": {"a": 1, "b": 4},
            "w": {"a": 1},
        }
    )
    found = compute("performance_profile", scores, factors=[1, 1.1, 1.5, 4])["value"]
    assert found["a"].tolist() == pytest.approx([2 / 3, 2 / 3, 1, 1])
    assert found["b"].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])


class TestBradleyTerry:
    def test_is_the_maximum_of_the_likelihood(self) -> None:
        wins = np.random.default_rng(0).integers(0, 9, (5, 5)).astype(float)
        np.fill_diagonal(wins, 0)
        found = (strengths(wins[None])[0] - 1000) * math.log(10) / 400
        counted = wins + 0.5 * (1 - np.eye(5))
        expected = scipy.special.expit(found[:, None] - found)
        # At the maximum, each method wins as often as the model expects.
        games = counted + counted.T
        np.testing.assert_allclose(
            counted.sum(axis=1),
            (games * expected).sum(axis=1) - np.diag(games) / 2,
            rtol=1e-9,
        )

    def test_missing_games_were_not_played(self) -> None:
        found = compute(
            "bradley_terry",
            table(
                {"t": {"a": 1.0, "b": 2.0}, "u": {"b": 1.0, "c": 2.0}, "v": {"d": 1.0}}
            ),
        )
        assert found["value"]["a"] > found["value"]["b"] > found["value"]["c"]
        assert found["num_tasks"].to_dict() == {"a": 1, "b": 2, "c": 1, "d": 0}
        assert math.isnan(found["value"]["d"])


class TestCost:
    costs = pd.DataFrame(
        [
            ("t", "a", 1.0),
            ("u", "a", 2.0),
            ("t", "b", 5.0),
            ("u", "b", 5.0),
            ("v", "b", 9.0),
        ],
        columns=["task", "method", "cost"],
    )

    def test_total_on_common_tasks(self) -> None:
        found = get_statistic("cost").compute(self.costs)
        assert found["value"].to_dict() == {"a": 3, "b": 10}
        assert get_statistic("cost").compute(self.costs, over_tasks="max")[
            "value"
        ].to_dict() == {"a": 2, "b": 5}
        assert set(found["num_tasks"]) == {2}

    def test_pareto_by_hand(self) -> None:
        scores = table({task: {"a": 4.0, "b": 1.0, "published": 0.5} for task in "tuv"})
        found = get_statistic("pareto").compute(scores, self.costs)
        assert found["value"].to_dict() == pytest.approx(
            {"a": 1, "b": 1, "published": math.nan}, nan_ok=True
        )
        assert (found["score"]["a"], found["cost"]["b"]) == (pytest.approx(4), 10)
        assert (
            get_statistic("pareto").compute(scores, self.costs, over_tasks="mean")[
                "cost"
            ]["b"]
            == 5
        )
        worse = table({task: {"a": 0.5, "b": 1.0} for task in "tu"})
        assert get_statistic("pareto").compute(worse, self.costs)[
            "value"
        ].to_dict() == {"a": 1, "b": 0}

    def test_front_where_costs_within_five_per_cent_are_equal(self) -> None:
        scores = np.array([1.0, 2.0, 2.0, 3.0, 1.0])
        costs = np.array([5.0, 2.0, 3.0, 1.0, 5.0])
        assert pareto_front(scores, costs).tolist() == [True, True, False, True, True]
        assert pareto_front(
            np.array([1.0, 1.0, 2.0]), np.array([100.0, 96.0, 96.0])
        ).tolist() == [True, True, False]
        assert pareto_front(np.array([1.0, 1.0]), np.array([100.0, 94.0])).tolist() == [
            False,
            True,
        ]


class TestVerdict:
    def test_many_tasks_against_scipy(self) -> None:
        factors = np.exp(np.random.default_rng(0).normal(-0.1, 0.3, 12))
        found = pair(compute("verdict", ratios(*factors)))
        assert (
            found["p"]
            == found["adjusted_p"]
            == pytest.approx(scipy.stats.ttest_1samp(np.log(factors), 0).pvalue)
        )
        assert found["value"] == pytest.approx(scipy.stats.gmean(factors))

    def test_clear_and_equal(self) -> None:
        clear = pair(compute("verdict", ratios(0.5, 0.52, 0.48, 0.5, 0.51, 0.49)))
        assert (clear["separable"], clear["more_tasks"], clear["more_seeds"]) == (
            True,
            0,
            0,
        )
        equal = pair(compute("verdict", ratios(*[1.0] * 6)))
        assert (equal["separable"], equal["p"], equal["more_tasks"]) == (
            False,
            1,
            math.inf,
        )
        assert pair(compute("verdict", ratios(*[0.5] * 6)))["p"] == 0

    def test_few_tasks_need_seeds(self) -> None:
        assert math.isnan(pair(compute("verdict", table({"t": {"a": 1, "b": 2}})))["p"])
        found = pair(compute("verdict", ratios(0.5, 0.5, spread=0.1)))
        # Log scores have the variance 0.02, means of two 0.01, a log ratio 0.02, and
        # the mean of two of those 0.01.
        assert found["p"] == pytest.approx(
            2 * scipy.stats.t.sf(math.log(2) / 0.1, 4), rel=1e-6
        )

    def test_as_many_seeds_as_advised_separate(self) -> None:
        """Eight tasks leave 7 degrees of freedom, however many seeds there are."""
        logs = -0.04 + 0.055 * np.tile([1.0, -1.0], 4)
        more = pair(compute("verdict", ratios(*np.exp(logs), spread=0.1)))["more_seeds"]
        noise = 2 * 0.1**2  # variance of the log ratio of means over two seeds
        samples = np.random.default_rng(0).normal(
            -0.04, math.sqrt(noise * 2 / (2 + more)), (4000, 8)
        )
        assert (
            scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue <= 0.05
        ).mean() == pytest.approx(0.8, abs=0.05)

    @pytest.mark.parametrize(
        ("freedom", "level"), [(4, 0.05), (7, 0.05), (7, 0.05 / 120), (39, 0.01)]
    )
    def test_what_is_needed_is_found_in_four_of_five_samples(
        self, freedom: int, level: float
    ) -> None:
        random = np.random.default_rng(0)
        samples = random.normal(needed(freedom, level), 1, 40_000) / np.sqrt(
            random.chisquare(freedom, 40_000) / freedom
        )
        assert (
            2 * scipy.stats.t.sf(samples, freedom) <= level
        ).mean() == pytest.approx(0.8, abs=0.01)


class TestQuestions:
    def found(
        self, scores: pd.DataFrame, searches: pd.DataFrame | None = None
    ) -> dict[tuple[str, str], QuestionAnswer]:
        return {(each.name, each.subject): each for each in answers(scores, searches)}

    def test_by_hand(self) -> None:
        cells = {
            f"t{n}": {"orca": 0.5, "nft": 1.0, "scratch": 1.0 if n % 2 else 1.1}
            for n in range(6)
        }
        found = self.found(table({**cells, "u": {"orca": 0.1}}))
        aligning = found["aligning", ""]
        pretraining = found["pretraining", ""]
        assert aligning.comparison.ratio == pytest.approx((0.5, 0.5, 0.5, 0))
        assert (aligning.comparison.pairs, aligning.comparison.planned) == (6, 7)
        assert aligning.comparison.tasks["t0"].value == pytest.approx(0.5)
        assert (
            aligning.sentence
            == "Did aligning help? Yes: the ratio of orca to nft is 0.50 [0.50, 0.50]"
            " over 6 tasks, adjusted p = 0."
        )
        assert pretraining.comparison.ratio.value == pytest.approx(1.1**-0.5)
        several = {
            "t": {
                "orca (x)": [1.0, 1.1],
                "nft (x)": [2.0, 2.2],
                "orca (y)": 1.0,
                "nft": 3.0,
            }
        }
        assert list(self.found(table(several))) == [("aligning", "x")]

    def test_hurt_and_unknown(self) -> None:
        cells = {f"t{n}": {"orca": 1.0 + 0.01 * n, "nft": 0.5} for n in range(6)}
        assert self.found(table(cells))["aligning", ""].answer == "no, it hurt"
        assert (
            self.found(table({"t": {"orca": 1.0, "nft": 0.5}}))["aligning", ""].answer
            == "unknown"
        )

    def test_searching(self) -> None:
        rows = [
            ("t", "orca", 2, 0.2),
            ("t", "orca", 0, 0.4),
            ("t", "orca", 1, math.nan),
            ("t", "nft", 0, 0.3),
            ("t", "nft", 5, 0.6),
            ("u", "orca", 0, math.nan),
            ("u", "orca", 1, 0.1),
            ("u", "nft", 0, 0.1),
        ]
        found = self.found(
            table({}), pd.DataFrame(rows, columns=["task", "method", "number", "score"])
        )
        values = {
            subject: each.comparison.ratio.value for (_, subject), each in found.items()
        }
        assert values == pytest.approx({"": math.sqrt(0.5), "orca": 0.5, "nft": 1.0})
        assert (
            found["searching", ""].comparison.pairs,
            found["searching", ""].comparison.planned,
        ) == (1, 2)
        assert {each.answer for each in found.values()} == {
            "at most"
        }  # the winner cannot be worse than the first

    def test_answers_hold_together(self) -> None:
        """Eleven questions about equal methods: each p-value is multiplied by the
        number of those not answered yet.
        """
        random = np.random.default_rng(4)
        names = [
            "orca",
            "orca_guarded",
            "joint",
            "pare",
            "mona",
            "recraft",
            "nft",
            "scratch",
            "no_body",
            "cnn",
        ]
        cells = {
            f"t{n}": {name: math.exp(random.normal(0, 0.1)) for name in names}
            for n in range(8)
        }
        found = answers(table(cells))
        own = np.array([each.comparison.ratio.p for each in found])
        assert [each.adjusted_p for each in found] == holm(own).tolist()
        assert own.min() < 0.05 < holm(own).min()
        assert {each.answer for each in found} == {"no clear effect"}


BY_HAND = table(
    {
        "a": {"x": [0.1, 0.3], "y": [0.3, 0.3], "z": [0.4, 0.4]},
        "b": {"x": [0.5, 0.5], "y": [0.2, 0.2], "z": [0.5, 0.5]},
        "c": {"x": [0.1, 0.1], "y": [0.1, 0.1], "z": [0.2, 0.2]},
        "d": {"x": [0.1, 0.1], "y": [0.0, 0.0]},
    }
)


def test_by_hand() -> None:
    """Ranks are 1, 2, 3 on a, 2.5, 1, 2.5 on b and 1.5, 1.5, 3 on c; d has no score of
    z.
    """
    assert compute("mean_rank", BY_HAND)["value"].to_dict() == pytest.approx(
        {"x": 5 / 3, "y": 4.5 / 3, "z": 8.5 / 3}
    )
    assert compute("wins", BY_HAND)["value"].to_dict() == pytest.approx(
        {"x": 1.5, "y": 1.5, "z": 0}
    )
    rates = {("x", "y"): 0.5, ("x", "z"): 2.5 / 3, ("y", "z"): 1.0}
    assert compute("win_rate", BY_HAND)["value"].to_dict() == pytest.approx(
        rates | {(b, a): 1 - rate for (a, b), rate in rates.items()}
    )
    for name in ("mean_rank", "wins", "win_rate"):
        assert set(compute(name, BY_HAND)["num_tasks"]) == {3}
    assert compute("wins", BY_HAND)["ties"].to_dict() == {"x": 1, "y": 1, "z": 0}


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


class TestIntervals:
    def test_student_and_clopper_and_pearson(self) -> None:
        values = np.random.default_rng(0).normal(size=(7, 2))
        expected = [
            scipy.stats.ttest_1samp(values[:, x], 0).confidence_interval()
            for x in (0, 1)
        ]
        np.testing.assert_allclose(np.transpose(student(values)[1:]), expected)
        assert np.isnan(student(values[:4])[1:]).all()
        exact = [scipy.stats.binomtest(k, 8).proportion_ci() for k in range(9)]
        np.testing.assert_allclose(
            np.transpose(binomial(np.arange(9.0), 8)), exact, atol=1e-12
        )

    def test_variances_are_moderated_as_far_as_they_are_alike(self) -> None:
        random = np.random.default_rng(2)
        freedom = np.full((20, 6), 2.0)
        chance = random.chisquare(2, (20, 6))
        units = np.exp(random.normal(size=(20, 1)))
        alike, prior = moderated(units * chance, freedom)
        assert prior > 30
        np.testing.assert_allclose(
            alike, np.tile(units * chance.mean(axis=1, keepdims=True) / 2, 6), rtol=0.2
        )
        squares = units * chance * 4 / random.chisquare(4, (20, 6))
        mixed, found = moderated(squares, freedom)
        assert 2 < found < 8
        mean = squares.mean(axis=1, keepdims=True) / 2
        np.testing.assert_allclose(mixed, (found * mean + squares) / (found + 2))
        assert (
            moderated(np.zeros((2, 3)), np.full((2, 3), 2.0))[0].tolist()
            == [[0, 0, 0]] * 2
        )
        assert np.isnan(moderated(np.zeros((1, 2)), np.zeros((1, 2)))[0]).all()

    def test_methods_that_are_not_separable_from_the_best(self) -> None:
        """Of three methods with deviations of 0.1, the second is as good as the best,
        and the third 2.7 times worse.
        """
        cells = {
            m: np.exp(mean + np.array([-0.1, 0, 0.1]))
            for m, mean in (("a", 0.0), ("b", 0.02), ("c", 1.0))
        }
        assert LogScores.of(
            ScoreTable.of(table({"t": cells, "u": {"a": 1}}))
        ).tied_TM.tolist() == [
            [False, True, False],
            [False] * 3,
        ]


def test_holm() -> None:
    assert holm(np.array([0.04, 0.01, math.nan, 0.03])) == pytest.approx(
        [0.06, 0.03, math.nan, 0.06], nan_ok=True
    )
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]


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
        assert groups(pd.Series([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])).tolist() == [
            0,
            0,
            1,
            1,
            2,
            2,
            3,
            3,
        ]
        assert groups(pd.Series(["l2", "mmd", "l2"])).tolist() == [0, 1, 0]
        assert groups(pd.Series([1, 2, 1, 2])).tolist() == [0, 1, 0, 1]
        assert groups(pd.Series([True, None, [1]])).tolist() == [0, 1, 2]

    def test_what_matters_is_found(self) -> None:
        random = np.random.default_rng(0)
        rows: list[tuple[str, str, int, float, dict[str, object]]] = []
        for number in range(80):
            rate = random.random()
            width = random.random()
            score = (rate - 0.5) ** 2 * 8 + random.normal(0, 0.1)
            rows.append(
                (
                    "ab"[number % 2],
                    "orca",
                    number,
                    score,
                    {"rate": rate, "width": width, "fixed": 1},
                )
            )
        rows += [("c", "orca", number, 0.5, {"rate": 0.1}) for number in range(3)]
        columns = ["task", "method", "number", "score", "hyperparameters"]
        found = (
            importance(pd.DataFrame(rows, columns=columns))
            .loc["orca"]
            .loc[["rate", "width"]]
        )
        assert found["value"]["rate"] > 0.5 > 0.1 > abs(found["value"]["width"])
        assert found["p"]["rate"] < 1e-6
        assert found["p"]["width"] > 0.05
        assert found[["num_trials", "num_tasks"]].to_numpy().tolist() == [[80, 2]] * 2
