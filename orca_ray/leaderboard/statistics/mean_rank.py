"""Rank among the methods, averaged over tasks."""

import pandas as pd

from orca_ray.leaderboard.statistics.resampling import mean_over_tasks
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable
from orca_ray.leaderboard.statistics.win_rate import beaten


def ranks(means: Floats) -> Floats:
    """Return the ranks of the methods (last axis) from 1; equal scores get the average of their ranks."""
    places: Floats = 0.5 + (1 - beaten(means)).sum(axis=-1)
    return places


def mean_rank(table: ScoreTable) -> pd.DataFrame:
    """Rank of the method among all methods, averaged over tasks; equal scores get the average of their ranks.

    It uses the tasks on which every method has a score. The interval is a bootstrap over tasks.
    """
    common = table.common
    value, low, high = mean_over_tasks(common, ranks)
    return table.by_method(value=value, low=low, high=high, num_tasks=len(common.tasks))


STATISTIC = Statistic("mean_rank", "mean rank", mean_rank, shape="method", better="lower", on_boards=True)
