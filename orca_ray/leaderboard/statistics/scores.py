"""Statistics of scores, costs and searches, such as profiles and importance."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from orca_ray.errors import lookup
from orca_ray.leaderboard.statistics.intervals import student
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic

Over = Literal["sum", "mean", "max"]
"""How a method's costs on single tasks are combined."""
SAME_COST = 0.05
"""Share by which a cost must be below another one to count as lower.

Times vary as much by chance.
"""


def score(table: ScoreTable) -> pd.DataFrame:
    """Test score of a method on a task: the mean over its seeds.

    It is in the unit of the task's metric. ``std`` divides by n - 1, where n is
    ``num_seeds``. The 95 % interval of the mean is Student's, because a few seeds are
    too few for a bootstrap. There is no interval for one seed.
    """
    num_TM = table.num_seeds_TM
    t, m = np.nonzero(num_TM)
    num = num_TM[t, m]
    means = table.means_TM[t, m]
    squares = np.nansum((table.scores_TMS[t, m] - means[:, None]) ** 2, axis=1)
    undefined = np.full(len(num), np.nan)
    variances = np.divide(squares, num - 1, out=undefined, where=num > 1)
    std = np.sqrt(variances)
    half = -special.stdtrit(num - 1.0, 0.025) * std / np.sqrt(num)
    tasks = [table.tasks[index] for index in t]
    methods = [table.methods[index] for index in m]
    index = pd.MultiIndex.from_arrays([tasks, methods], names=["task", "method"])
    columns = {
        "value": means,
        "low": means - half,
        "high": means + half,
        "std": std,
        "num_seeds": num,
    }
    return pd.DataFrame(columns, index=index)


def improvement(table: ScoreTable, *, baseline: str | None = None) -> pd.DataFrame:
    """Score relative to the mean score of all methods; below 1 is better.

    Both are geometric: the score is divided by the geometric mean of the scores of all
    methods on a task, and the ratios are averaged geometrically over tasks. It uses the
    tasks on which every method has a score. The interval is Student's, of the
    logarithms; there is none for fewer than five tasks. Means are raised to at least
    half of the task's smallest positive score. With ``baseline``, the score is relative
    to that method.

    Raises:
        UserError: there is no method ``baseline``.
    """
    common = table.common
    logs_TM = LogScores.of(common).means_TM
    if baseline is None:
        num_methods = max(len(table.methods), 1)
        reference_T = logs_TM.sum(axis=1, keepdims=True) / num_methods
    else:
        places = {method: m for m, method in enumerate(table.methods)}
        m = lookup("method", baseline, places)
        reference_T = logs_TM[:, [m]]
    ratios = student(logs_TM - reference_T)
    return table.by_method(
        value=np.exp(ratios.means),
        low=np.exp(ratios.low),
        high=np.exp(ratios.high),
        num_tasks=len(common.tasks),
    )


FACTORS: Sequence[float] = tuple(1 + k / 20 for k in range(181))
"""Default factors τ: from 1 to 10 in steps of 0.05."""


def performance_profile(
    table: ScoreTable, *, factors: Sequence[float] = FACTORS
) -> pd.DataFrame:
    """Share of tasks on which the method's score is at most τ times the best score.

    The column ``x`` is τ. At τ = 1 it is the share of tasks on which the method is the
    best. It uses the tasks on which every method has a score. Means are raised to at
    least half of the task's smallest positive score. Dolan and Moré 2002, "Benchmarking
    optimization software with performance profiles", Mathematical Programming 91.
    """
    common = table.common
    logs_TM = LogScores.of(common).means_TM
    ratios_TM = logs_TM - logs_TM.min(axis=1, keepdims=True, initial=np.inf)
    # The allowance keeps a ratio of exactly τ inside, whatever the rounding of
    # logarithms.
    inside_TMX = ratios_TM[:, :, None] <= np.log(factors) + 1e-12
    num_tasks = len(common.tasks)
    if num_tasks:
        share_MX = inside_TMX.sum(axis=0) / num_tasks
    else:
        share_MX = np.full(inside_TMX.shape[1:], np.nan)
    index = pd.MultiIndex.from_product([table.methods, factors], names=["method", "x"])
    columns = {"value": share_MX.ravel(), "num_tasks": num_tasks}
    return pd.DataFrame(columns, index=index)


