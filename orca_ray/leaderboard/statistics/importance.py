"""Importance of hyper-parameters, from the trials of searches."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.intervals import chi_square_tail
from orca_ray.leaderboard.statistics.table import Floats, Statistic

NUM_BINS = 4
MIN_TRIALS = 8
"""Tasks with fewer trials than this are left out."""


def importance(searches: pd.DataFrame) -> pd.DataFrame:
    """Share of the variance of validation scores that the hyper-parameter explains alone, averaged over tasks.

    Scores are replaced by their ranks. The share is the epsilon squared of Kruskal and Wallis, corrected for the number
    of groups (Tomczak and Tomczak 2014, Trends in Sport Sciences 21), which is 0 on average if the
    hyper-parameter does not matter; interactions are not part of it. Numbers are put into four groups of equally many
    trials, other values into one group each. ``p`` is the probability of shares at least as large if the
    hyper-parameter does not matter. Only trials that have the hyper-parameter count, and tasks with at least eight
    such trials. A search does not sample evenly: importance holds for the region that the search looked at.
    """
    rows = []
    ordered = searches.dropna(subset="score").sort_values(["method", "task", "number"], kind="stable")
    for method, trials in ordered.groupby("method"):
        for name in sorted({name for values in trials["hyperparameters"] for name in values}):
            having = trials[[name in values for values in trials["hyperparameters"]]]
            tests = [_on_task(group, name) for _, group in having.groupby("task") if len(group) >= MIN_TRIALS]
            if known := [test for test in tests if np.isfinite(test[0])]:
                shares, statistics, freedoms, nums = zip(*known, strict=True)
                p = chi_square_tail(sum(statistics), sum(freedoms))
                rows.append((str(method), name, float(np.mean(shares)), p, sum(nums), len(known)))
    frame = pd.DataFrame(rows, columns=["method", "hyperparameter", "value", "p", "num_trials", "num_tasks"])
    return frame.astype({"value": "float64"}).set_index(["method", "hyperparameter"])


def _on_task(trials: pd.DataFrame, name: str) -> tuple[float, float, int, int]:
    values = pd.Series([values[name] for values in trials["hyperparameters"]])
    return kruskal_wallis(trials["score"].to_numpy(np.float64), groups(values))


def groups(values: pd.Series) -> NDArray[np.int64]:
    """Return a group number for each value: its quartile if over `NUM_BINS` numbers differ, else one per value."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and values.nunique() > NUM_BINS:
        places = values.astype("float64").rank(method="min").to_numpy() - 1
        return (places * NUM_BINS // len(values)).astype(np.int64)
    return pd.factorize(values.map(repr))[0]


def kruskal_wallis(scores: Floats, groups: NDArray[np.int64]) -> tuple[float, float, int, int]:
    """Return epsilon squared, the statistic H, its degrees of freedom and the number of scores.

    H is corrected for ties. Epsilon squared and H are NaN if there is one group, all scores are equal, or each score is
    its own group.
    """
    num = len(scores)
    ranks = pd.Series(scores).rank().to_numpy()
    centred = ranks - ranks.mean()
    sums, counts = np.bincount(groups, weights=centred), np.bincount(groups)
    between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    freedom = int((counts > 0).sum()) - 1
    whole = float((centred**2).sum())
    if not freedom or not whole or num <= freedom + 1:
        return float("nan"), float("nan"), freedom, num
    statistic = (num - 1) * between / whole
    return (statistic - freedom) / (num - freedom - 1), statistic, freedom, num


STATISTIC = Statistic("importance", "importance", importance, shape="hyperparameter", better=None, inputs=("searches",))
