"""Number of tasks on which a method is the best."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.resampling import mean_over_tasks
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable


def shared_wins(means: Floats) -> Floats:
    """Return 1 for the best method (last axis), 1/k for each of k that tie for the best, and 0 for the others."""
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


STATISTIC = Statistic("wins", "wins", wins, shape="method", better="higher", on_boards=True)
