"""Cost of a method, and the methods that no other one beats in both score and cost."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic

Over = Literal["sum", "mean", "max"]
"""How a method's costs on single tasks are combined."""
SAME_COST = 0.05
"""Two costs count as equal if the lower one is less than this share below the other; times vary as much by chance."""


def cost(costs: pd.DataFrame, *, over_tasks: Over = "sum") -> pd.DataFrame:
    """Sum of the method's costs over the tasks on which every method has a cost, in the unit of the costs.

    ``over_tasks`` may also be ``mean`` or ``max``, for costs that do not add up, such as memory. There is no interval.
    """
    wide = costs.pivot(index="task", columns="method", values="cost").astype("float64").dropna()
    value = wide.agg(over_tasks) if len(wide) else wide.sum() * np.nan
    return pd.DataFrame({"value": value, "low": np.nan, "high": np.nan, "num_tasks": len(wide)}).rename_axis("method")


def pareto(scores: ScoreTable, costs: pd.DataFrame, *, over_tasks: Over = "sum") -> pd.DataFrame:
    """1 if no other method has a better score at no higher cost, or a lower cost at no worse score; otherwise 0.

    Costs that differ by less than 5 % are called equal, because times vary as much from run to run.

    ``score`` is the geometric mean over tasks of the score relative to the best score on the task. ``cost`` is the sum
    of costs, or what ``over_tasks`` says. Both use the tasks on which every method with a cost has both a score and a
    cost. A method without costs has no value.
    """
    wide = costs.pivot(index="task", columns="method", values="cost").astype("float64")
    wide = wide.reindex(index=scores.tasks, columns=scores.methods)
    known_M = wide.notna().any().to_numpy()
    costs_TM = wide.to_numpy()[:, known_M]
    logs_TM = LogScores.of(scores).means_TM[:, known_M]
    common_T = np.isfinite(costs_TM + logs_TM).all(axis=1) & known_M.any()
    columns = {name: np.full(len(known_M), np.nan) for name in ("value", "low", "high", "score", "cost")}
    if common_T.any():
        relative_TM = logs_TM - logs_TM.min(axis=1, keepdims=True)
        columns["score"][known_M] = np.exp(relative_TM[common_T].mean(axis=0))
        columns["cost"][known_M] = getattr(costs_TM[common_T], over_tasks)(axis=0)
        columns["value"][known_M] = pareto_front(columns["score"][known_M], columns["cost"][known_M])
    return scores.by_method(**columns, num_tasks=int(common_T.sum()))


def pareto_front(scores_M: Floats, costs_M: Floats) -> NDArray[np.bool_]:
    """Return a mask [M] of the points that no other point beats: by a lower score or cost, with neither of them higher.

    A cost counts as lower if it is lower by a share of more than `SAME_COST`.
    """
    cheaper = costs_M[:, None] < (1 - SAME_COST) * costs_M
    not_higher = (scores_M[:, None] <= scores_M) & ~cheaper.T
    lower = (scores_M[:, None] < scores_M) | cheaper
    return np.array([not column.any() for column in (not_higher & lower).T], dtype=np.bool_)


STATISTICS = (
    Statistic("cost", "cost", cost, shape="method", better="lower", inputs=("costs",)),
    Statistic("pareto", "Pareto front", pareto, shape="method", better="higher", inputs=("scores", "costs")),
)
