"""Strengths of methods in the model of Bradley and Terry."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.resampling import interval, resample
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable
from orca_ray.leaderboard.statistics.win_rate import beaten

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
    """Return the strengths [R, M] in Elo points that maximise the likelihood of the wins of methods (rows) over others.

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


STATISTIC = Statistic("bradley_terry", "Elo", bradley_terry, shape="method", better="higher")
