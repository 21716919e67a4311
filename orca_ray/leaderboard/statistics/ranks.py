"""Statistics of ranks: mean rank, share of tasks won, counts of wins, and Bradley-Terry strengths."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.intervals import interval, mean_over_tasks, resample
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic


def beaten(means: Floats) -> Floats:
    """Return [..., M, M]: at (i, j), 1 if method i has a lower mean than j, 0.5 if they are equal, else 0."""
    ours, theirs = means[..., :, None], means[..., None, :]
    return np.where(ours < theirs, 1.0, np.where(ours > theirs, 0.0, 0.5))


def win_rate(table: ScoreTable) -> pd.DataFrame:
    """Share of tasks on which the method has a better score than the other; a tie counts half.

    It uses the tasks on which every method has a score. The interval is a bootstrap over tasks.
    """
    common, num = table.common, len(table.methods)
    value, low, high = (
        each.reshape(num, num)
        for each in mean_over_tasks(common, lambda means: beaten(means).reshape(*means.shape[:-1], num**2))
    )
    return table.by_pair(value=value, low=low, high=high, num_tasks=len(common.tasks))


def ranks(means: Floats) -> Floats:
    """Return the ranks [..., M] of ``means`` [..., M], 1 for the lowest; equal means get the average of their ranks."""
    places: Floats = 0.5 + (1 - beaten(means)).sum(axis=-1)
    return places


def mean_rank(table: ScoreTable) -> pd.DataFrame:
    """Rank of the method among all methods, averaged over tasks; equal scores get the average of their ranks.

    It uses the tasks on which every method has a score. The interval is a bootstrap over tasks.
    """
    common = table.common
    value, low, high = mean_over_tasks(common, ranks)
    return table.by_method(value=value, low=low, high=high, num_tasks=len(common.tasks))


def shared_wins(means: Floats) -> Floats:
    """Return [..., M]: 1 for the lowest of ``means`` [..., M], 1/k for each of k equal lowest means, 0 for the rest."""
    best = means == means.min(axis=-1, keepdims=True, initial=np.inf)
    shares: Floats = best / np.maximum(best.sum(axis=-1, keepdims=True), 1)
    return shares


def wins(table: ScoreTable) -> pd.DataFrame:
    """Number of tasks on which the method has the best score; if k methods tie, each gets 1/k.

    It uses the tasks on which every method has a score. The interval is a bootstrap over tasks.

    Returns:
        One row per method; ``ties`` is the number of tasks on which it shares the best score.
    """
    common = table.common
    num = len(common.tasks)
    value, low, high = (num * each for each in mean_over_tasks(common, shared_wins))
    shares_TM = shared_wins(common.means_TM)
    ties = ((shares_TM > 0) & (shares_TM < 1)).sum(axis=0)
    return table.by_method(value=value, low=low, high=high, num_tasks=num, ties=ties)


TOLERANCE = 1e-13
MAX_SWEEPS = 10_000


def bradley_terry(table: ScoreTable) -> pd.DataFrame:
    """Strength of the method in the model of Bradley and Terry, in Elo points; the mean of all methods is 1000.

    Two methods whose strengths differ by 400 points win against each other with odds of 10 to 1. Each task is one game
    of each two methods that have a score on it; a tie counts half. One drawn game is added for each two methods, so
    that the strength of a method that wins all games is finite. Missing scores are games that were not played. The
    interval is a bootstrap over tasks.
    """
    num, num_tasks = len(table.methods), len(table.tasks)
    has_score_TM = table.num_seeds_TM > 0
    played_TM = has_score_TM & (has_score_TM.sum(axis=1, keepdims=True) > 1)

    def games(means: Floats) -> Floats:
        present = np.isfinite(means)
        both = present[..., :, None] & present[..., None, :]
        return np.where(both, beaten(means), 0.0).reshape(*means.shape[:-1], num**2)

    wins_MM = games(table.means_TM).sum(axis=0).reshape(num, num)
    resampled = resample(table, games) * num_tasks
    known = not np.isnan(resampled).any()
    of_resamples = strengths(resampled.reshape(-1, num, num)) if known and num else resampled[:, :num]
    low, high = interval(table, of_resamples)
    columns = {"value": strengths(wins_MM[None])[0], "low": low, "high": high}
    alone = ~played_TM.any(axis=0)
    defined = {name: np.where(alone, np.nan, values) for name, values in columns.items()}
    return table.by_method(**defined, num_tasks=played_TM.sum(axis=0))


def strengths(wins_RMM: Floats) -> Floats:
    """Return strengths [R, M] in Elo points: maximum likelihood for the wins of methods (rows) over others (columns).

    One drawn game of each two methods is added. The iteration is that of Newman 2023, "Efficient Computation of
    Rankings from Pairwise Comparisons", JMLR 24, which converges faster than the minorisation of Hunter 2004.
    """
    num = wins_RMM.shape[-1]
    wins = wins_RMM.transpose(1, 2, 0) + 0.5
    wins[np.arange(num), np.arange(num)] = 0
    strength = np.ones((num, wins.shape[-1]))
    for _ in range(MAX_SWEEPS if num > 1 else 0):
        before = strength.copy()
        for i in range(num):
            total = strength[i] + strength
            strength[i] = (wins[i] * strength / total).sum(axis=0) / (wins[:, i] / total).sum(axis=0)
        strength /= np.exp(np.log(strength).mean(axis=0))
        if np.abs(np.log(strength / before)).max() < TOLERANCE:
            break
    return 1000 + 400 * np.log10(strength.T)


STATISTICS = (
    Statistic("win_rate", "win rate", win_rate, shape="pair", better="higher"),
    Statistic("mean_rank", "mean rank", mean_rank, shape="method", better="lower", on_boards=True),
    Statistic("wins", "wins", wins, shape="method", better="higher", on_boards=True),
    Statistic("bradley_terry", "Elo", bradley_terry, shape="method", better="higher"),
)
