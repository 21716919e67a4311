"""Mean score of a method on a task."""

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.distributions import student_quantile
from orca_ray.leaderboard.statistics.statistic import Statistic
from orca_ray.leaderboard.statistics.table import ScoreTable


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


STATISTIC = Statistic("score", "score", score, shape="cell", better="lower")
