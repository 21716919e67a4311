"""Statistics of ranks: mean rank, wins, win rates, and Bradley-Terry strengths."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.intervals import binomial, student
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic


def beaten(means: Floats) -> Floats:
    """Return [..., M, M]: 1 where method i has a lower mean than j, 0.5 where equal."""
    rows = means[..., :, None]
    columns = means[..., None, :]
    drawn_or_lost = np.where(rows > columns, 0.0, 0.5)
    return np.where(rows < columns, 1.0, drawn_or_lost)


def win_rate(table: ScoreTable) -> pd.DataFrame:
    """Share of tasks on which the method has a better score than the other.

    A tie counts half. It uses the tasks on which every method has a score. The interval
    is that of Clopper and Pearson.
    """
    common = table.common
    num_tasks = len(common.tasks)
    wins_MM = beaten(common.means_TM).sum(axis=0)
    low, high = binomial(wins_MM, num_tasks)
    value = wins_MM / num_tasks if num_tasks else np.full_like(wins_MM, np.nan)
    return table.by_pair(value=value, low=low, high=high, num_tasks=num_tasks)


def ranks(means: Floats) -> Floats:
    """Return the ranks [..., M] of ``means`` [..., M], 1 for the lowest.

    Equal means get the average of their ranks.
    """
    places: Floats = 0.5 + (1 - beaten(means)).sum(axis=-1)
    return places


def mean_rank(table: ScoreTable) -> pd.DataFrame:
    """Rank of the method among all methods, averaged over tasks.

    Equal scores get the average of their ranks. It uses the tasks on which every method
    has a score. The interval is Student's; it ends where no rank is possible.
    """
    common = table.common
    intervals = student(ranks(common.means_TM))
    return table.by_method(
        value=intervals.means,
        low=np.clip(intervals.low, 1, len(table.methods)),
        high=np.clip(intervals.high, 1, len(table.methods)),
        num_tasks=len(common.tasks),
    )


def wins(table: ScoreTable) -> pd.DataFrame:
    """Number of tasks on which the method has the best score.

    If k methods tie, each gets 1/k. It uses the tasks on which every method has a
    score. The interval is that of Clopper and Pearson, which covers the expected number
    of wins on as many tasks with at least 95 %.

    Returns:
        One row per method; ``ties`` is the number of tasks on which it shares the best
        score.
    """
    common = table.common
    num_tasks = len(common.tasks)
    lowest_T = common.means_TM.min(axis=1, keepdims=True, initial=np.inf)
    best_TM = common.means_TM == lowest_T
    shares_TM = best_TM / np.maximum(best_TM.sum(axis=1, keepdims=True), 1)
    value = shares_TM.sum(axis=0)
    if num_tasks == 0:
        value = np.full(len(table.methods), np.nan)
    low, high = binomial(value, num_tasks)
    ties = ((shares_TM > 0) & (shares_TM < 1)).sum(axis=0)
    return table.by_method(
        value=value,
        low=num_tasks * low,
        high=num_tasks * high,
        num_tasks=num_tasks,
        ties=ties,
    )


TOLERANCE = 1e-13
"""Largest change of a logarithm of a strength at which the iteration ends."""
MAX_SWEEPS = 10_000
"""Largest number of iterations."""


def bradley_terry(table: ScoreTable) -> pd.DataFrame:
    """Strength of the method in the model of Bradley and Terry, in Elo points.

    The mean of all methods is 1000. Two methods whose strengths differ by 400 points
    win against each other with odds of 10 to 1. Each task is one game of each two
    methods that have a score on it; a tie counts half. One drawn game is added for each
    two methods, so that the strength of a method that wins all games is finite. Missing
    scores are games that were not played. The interval is Student's, with the standard
    error of the jackknife, which leaves out each task in turn.
    """
    has_score_TM = table.num_seeds_TM > 0
    played_TM = has_score_TM & (has_score_TM.sum(axis=1, keepdims=True) > 1)
    both_TMM = played_TM[:, :, None] & played_TM[:, None, :]
    wins_TMM = np.where(both_TMM, beaten(table.means_TM), 0.0)[played_TM.any(axis=1)]
    wins_MM = wins_TMM.sum(axis=0)
    all_strengths = strengths(np.concatenate([wins_MM[None], wins_MM - wins_TMM]))
    value_M = all_strengths[0]
    left_out_TM = all_strengths[1:]
    num_tasks = len(wins_TMM)
    pseudo_values_TM = num_tasks * value_M - (num_tasks - 1) * left_out_TM
    jackknife = student(pseudo_values_TM)
    half_M = (jackknife.high - jackknife.low) / 2
    is_alone_M = ~played_TM.any(axis=0)
    return table.by_method(
        value=np.where(is_alone_M, np.nan, value_M),
        low=np.where(is_alone_M, np.nan, value_M - half_M),
        high=np.where(is_alone_M, np.nan, value_M + half_M),
        num_tasks=played_TM.sum(axis=0),
    )


def strengths(wins_RMM: Floats) -> Floats:
    """Return strengths [R, M] in Elo points, by maximum likelihood.

    ``wins_RMM`` are wins of methods (rows) over others (columns). One drawn game of
    each two methods is added. The iteration is that of Newman 2023, "Efficient
    Computation of Rankings from Pairwise Comparisons", JMLR 24, which converges faster
    than the minorisation of Hunter 2004.
    """
    num_methods = wins_RMM.shape[-1]
    wins_MMR = wins_RMM.transpose(1, 2, 0) + 0.5
    wins_MMR[np.arange(num_methods), np.arange(num_methods)] = 0
    strength_MR = np.ones((num_methods, wins_MMR.shape[-1]))
    num_sweeps = MAX_SWEEPS if num_methods > 1 else 0
    for _ in range(num_sweeps):
        before_MR = strength_MR.copy()
        for i in range(num_methods):
            total_MR = strength_MR[i] + strength_MR
            won_R = (wins_MMR[i] * strength_MR / total_MR).sum(axis=0)
            lost_R = (wins_MMR[:, i] / total_MR).sum(axis=0)
            strength_MR[i] = won_R / lost_R
        strength_MR /= np.exp(np.log(strength_MR).mean(axis=0))
        if np.abs(np.log(strength_MR / before_MR)).max() < TOLERANCE:
            break
    return 1000 + 400 * np.log10(strength_MR.T)


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