def cost(costs: pd.DataFrame, *, over_tasks: Over = "sum") -> pd.DataFrame:
    """Sum of the method's costs over the tasks on which every method has a cost.

    It is in the unit of the costs. ``over_tasks`` may also be ``mean`` or ``max``, for
    costs that do not add up, such as memory. There is no interval.
    """
    wide = costs.pivot(index="task", columns="method", values="cost")
    common = wide.astype("float64").dropna()
    if len(common):
        value = common.agg(over_tasks)
    else:
        value = pd.Series(np.nan, index=common.columns)
    columns = {"value": value, "low": np.nan, "high": np.nan, "num_tasks": len(common)}
    return pd.DataFrame(columns).rename_axis("method")


def pareto(
    scores: ScoreTable, costs: pd.DataFrame, *, over_tasks: Over = "sum"
) -> pd.DataFrame:
    """1 if no other method is better at no higher cost, or cheaper at no worse score.

    Otherwise, it is 0. Costs that differ by less than 5 % are called equal, because
    times vary as much from run to run.

    ``score`` is the geometric mean over tasks of the score relative to the best score
    on the task. ``cost`` is the sum of costs, or what ``over_tasks`` says. Both use the
    tasks on which every method with a cost has both a score and a cost. A method
    without costs has no value.
    """
    wide = costs.pivot(index="task", columns="method", values="cost").astype("float64")
    wide = wide.reindex(index=scores.tasks, columns=scores.methods)
    known_M = wide.notna().any().to_numpy()
    costs_TM = wide.to_numpy()[:, known_M]
    logs_TM = LogScores.of(scores).means_TM[:, known_M]
    common_T = np.isfinite(costs_TM + logs_TM).all(axis=1) & known_M.any()
    columns = {
        name: np.full(len(known_M), np.nan)
        for name in ("value", "low", "high", "score", "cost")
    }
    if common_T.any():
        relative_TM = logs_TM - logs_TM.min(axis=1, keepdims=True)
        columns["score"][known_M] = np.exp(relative_TM[common_T].mean(axis=0))
        columns["cost"][known_M] = getattr(costs_TM[common_T], over_tasks)(axis=0)
        columns["value"][known_M] = pareto_front(
            columns["score"][known_M], columns["cost"][known_M]
        )
    return scores.by_method(**columns, num_tasks=int(common_T.sum()))


def pareto_front(scores_M: Floats, costs_M: Floats) -> NDArray[np.bool_]:
    """Return a mask [M] of the points that no other point dominates.

    A point dominates another one if its score or cost is lower while neither is higher.
    A cost counts as lower if it is lower by a share of more than `SAME_COST`.
    """
    # At (i, j): whether point i is cheaper than point j, and so on.
    cheaper_MM = costs_M[:, None] < (1 - SAME_COST) * costs_M
    not_higher_MM = (scores_M[:, None] <= scores_M) & ~cheaper_MM.T
    lower_MM = (scores_M[:, None] < scores_M) | cheaper_MM
    is_dominated_M = (not_higher_MM & lower_MM).any(axis=0)
    return np.asarray(~is_dominated_M, dtype=np.bool_)


NUM_BINS = 4
"""Number of groups into which the values of a numeric hyper-parameter are put."""
MIN_TRIALS = 8
"""Least number of trials of a task that count; tasks with fewer are left out."""


