"""Statistics of ranks: mean rank, share of tasks won, counts of wins, and Bradley-Terry
strengths.
"""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.intervals import binomial, student
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic


def beaten(means: Floats) -> Floats:
    """Return [..., M, M]: at (i, j), 1 if method i has a lower mean than j, 0.5 if they
    are equal, else 0.
    """
    ours = means[..., :, None]
    theirs = means[..., None, :]
    return np.where(ours < theirs, 1.0, np.where(ours > theirs, 0.0, 0.5))


def win_rate(table: ScoreTable) -> pd.DataFrame:
    """Share of tasks on which the method has a better score than the other; a tie
    counts half.

    It uses the tasks on which every method has a score. The interval is that of Clopper
    and Pearson.
    """
    common = table.common
    num = len(table.methods)
    wins_MM = beaten(common.means_TM).sum(axis=0)
    low, high = binomial(wins_MM, len(common.tasks))
    value = wins_MM / len(common.tasks) if common.tasks else np.full((num, num), np.nan)
    return table.by_pair(value=value, low=low, high=high, num_tasks=len(common.tasks))


def ranks(means: Floats) -> Floats:
    """Return the ranks [..., M] of ``means`` [..., M], 1 for the lowest; equal means
    get the average of their ranks.
    """
    places: Floats = 0.5 + (1 - beaten(means)).sum(axis=-1)
    return places


def mean_rank(table: ScoreTable) -> pd.DataFrame:
    """Rank of the method among all methods, averaged over tasks; equal scores get the
    average of their ranks.

    It uses the tasks on which every method has a score. The interval is Student's; it
    ends where no rank is possible.
    """
    common = table.common
    value, *ends = student(ranks(common.means_TM))
    low, high = np.clip(ends, 1, len(table.methods))
    return table.by_method(value=value, low=low, high=high, num_tasks=len(common.tasks))


def wins(table: ScoreTable) -> pd.DataFrame:
    """Number of tasks on which the method has the best score; if k methods tie, each
    gets 1/k.

    It uses the tasks on which every method has a score. The interval is that of Clopper
    and Pearson, which covers the expected number of wins on as many tasks with at least
    95 %.

    Returns:
        One row per method; ``ties`` is the number of tasks on which it shares the best
        score.
    """
    common = table.common
    num = len(common.tasks)
    best_TM = common.means_TM == common.means_TM.min(
        axis=1, keepdims=True, initial=np.inf
    )
    shares_TM = best_TM / np.maximum(best_TM.sum(axis=1, keepdims=True), 1)
    value = shares_TM.sum(axis=0) if num else np.full(len(table.methods), np.nan)
    low, high = (num * each for each in binomial(value, num))
    ties = ((shares_TM > 0) & (shares_TM < 1)).sum(axis=0)
    return table.by_method(value=value, low=low, high=high, num_tasks=num, ties=ties)


TOLERANCE = 1e-13
MAX_SWEEPS = 10_000


def bradley_terry(table: ScoreTable) -> pd.DataFrame:
    """Strength of the method in the model of Bradley and Terry, in Elo points; the mean
    of all methods is 1000.

    Two methods whose strengths differ by 400 points win against each other with odds of
    10 to 1. Each task is one game of each two methods that have a score on it; a tie
    counts half. One drawn game is added for each two methods, so that the strength of a
    method that wins all games is finite. Missing scores are games that were not played.
    The interval is Student's, with the standard error of the jackknife, which leaves
    out each task in turn.
    """
    has_score_TM = table.num_seeds_TM > 0
    played_TM = has_score_TM & (has_score_TM.sum(axis=1, keepdims=True) > 1)
    both_TMM = played_TM[:, :, None] & played_TM[:, None, :]
    wins_TMM = np.where(both_TMM, beaten(table.means_TM), 0.0)[played_TM.any(axis=1)]
    num = len(wins_TMM)
    wins_MM = wins_TMM.sum(axis=0)
    value, left_out_TM = np.split(
        strengths(np.concatenate([wins_MM[None], wins_MM - wins_TMM])), [1]
    )
    _, low, high = student(
        num * value - (num - 1) * left_out_TM
    )  # of the jackknife's pseudo-values
    half = (high - low) / 2
    alone = ~played_TM.any(axis=0)
    columns = {"value": value[0], "low": value[0] - half, "high": value[0] + half}
    defined = {
        name: np.where(alone, np.nan, values) for name, values in columns.items()
    }
    return table.by_method(**defined, num_tasks=played_TM.sum(axis=0))


def strengths(wins_RMM: Floats) -> Floats:
    """Return strengths [R, M] in Elo points: maximum likelihood for the wins of methods
    (rows) over others (columns).

    One drawn game of each two methods is added. The iteration is that of Newman 2023,
    "Efficient Computation of Rankings from Pairwise Comparisons", JMLR 24, which
    converges faster than the minorisation of Hunter 2004.
    """
    num = wins_RMM.shape[-1]
    wins = wins_RMM.transpose(1, 2, 0) + 0.5
    wins[np.arange(num), np.arange(num)] = 0
    strength = np.ones((num, wins.shape[-1]))
    for _ in range(MAX_SWEEPS if num > 1 else 0):
        before = strength.copy()
        for i in range(num):
            total = strength[i] + strength
            strength[i] = (wins[i] * strength / total).sum(axis=0) / (
                wins[:, i] / total
            ).sum(axis=0)
        strength /= np.exp(np.log(strength).mean(axis=0))
        if np.abs(np.log(strength / before)).max() < TOLERANCE:
            break
    return 1000 + 400 * np.log10(strength.T)


STATISTICS = (
    Statistic("win_rate", "win rate", win_rate, shape="pair", better="higher"),
    Statistic(
        "mean_rank",
        "mean rank",
        mean_rank,
        shape="method",
        better="lower",
        on_boards=True,
    ),
    Statistic("wins", "wins", wins, shape="method", better="higher", on_boards=True),
    Statistic("bradley_terry", "Elo", bradley_terry, shape="method", better="higher"),
)
