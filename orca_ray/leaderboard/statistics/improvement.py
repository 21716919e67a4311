"""Scores relative to a baseline."""

import numpy as np
import pandas as pd

from orca_ray.errors import lookup
from orca_ray.leaderboard.statistics.mean_rank import ranks
from orca_ray.leaderboard.statistics.paired import LogScores, ratio_over_tasks
from orca_ray.leaderboard.statistics.resampling import MIN_TASKS
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import ScoreTable


def improvement(table: ScoreTable, *, baseline: str | None = None) -> pd.DataFrame:
    """Score relative to that of a baseline method: the geometric mean over tasks of the ratio; below 1 is better.

    It uses the tasks on which every method has a score. The interval is a bootstrap over tasks; for fewer than five
    tasks it is two standard errors wide on either side, computed from the deviation over seeds of log scores. A mean
    below half of the task's smallest positive score counts as that. The baseline is by default the method with the
    highest mean rank.

    Raises:
        UserError: there is no method ``baseline``.
    """
    common = table.common
    num = len(common.tasks)
    if not num:
        return table.by_method(value=np.nan, low=np.nan, high=np.nan, num_tasks=0, baseline=baseline)
    mean_ranks = dict(zip(table.methods, ranks(common.means_TM).mean(axis=0), strict=True))
    baseline = baseline or max(mean_ranks, key=mean_ranks.__getitem__)
    lookup("method", baseline, mean_ranks)
    logs = LogScores.of(common)
    pairs = (logs.paired(method, baseline) for method in table.methods)
    ratios = [ratio_over_tasks(each, errors, bootstrap=num >= MIN_TASKS) for _, each, errors in pairs]
    value, low, high = zip(*ratios, strict=True)
    return table.by_method(value=value, low=low, high=high, num_tasks=num, baseline=baseline)


STATISTIC = Statistic("improvement", "relative score", improvement, shape="method", better="lower")
