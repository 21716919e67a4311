"""What a board computes from mean scores: one registry entry a statistic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Compute = Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True)
class Statistic:
    """A number a method gets on a board.

    ``compute`` takes mean scores, one row a task and one column a method, lower is better, without gaps; it returns one
    value a method, NaN when there is no task.
    """

    name: str
    title: str
    definition: str
    better: Literal["lower", "higher"]
    compute: Compute


STATISTICS: dict[str, Statistic] = {}
"""Every board statistic by name, in the order in which boards show them."""


def statistic(name: str, title: str, *, better: Literal["lower", "higher"]) -> Callable[[Compute], Compute]:
    """Register the function below as a board statistic; its docstring is the definition."""

    def register(compute: Compute) -> Compute:
        if name in STATISTICS:
            raise ValueError(f"there is a board statistic {name!r} already")
        STATISTICS[name] = Statistic(name, title, (compute.__doc__ or "").strip(), better, compute)
        return compute

    return register


@statistic("mean_rank", "mean rank", better="lower")
def mean_rank(means: pd.DataFrame) -> pd.Series:
    """Rank of the method among all methods, averaged over tasks; equal scores share the average of their ranks."""
    return means.rank(axis=1, method="average").mean(axis=0)


@statistic("wins", "wins", better="higher")
def wins(means: pd.DataFrame) -> pd.Series:
    """Number of tasks on which the method has the best score; k methods that tie for it get 1/k each."""
    if means.empty:
        return pd.Series(float("nan"), index=means.columns)
    best = means.eq(means.min(axis=1), axis=0)
    return best.div(best.sum(axis=1), axis=0).sum(axis=0)
