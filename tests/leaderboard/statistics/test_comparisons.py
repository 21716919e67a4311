"""Statistics against cases by hand, against SciPy, and against their contract."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import ScoreTable, all_statistics, get_statistic
from orca_ray.leaderboard.statistics.intervals import (
    binomial,
    moderate_variances,
    student,
)
from orca_ray.leaderboard.statistics.paired import LogScores, holm
from orca_ray.leaderboard.statistics.questions import QuestionAnswer, answers
from orca_ray.leaderboard.statistics.ranks import strengths
from orca_ray.leaderboard.statistics.scores import (
    groups,
    importance,
    kruskal_wallis,
    pareto_front,
)
from orca_ray.leaderboard.statistics.verdict import detectable_mean
from orca_ray.testing import StatisticSuite
from orca_ray.testing.scores import compute, table

SAMPLE = ("bradley_terry", "mean_rank", "verdict")


class TestSomeStatistics(StatisticSuite):
    names = SAMPLE


@pytest.mark.exhaustive
class TestEveryStatistic(StatisticSuite):
    names = sorted({*all_statistics()} - {*SAMPLE})


def ratios(*factors: float, spread: float = 0.0) -> pd.DataFrame:
    """Return one task per factor, by which scores of ``a`` exceed those of ``b``.

    Each task has its own unit. Logarithms of two seeds differ by ``spread`` from their
    mean.
    """
    cells = {}
    for number, factor in enumerate(factors):
        seeds = 10.0 ** (number % 5 - 2) * np.exp([spread, -spread])
        cells[f"t{number:03}"] = {"a": factor * seeds, "b": seeds}
    return table(cells)


def pair(
    frame: pd.DataFrame, method: str = "a", other: str = "b"
) -> Mapping[str, float]:
    row = frame.loc[[(method, other)]].iloc[0]
    return {str(name): value for name, value in row.items()}


def test_score_by_hand() -> None:
    scores = compute("score", table({"t": {"a": [0.1, 0.2, 0.6], "b": 0.5}}))
    std = np.std([0.1, 0.2, 0.6], ddof=1)
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.3, scale=std / math.sqrt(3))
    rows = scores[["value", "low", "high", "std", "num_seeds"]].to_numpy().tolist()
    assert rows[0] == pytest.approx([0.3, low, high, std, 3])
    assert rows[1] == pytest.approx([0.5, *[math.nan] * 3, 1], nan_ok=True)


class TestImprovement:
    def test_by_hand(self) -> None:
        scores = ratios(0.5, 2.0, 0.25, 0.5, 1.0, 0.5)
        frame = compute("improvement", scores, baseline="b")
        rows = frame[["value", "low", "high"]].to_numpy().tolist()
        value, low, high = rows[0]
        assert value == pytest.approx(0.5 ** (4 / 6))
        assert 0.25 < low < value < high < 2
        assert rows[1] == [1, 1, 1]

    def test_half_of_the_smallest_score_stands_for_zero(self) -> None:
        scores = table({"t": {"a": [0.0, 0.0], "b": [0.02, 0.06]}})
        frame = compute("improvement", scores, baseline="b")
        assert frame["value"]["a"] == pytest.approx(0.01 / 0.04)

    def test_scores_are_by_default_relative_to_the_mean_of_all_methods(self) -> None:
        frame = compute("improvement", ratios(0.5, 0.5, 2.0, 0.5))
        assert frame["value"].to_dict() == pytest.approx({"a": 0.5**0.25, "b": 2**0.25})
        assert frame[["low", "high"]].isna().all(axis=None), "of four tasks"

    def test_unknown_names(self) -> None:
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
    shares = compute("performance_profile", scores, factors=[1, 1.1, 1.5, 4])["value"]
    assert shares["a"].tolist() == pytest.approx([2 / 3, 2 / 3, 1, 1])
    assert shares["b"].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])


class TestBradleyTerry:
    def test_is_the_maximum_of_the_likelihood(self) -> None:
        wins = np.random.default_rng(0).integers(0, 9, (5, 5)).astype(float)
        np.fill_diagonal(wins, 0)
        log_odds = (strengths(wins[None])[0] - 1000) * math.log(10) / 400
        counted = wins + 0.5 * (1 - np.eye(5))
        expected = scipy.special.expit(log_odds[:, None] - log_odds)
        # At the maximum, each method wins as often as the model expects.
        games = counted + counted.T
        np.testing.assert_allclose(
            counted.sum(axis=1),
            (games * expected).sum(axis=1) - np.diag(games) / 2,
            rtol=1e-9,
        )

    def test_missing_games_were_not_played(self) -> None:
        scores = table(
            {"t": {"a": 1.0, "b": 2.0}, "u": {"b": 1.0, "c": 2.0}, "v": {"d": 1.0}}
        )
        frame = compute("bradley_terry", scores)
        elo = frame["value"]
        assert elo["a"] > elo["b"] > elo["c"]
        assert math.isnan(elo["d"])
        assert frame["num_tasks"].to_dict() == {"a": 1, "b": 2, "c": 1, "d": 0}


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
        sums = get_statistic("cost").compute(self.costs)
        assert sums["value"].to_dict() == {"a": 3, "b": 10}
        assert set(sums["num_tasks"]) == {2}
        largest = get_statistic("cost").compute(self.costs, over_tasks="max")
        assert largest["value"].to_dict() == {"a": 2, "b": 5}

    def test_pareto_by_hand(self) -> None:
        pareto = get_statistic("pareto")
        scores = table({task: {"a": 4.0, "b": 1.0, "published": 0.5} for task in "tuv"})
        frame = pareto.compute(scores, self.costs)
        assert frame["value"].to_dict() == pytest.approx(
            {"a": 1, "b": 1, "published": math.nan}, nan_ok=True
        )
        assert frame["score"]["a"] == pytest.approx(4)
        assert frame["cost"]["b"] == 10
        means = pareto.compute(scores, self.costs, over_tasks="mean")
        assert means["cost"]["b"] == 5
        worse = table({task: {"a": 0.5, "b": 1.0} for task in "tu"})
        assert pareto.compute(worse, self.costs)["value"].to_dict() == {"a": 1, "b": 0}

    @pytest.mark.parametrize(
        ("scores", "costs", "is_on_front"),
        [
            (
                [1.0, 2.0, 2.0, 3.0, 1.0],
                [5.0, 2.0, 3.0, 1.0, 5.0],
                [True, True, False, True, True],
            ),
            ([1.0, 1.0, 2.0], [100.0, 96.0, 96.0], [True, True, False]),
            ([1.0, 1.0], [100.0, 94.0], [False, True]),
        ],
    )
    def test_front_where_costs_within_five_per_cent_are_equal(
        self, scores: list[float], costs: list[float], is_on_front: list[bool]
    ) -> None:
        front = pareto_front(np.array(scores), np.array(costs))
        assert front.tolist() == is_on_front


class TestVerdict:
    def test_many_tasks_against_scipy(self) -> None:
        factors = np.exp(np.random.default_rng(0).normal(-0.1, 0.3, 12))
        row = pair(compute("verdict", ratios(*factors)))
        p = scipy.stats.ttest_1samp(np.log(factors), 0).pvalue
        assert row["p"] == row["adjusted_p"] == pytest.approx(p)
        assert row["value"] == pytest.approx(scipy.stats.gmean(factors))

    def test_clear_and_equal(self) -> None:
        clear = pair(compute("verdict", ratios(0.5, 0.52, 0.48, 0.5, 0.51, 0.49)))
        assert clear["separable"]
        assert (clear["more_tasks"], clear["more_seeds"]) == (0, 0)
        equal = pair(compute("verdict", ratios(*[1.0] * 6)))
        assert not equal["separable"]
        assert (equal["p"], equal["more_tasks"]) == (1, math.inf)
        assert pair(compute("verdict", ratios(*[0.5] * 6)))["p"] == 0

    def test_few_tasks_need_seeds(self) -> None:
        one_seed = table({"t": {"a": 1, "b": 2}})
        assert math.isnan(pair(compute("verdict", one_seed))["p"])
        row = pair(compute("verdict", ratios(0.5, 0.5, spread=0.1)))
        # Log scores have the variance 0.02, means of two 0.01, a log ratio 0.02, and
        # the mean of two of those 0.01.
        p = 2 * scipy.stats.t.sf(math.log(2) / 0.1, 4)
        assert row["p"] == pytest.approx(p, rel=1e-6)

    def test_as_many_seeds_as_advised_separate(self) -> None:
        """Eight tasks leave 7 degrees of freedom, however many seeds there are."""
        logs = -0.04 + 0.055 * np.tile([1.0, -1.0], 4)
        row = pair(compute("verdict", ratios(*np.exp(logs), spread=0.1)))
        noise = 2 * 0.1**2  # variance of the log ratio of means over two seeds
        deviation = math.sqrt(noise * 2 / (2 + row["more_seeds"]))
        samples = np.random.default_rng(0).normal(-0.04, deviation, (4000, 8))
        is_separable = scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue <= 0.05
        assert is_separable.mean() == pytest.approx(0.8, abs=0.05)

    @pytest.mark.parametrize(
        ("freedom", "level"), [(4, 0.05), (7, 0.05), (7, 0.05 / 120), (39, 0.01)]
    )
    def test_what_is_needed_is_found_in_four_of_five_samples(
        self, freedom: int, level: float
    ) -> None:
        random = np.random.default_rng(0)
        means = random.normal(detectable_mean(freedom, level), 1, 40_000)
        errors = np.sqrt(random.chisquare(freedom, 40_000) / freedom)
        is_significant = 2 * scipy.stats.t.sf(means / errors, freedom) <= level
        assert is_significant.mean() == pytest.approx(0.8, abs=0.01)


class TestQuestions:
    def answers(
        self, scores: pd.DataFrame, searches: pd.DataFrame | None = None
    ) -> dict[tuple[str, str], QuestionAnswer]:
        """Return the answers by name and subject of the question."""
        return {
            (answer.name, answer.subject): answer
            for answer in answers(scores, searches)
        }

    def test_by_hand(self) -> None:
        cells = {
            f"t{n}": {"orca": 0.5, "nft": 1.0, "scratch": 1.0 if n % 2 else 1.1}
            for n in range(6)
        }
        by_name = self.answers(table({**cells, "u": {"orca": 0.1}}))
        aligning = by_name["aligning", ""]
        assert aligning.comparison.ratio == pytest.approx((0.5, 0.5, 0.5, 0))
        assert aligning.comparison.pairs == 6
        assert aligning.comparison.planned == 7
        assert aligning.comparison.tasks["t0"].value == pytest.approx(0.5)
        assert (
            aligning.sentence
            == "Did aligning help? Yes: the ratio of orca to nft is 0.50 [0.50, 0.50]"
            " over 6 tasks, adjusted p = 0."
        )
        pretraining = by_name["pretraining", ""]
        assert pretraining.comparison.ratio.value == pytest.approx(1.1**-0.5)

    def test_methods_with_one_body_are_compared(self) -> None:
        cells = {
            "orca (x)": [1.0, 1.1],
            "nft (x)": [2.0, 2.2],
            "orca (y)": 1.0,
            "nft": 3.0,
        }
        assert list(self.answers(table({"t": cells}))) == [("aligning", "x")]

    def test_hurt_and_unknown(self) -> None:
        cells = {f"t{n}": {"orca": 1.0 + 0.01 * n, "nft": 0.5} for n in range(6)}
        hurt = self.answers(table(cells))["aligning", ""]
        assert hurt.answer == "no, it hurt"
        one_score = table({"t": {"orca": 1.0, "nft": 0.5}})
        assert self.answers(one_score)["aligning", ""].answer == "unknown"

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
        searches = pd.DataFrame(rows, columns=["task", "method", "number", "score"])
        by_name = self.answers(table({}), searches)
        values = {
            subject: answer.comparison.ratio.value
            for (_, subject), answer in by_name.items()
        }
        assert values == pytest.approx({"": math.sqrt(0.5), "orca": 0.5, "nft": 1.0})
        all_methods = by_name["searching", ""].comparison
        assert (all_methods.pairs, all_methods.planned) == (1, 2)
        # The winner cannot be worse than the first.
        assert {answer.answer for answer in by_name.values()} == {"at most"}

    def test_answers_hold_together(self) -> None:
        """Eleven questions about equal methods.

        Each p-value is multiplied by the number of questions not answered yet.
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
        all_answers = answers(table(cells))
        p = np.array([answer.comparison.ratio.p for answer in all_answers])
        assert [answer.adjusted_p for answer in all_answers] == holm(p).tolist()
        assert p.min() < 0.05 < holm(p).min()
        assert {answer.answer for answer in all_answers} == {"no clear effect"}


