"""Share of tasks on which one method beats another."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.resampling import mean_over_tasks
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable


def beaten(means: Floats) -> Floats:
    """Return which methods beat which, [..., M, M]: 1 where the first is better, 0.5 on a tie, else 0."""
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


STATISTIC = Statistic("win_rate", "win rate", win_rate, shape="pair", better="higher")
