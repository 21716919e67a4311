"""Performance profiles of Dolan and Moré."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import ScoreTable

FACTORS: Sequence[float] = tuple(1 + k / 20 for k in range(181))
"""Default factors τ: from 1 to 10 in steps of 0.05."""


def performance_profile(table: ScoreTable, *, factors: Sequence[float] = FACTORS) -> pd.DataFrame:
    """Share of tasks on which the method's score is at most τ times the best score (``x`` is τ).

    At τ = 1 it is the share of tasks on which the method is the best. It uses the tasks on which every method has a
    score. A mean below half of the task's smallest positive score counts as that. Dolan and Moré 2002, "Benchmarking
    optimization software with performance profiles", Mathematical Programming 91.
    """
    common = table.common
    logs_TM = LogScores.of(common).means_TM
    ratios_TM = logs_TM - logs_TM.min(axis=1, keepdims=True, initial=np.inf)
    # The allowance keeps a ratio of exactly τ inside, whatever the rounding of logarithms.
    inside_TMX = ratios_TM[:, :, None] <= np.log(factors) + 1e-12
    num = len(common.tasks)
    share_MX = inside_TMX.sum(axis=0) / num if num else np.full(inside_TMX.shape[1:], np.nan)
    index = pd.MultiIndex.from_product([table.methods, factors], names=["method", "x"])
    return pd.DataFrame({"value": share_MX.ravel(), "num_tasks": num}, index=index)


STATISTIC = Statistic("performance_profile", "performance profile", performance_profile, shape="curve", better="higher")
