"""Whether two methods are separable, by Student's test, with Holm's correction for many
pairs.

A verdict also says about how many more tasks or seeds would separate two methods.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import special

from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS, combined
from orca_ray.leaderboard.statistics.paired import LogScores, holm
from orca_ray.leaderboard.statistics.table import ScoreTable, Statistic

POWER = 0.8
"""Probability with which the additional tasks or seeds would separate two methods."""
MAX_MORE = 1000
"""Largest number of additional tasks or seeds that is given; a larger one is infinity.
"""


def verdict(table: ScoreTable, *, level: float = LEVEL) -> pd.DataFrame:
    """Score of the method relative to the other (``value``, below 1 is better), and
    whether the two are separable.

    Test and interval are Student's, of the paired log ratios of tasks; for fewer than
    five tasks, their error comes from the deviation over seeds, and the verdict holds
    for these tasks only. ``separable`` holds if ``adjusted_p``, the p-value adjusted by
    Holm for the number of pairs, is at most ``level``. The interval is not adjusted, so
    it may exclude 1 for a pair that is not separable.

    ``more_tasks`` and ``more_seeds`` (per task and method) would each separate the pair
    with a probability of 80 % if the observed mean and deviations are the true ones.
    They are 0 for a separable pair, infinite if no number up to 1000 suffices, and NaN
    if unknown. A pair uses the tasks on which both methods have a score. More seeds
    reduce only the part of the deviation over tasks that is noise over seeds; the rest
    is known roughly, so ``more_seeds`` is rough, too. Other methods change the number
    of pairs, and the noise over seeds a little.
    """
    logs = LogScores.of(table)
    pairs = list(combinations(range(len(table.methods)), 2))
    tests = [_Test(logs, table.methods[i], table.methods[j]) for i, j in pairs]
    p = np.array([test.p for test in tests])
    adjusted = holm(p)
    num = len(table.methods)
    names = (
        "value",
        "low",
        "high",
        "p",
        "adjusted_p",
        "separable",
        "more_tasks",
        "more_seeds",
        "num_tasks",
    )
    columns = {name: np.full((num, num), np.nan) for name in names}
    for (i, j), test, corrected in zip(pairs, tests, adjusted, strict=True):
        tests_left = np.isfinite(p).sum() - (p < test.p).sum()
        more = test.more(
            level / max(int(tests_left), 1), separable=bool(corrected <= level)
        )
        value, low, high, _ = test.ratio
        shared = (test.p, corrected, corrected <= level, *more, test.num_tasks)
        for place, ratio in (
            ((i, j), (value, low, high)),
            ((j, i), (1 / value, 1 / high, 1 / low)),
        ):
            for name, number in zip(names, (*ratio, *shared), strict=True):
                columns[name][place] = number
    return table.by_pair(**columns).astype({"separable": bool, "num_tasks": "int64"})


def describe(method: str, other: str, row: Mapping[str, float]) -> str:
    """Return a verdict in words; ``row`` is the pair's row in the frame that `verdict`
    returns.
    """
    basis = (
        f"ratio {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], adjusted p ="
        f" {row['adjusted_p']:.2g}"
    )
    where = f"{int(row['num_tasks'])} task{'s' if row['num_tasks'] != 1 else ''}"
    if math.isnan(row["p"]):
        return (
            f"{method} and {other} cannot be compared: too few tasks and seeds with"
            f" scores of both ({where})."
        )
    if row["separable"]:
        return (
            f"{method} is {'better' if row['value'] < 1 else 'worse'} than {other} on"
            f" {where} ({basis})."
        )
    needs = [
        f"about {int(row[name])} more {what}{'s' if row[name] != 1 else ''}"
        for name, what in (("more_tasks", "task"), ("more_seeds", "seed"))
        if math.isfinite(row[name])
    ]
    needed = " or ".join(needs) or f"only more than {MAX_MORE} more tasks, if anything,"
    return (
        f"{method} and {other} are not separable on {where} ({basis}); {needed} would"
        " separate them."
    )


class _Test:
    """Student's test of the log ratios of two methods."""

    def __init__(self, scores: LogScores, method: str, other: str) -> None:
        found = scores.paired(method, other)
        table = scores.table
        self.num_tasks = num = len(found.tasks)
        self.over_tasks = num >= MIN_TASKS
        self.ratio = found.ratio(over_tasks=self.over_tasks)
        self.p = self.ratio.p
        self.mean = float(found.logs.mean()) if num else math.nan
        self.deviation = float(found.logs.std(ddof=1)) if num > 1 else math.nan
        self.noise = float((found.errors**2).mean()) if num else math.nan
        self.freedom = float(combined(found.errors**2, found.freedom)[1])
        both = [table.methods.index(name) for name in (method, other)]
        at = np.isin(table.tasks, found.tasks)
        self.num_seeds = (
            float(table.num_seeds_TM[at][:, both].mean()) if num else math.nan
        )

    def more(self, level: float, *, separable: bool) -> tuple[float, float]:
        """Return how many more tasks, or seeds per cell, a test at this level needs."""
        if separable:
            return 0.0, 0.0
        if math.isnan(self.p):
            return math.nan, math.nan
        size = abs(self.mean)
        num = self.num_tasks
        if size < 1e-12:
            return math.inf, math.inf
        between = max(self.deviation**2 - self.noise, 0.0) if self.over_tasks else 0.0

        def enough_tasks(more: int) -> bool:
            tasks = max(num + more, MIN_TASKS)
            return tasks == num + more and size * math.sqrt(
                tasks
            ) >= self.deviation * needed(tasks - 1, level)

        def enough_seeds(more: int) -> bool:
            freedom = num - 1 if self.over_tasks else self.freedom + 2 * num * more
            variance = between + self.noise * self.num_seeds / (self.num_seeds + more)
            return size * math.sqrt(num) >= math.sqrt(variance) * needed(freedom, level)

        ways = ((self.deviation, enough_tasks), (self.noise, enough_seeds))
        tasks, seeds = (
            math.nan if math.isnan(known) else _fewest(enough) for known, enough in ways
        )
        return tasks, seeds


def needed(freedom: float, level: float) -> float:
    """Return the mean, in standard errors, that Student's test at ``level`` finds with
    the probability `POWER`.
    """
    return float(
        special.nctdtrinc(freedom, 1 - POWER, special.stdtrit(freedom, 1 - level / 2))
    )


def _fewest(enough: Callable[[int], bool]) -> float:
    """Return the smallest number from 1 to `MAX_MORE` that is ``enough``, infinity if
    none is.
    """
    found = bisect_left(range(1, MAX_MORE + 1), True, key=enough) + 1
    return float(found) if found <= MAX_MORE else math.inf


STATISTIC = Statistic("verdict", "verdict", verdict, shape="pair", better="lower")