BY_HAND = table(
    {
        "a": {"x": [0.1, 0.3], "y": [0.3, 0.3], "z": [0.4, 0.4]},
        "b": {"x": [0.5, 0.5], "y": [0.2, 0.2], "z": [0.5, 0.5]},
        "c": {"x": [0.1, 0.1], "y": [0.1, 0.1], "z": [0.2, 0.2]},
        "d": {"x": [0.1, 0.1], "y": [0.0, 0.0]},
    }
)


def test_by_hand() -> None:
    """Ranks are 1, 2, 3 on a, 2.5, 1, 2.5 on b and 1.5, 1.5, 3 on c.

    On d, z has no score.
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
    scores = ScoreTable.of(rows.set_axis(["task", "method", "seed", "score"], axis=1))
    assert scores.methods == ("a", "b")
    np.testing.assert_array_equal(scores.scores_TMS, [[[0.1, 0.2], [0.5, np.nan]]])
    assert scores.num_seeds_TM.tolist() == [[2, 1]]
    with pytest.raises(ValueError, match="one score for each task, method and seed"):
        ScoreTable.of(pd.concat([BY_HAND, BY_HAND[:1]]))
    with pytest.raises(ValueError, match="finite"):
        ScoreTable.of(BY_HAND.assign(score=np.inf))


class TestIntervals:
    def test_student_and_clopper_and_pearson(self) -> None:
        values = np.random.default_rng(0).normal(size=(7, 2))
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
        intervals = student(values)
        np.testing.assert_allclose(intervals.low, expected.low)
        np.testing.assert_allclose(intervals.high, expected.high)
        of_few_tasks = student(values[:4])
        assert np.isnan([of_few_tasks.low, of_few_tasks.high]).all()
        exact = [scipy.stats.binomtest(k, 8).proportion_ci() for k in range(9)]
        shares = np.transpose(binomial(np.arange(9.0), 8))
        np.testing.assert_allclose(shares, exact, atol=1e-12)

    def test_variances_are_moderated_as_far_as_they_are_alike(self) -> None:
        random = np.random.default_rng(2)
        freedom = np.full((2000, 6), 2.0)
        chance = random.chisquare(2, (2000, 6))
        units = np.exp(random.normal(size=(2000, 1)))
        _, prior_of_equal = moderate_variances(units * chance, freedom)
        assert prior_of_equal > 20
        few_tasks = slice(20)
        _, cautious = moderate_variances(
            (units * chance)[few_tasks], freedom[few_tasks]
        )
        assert cautious < prior_of_equal / 4, "few variances may look alike by chance"

        squares = units * chance * 4 / random.chisquare(4, (2000, 6))
        mixed, prior = moderate_variances(squares, freedom)
        assert 3 < prior < 5
        mean = squares.mean(axis=1, keepdims=True) / 2
        np.testing.assert_allclose(mixed, (prior * mean + squares) / (prior + 2))

        zero, _ = moderate_variances(np.zeros((2, 3)), np.full((2, 3), 2.0))
        assert zero.tolist() == [[0, 0, 0]] * 2
        unknown, _ = moderate_variances(np.zeros((1, 2)), np.zeros((1, 2)))
        assert np.isnan(unknown).all()

    def test_methods_that_are_not_separable_from_the_best(self) -> None:
        """Deviations are 0.1; the second of three methods is as good as the best.

        The third is 2.7 times worse.
        """
        cells = {
            method: np.exp(mean + np.array([-0.1, 0, 0.1]))
            for method, mean in (("a", 0.0), ("b", 0.02), ("c", 1.0))
        }
        scores = ScoreTable.of(table({"t": cells, "u": {"a": 1}}))
        is_tied = LogScores.of(scores).tied_TM
        assert is_tied.tolist() == [[False, True, False], [False, False, False]]


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
        test = kruskal_wallis(scores, labels)
        expected = scipy.stats.kruskal(*(scores[labels == label] for label in range(3)))
        assert test.statistic == pytest.approx(expected.statistic)
        assert (test.freedom, test.num_trials) == (2, 30)
        assert test.share == pytest.approx((expected.statistic - 2) / 27)

    @pytest.mark.parametrize(
        ("values", "labels"),
        [
            ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0, 0, 1, 1, 2, 2, 3, 3]),
            (["l2", "mmd", "l2"], [0, 1, 0]),
            ([1, 2, 1, 2], [0, 1, 0, 1]),
            ([True, None, [1]], [0, 1, 2]),
        ],
    )
    def test_groups(self, values: list[object], labels: list[int]) -> None:
        assert groups(pd.Series(values)).tolist() == labels

    def test_what_matters_is_found(self) -> None:
        random = np.random.default_rng(0)
        rows: list[dict[str, object]] = []
        for number in range(80):
            rate = random.random()
            width = random.random()
            score = (rate - 0.5) ** 2 * 8 + random.normal(0, 0.1)
            rows.append(
                {
                    "task": "ab"[number % 2],
                    "number": number,
                    "score": score,
                    "hyperparameters": {"rate": rate, "width": width, "fixed": 1},
                }
            )
        rows += [
            {
                "task": "c",
                "number": number,
                "score": 0.5,
                "hyperparameters": {"rate": 0.1},
            }
            for number in range(3)
        ]
        frame = importance(pd.DataFrame(rows).assign(method="orca")).loc["orca"]
        rate_row = frame.loc["rate"]
        width_row = frame.loc["width"]
        assert rate_row["value"] > 0.5 > 0.1 > abs(width_row["value"])
        assert rate_row["p"] < 1e-6
        assert width_row["p"] > 0.05
        for row in (rate_row, width_row):
            assert (row["num_trials"], row["num_tasks"]) == (80, 2)
