"""Statistics of scores: the score of a cell, improvements over a baseline, and performance profiles."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from orca_ray.errors import lookup
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS, student_quantile
from orca_ray.leaderboard.statistics.paired import LogScores, ratio_over_tasks
from orca_ray.leaderboard.statistics.ranks import ranks
from orca_ray.leaderboard.statistics.table import ScoreTable, Statistic


def score(table: ScoreTable) -> pd.DataFrame:
    """Test score of a method on a task: the mean over its seeds, in the unit of the task's metric.

    ``std`` divides by n - 1, where n is ``num_seeds``. The 95 % interval of the mean is Student's, because a few seeds
    are too few for a bootstrap. It is missing for one seed.
    """
    num_TM = table.num_seeds_TM
    t, m = np.nonzero(num_TM)
    num, means = num_TM[t, m], table.means_TM[t, m]
    squares = np.nansum((table.scores_TMS[t, m] - means[:, None]) ** 2, axis=1)
    std = np.sqrt(np.divide(squares, num - 1, out=np.full(len(num), np.nan), where=num > 1))
    quantiles = np.array([student_quantile(0.05, int(each) - 1) if each > 1 else np.nan for each in num])
    half = quantiles * std / np.sqrt(num)
    tasks, methods = ([names[each] for each in at] for names, at in ((table.tasks, t), (table.methods, m)))
    index = pd.MultiIndex.from_arrays([tasks, methods], names=["task", "method"])
    columns = {"value": means, "low": means - half, "high": means + half, "std": std, "num_seeds": num}
    return pd.DataFrame(columns, index=index)


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


STATISTICS = (
    Statistic("score", "score", score, shape="cell", better="lower"),
    Statistic("improvement", "relative score", improvement, shape="method", better="lower"),
    Statistic("performance_profile", "performance profile", performance_profile, shape="curve", better="higher"),
)
