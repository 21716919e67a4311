"""Statistics of a leaderboard: numbers that it shows for each method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Compute = Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True)
class Statistic:
    """A number that a leaderboard shows for each method.

    ``compute`` takes a table of mean scores (rows are tasks, columns are methods; lower is better; no score is missing)
    and returns one value per method, which is NaN if there are no tasks.
    """

    name: str
    title: str
    definition: str
    better: Literal["lower", "higher"]
    compute: Compute


STATISTICS: dict[str, Statistic] = {}
"""Every statistic by name, in the order in which leaderboards show them; `statistic` adds one."""


def statistic(name: str, title: str, *, better: Literal["lower", "higher"]) -> Callable[[Compute], Compute]:
    """Return a decorator that adds a function to `STATISTICS`; its docstring becomes `Statistic.definition`."""

    def register(compute: Compute) -> Compute:
        if name in STATISTICS:
            raise ValueError(f"there is already a statistic {name!r}")
        STATISTICS[name] = Statistic(name, title, (compute.__doc__ or "").strip(), better, compute)
        return compute

    return register


@statistic("mean_rank", "mean rank", better="lower")
def mean_rank(means: pd.DataFrame) -> pd.Series:
    """Rank of the method among all methods, averaged over tasks; equal scores get the average of their ranks."""
    return means.rank(axis=1, method="average").mean(axis=0)


@statistic("wins", "wins", better="higher")
def wins(means: pd.DataFrame) -> pd.Series:
    """Number of tasks on which the method has the best score; if k methods tie, each gets 1/k."""
    if means.empty:
        return pd.Series(float("nan"), index=means.columns)
    best = means.eq(means.min(axis=1), axis=0)
    return best.div(best.sum(axis=1), axis=0).sum(axis=0)
