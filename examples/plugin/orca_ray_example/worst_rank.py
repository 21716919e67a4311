"""The worst rank of a method on any task."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics import ScoreTable, Statistic
from orca_ray.leaderboard.statistics.ranks import ranks


def worst_rank(table: ScoreTable) -> pd.DataFrame:
    """Largest rank of the method over the tasks on which every method has a score.

    Equal scores share their ranks. The statistic has no interval: the largest value of
    a sample says little about others.
    """
    common = table.common
    worst_M = np.full(len(table.methods), np.nan)
    if common.tasks:
        worst_M = ranks(common.means_TM).max(axis=0, initial=0)
    return table.by_method(
        value=worst_M, low=np.nan, high=np.nan, num_tasks=len(common.tasks)
    )


STATISTIC = Statistic(
    "worst_rank",
    "worst rank",
    worst_rank,
    shape="method",
    better="lower",
    on_boards=True,
)