def importance(searches: pd.DataFrame) -> pd.DataFrame:
    """Share of the variance of scores that the hyper-parameter explains alone.

    The scores are validation scores; the share is averaged over tasks. Scores are
    replaced by their ranks. The share is the epsilon squared of Kruskal and Wallis,
    corrected for the number of groups (Tomczak and Tomczak 2014, Trends in Sport
    Sciences 21), which is 0 on average if the hyper-parameter does not matter;
    interactions are not part of it. Numbers are put into four groups of equally many
    trials, other values into one group each. ``p`` is the probability of shares at
    least as large if the hyper-parameter does not matter. Only trials that have the
    hyper-parameter count, and tasks with at least eight such trials. A search does not
    sample evenly: importance holds for the region that the search looked at.
    """
    ordered = searches.dropna(subset="score").sort_values(
        ["method", "task", "number"], kind="stable"
    )
    rows = []
    for method, trials in ordered.groupby("method"):
        names = {name for values in trials["hyperparameters"] for name in values}
        for name in sorted(names):
            tests = _tests_by_task(trials, name)
            if not tests:
                continue
            statistic = sum(test.statistic for test in tests)
            freedom = sum(test.freedom for test in tests)
            rows.append(
                {
                    "method": str(method),
                    "hyperparameter": name,
                    "value": float(np.mean([test.share for test in tests])),
                    "p": float(special.chdtrc(freedom, statistic)),
                    "num_trials": sum(test.num_trials for test in tests),
                    "num_tasks": len(tests),
                }
            )
    columns = ["method", "hyperparameter", "value", "p", "num_trials", "num_tasks"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"value": "float64"}).set_index(["method", "hyperparameter"])


class RankTest(NamedTuple):
    """Test of Kruskal and Wallis: whether scores differ between groups of trials."""

    share: float
    """Epsilon squared: the share of variance between groups."""
    statistic: float
    """The statistic H, corrected for ties."""
    freedom: int
    """Degrees of freedom of the statistic."""
    num_trials: int


def _tests_by_task(trials: pd.DataFrame, name: str) -> list[RankTest]:
    """Return the defined tests of one hyper-parameter, for tasks with enough trials."""
    has_name = [name in values for values in trials["hyperparameters"]]
    tests = []
    for _, trials_of_task in trials[has_name].groupby("task"):
        if len(trials_of_task) < MIN_TRIALS:
            continue
        values = pd.Series(
            [values[name] for values in trials_of_task["hyperparameters"]]
        )
        scores = trials_of_task["score"].to_numpy(np.float64)
        test = kruskal_wallis(scores, groups(values))
        if np.isfinite(test.share):
            tests.append(test)
    return tests


def groups(values: pd.Series) -> NDArray[np.int64]:
    """Return a group number for each value.

    If there are more than `NUM_BINS` different numbers, each quartile is a group, else
    each value.
    """
    are_numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in values
    )
    if are_numbers and values.nunique() > NUM_BINS:
        # Equal numbers get the same place, and so the same group.
        places = values.astype("float64").rank(method="min").to_numpy() - 1
        return (places * NUM_BINS // len(values)).astype(np.int64)
    return pd.factorize(values.map(repr))[0]


def kruskal_wallis(scores: Floats, groups: NDArray[np.int64]) -> RankTest:
    """Return the test of Kruskal and Wallis, and its effect size epsilon squared.

    Share and statistic are NaN if there is one group, all scores are equal, or each
    score is its own group.
    """
    num = len(scores)
    ranks = pd.Series(scores).rank().to_numpy()
    centred = ranks - ranks.mean()
    sums = np.bincount(groups, weights=centred)
    counts = np.bincount(groups)
    between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    freedom = int((counts > 0).sum()) - 1
    whole = float((centred**2).sum())
    if not freedom or not whole or num <= freedom + 1:
        return RankTest(float("nan"), float("nan"), freedom, num)
    statistic = (num - 1) * between / whole
    share = (statistic - freedom) / (num - freedom - 1)
    return RankTest(share, statistic, freedom, num)


STATISTICS = (
    Statistic("score", "score", score, shape="cell", better="lower"),
    Statistic(
        "improvement", "relative score", improvement, shape="method", better="lower"
    ),
    Statistic(
        "performance_profile",
        "performance profile",
        performance_profile,
        shape="curve",
        better="higher",
    ),
    Statistic("cost", "cost", cost, shape="method", better="lower", inputs=("costs",)),
    Statistic(
        "pareto",
        "Pareto front",
        pareto,
        shape="method",
        better="higher",
        inputs=("scores", "costs"),
    ),
    Statistic(
        "importance",
        "importance",
        importance,
        shape="hyperparameter",
        inputs=("searches",),
    ),
)
