"""Whether two methods are separable, by Student's test, with Holm's correction for many pairs.

A verdict also says about how many more tasks or seeds would separate two methods.
"""

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.paired import LogScores, ratio_over_tasks
from orca_ray.leaderboard.statistics.table import ScoreTable, Statistic

POWER = 0.8
"""Probability with which the additional tasks or seeds would separate two methods."""
MAX_MORE = 1000
"""Largest number of additional tasks or seeds that is given; a larger one is infinity."""


def verdict(table: ScoreTable, *, level: float = 0.05) -> pd.DataFrame:
    """Score of the method relative to the other (``value``, below 1 is better), and whether the two are separable.

    The test is Student's paired test of the log ratios of tasks; for fewer than five tasks, its error comes from the
    deviation over seeds, and the verdict holds for these tasks only. ``separable`` holds if ``adjusted_p``, the p-value
    adjusted by Holm for the number of pairs, is at most ``level``. The test is the closed form of the paired bootstrap
    that gives the interval; a bootstrap itself has no p-values as small as Holm needs for many pairs, and a rank test
    cannot separate ten methods on ten tasks, however large the differences are. The interval
    is not adjusted, so it may exclude 1 for a pair that is not separable.

    ``more_tasks`` and ``more_seeds`` (per task and method) would each separate the pair with a probability of 80 % if
    the observed mean and deviations are the true ones. They are 0 for a separable pair, infinite if no number up to
    1000 suffices, and NaN if unknown. A pair uses the tasks on which both methods have a score. Other methods change
    all numbers only by the number of pairs. More seeds reduce only the part of the deviation over tasks that is noise
    over seeds. The seeds of the two methods give this part; the rest is known roughly, so ``more_seeds`` is rough, too.
    """
    logs = LogScores.of(table)
    pairs = list(combinations(range(len(table.methods)), 2))
    tests = [_Test(logs, table.methods[i], table.methods[j]) for i, j in pairs]
    p = np.array([test.p for test in tests])
    adjusted = holm(p)
    num = len(table.methods)
    names = ("value", "low", "high", "p", "adjusted_p", "separable", "more_tasks", "more_seeds", "num_tasks")
    columns = {name: np.full((num, num), np.nan) for name in names}
    for (i, j), test, corrected in zip(pairs, tests, adjusted, strict=True):
        tests_left = np.isfinite(p).sum() - (p < test.p).sum()
        more = test.more(level / max(int(tests_left), 1), separable=bool(corrected <= level))
        value, low, high = test.ratio
        shared = (test.p, corrected, corrected <= level, *more, test.num_tasks)
        for place, ratio in (((i, j), (value, low, high)), ((j, i), (1 / value, 1 / high, 1 / low))):
            for name, number in zip(names, (*ratio, *shared), strict=True):
                columns[name][place] = number
    frame = table.by_pair(**columns)
    return frame.astype({"separable": bool, "num_tasks": "int64"})


def describe(method: str, other: str, row: Mapping[str, float]) -> str:
    """Return a verdict in words; ``row`` is the pair's row in the frame that `verdict` returns."""
    basis = f"ratio {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], p = {row['adjusted_p']:.2g}"
    where = f"{int(row['num_tasks'])} task{'s' if row['num_tasks'] != 1 else ''}"
    if math.isnan(row["p"]):
        return f"{method} and {other} cannot be compared: too few tasks and seeds with scores of both ({where})."
    if row["separable"]:
        return f"{method} is {'better' if row['value'] < 1 else 'worse'} than {other} on {where} ({basis})."
    needs = [
        f"about {int(row[name])} more {what}{'s' if row[name] != 1 else ''}"
        for name, what in (("more_tasks", "task"), ("more_seeds", "seed"))
        if math.isfinite(row[name])
    ]
    needed = " or ".join(needs) or f"only more than {MAX_MORE} more tasks, if anything,"
    return f"{method} and {other} are not separable on {where} ({basis}); {needed} would separate them."


class _Test:
    """Student's test of the log ratios of two methods."""

    def __init__(self, scores: LogScores, method: str, other: str) -> None:
        tasks, logs, errors = scores.paired(method, other)
        table = scores.table
        at = [table.tasks.index(task) for task in tasks]
        both = [table.methods.index(name) for name in (method, other)]
        own_errors, freedom = scores.own_errors(at, both), int(scores.freedom_TM[at].sum())
        self.num_seeds = float(table.num_seeds_TM[np.ix_(at, both)].mean()) if at else math.nan
        num = len(logs)
        self.num_tasks = num
        self.over_tasks = num >= MIN_TASKS
        self.mean = float(logs.mean()) if num else math.nan
        self.deviation = float(logs.std(ddof=1)) if num > 1 else math.nan
        self.ratio = ratio_over_tasks(logs, errors, bootstrap=self.over_tasks)
        noise = math.sqrt(float((errors**2).sum())) / num if num else math.nan
        self.error = self.deviation / math.sqrt(num) if self.over_tasks else noise
        # Over tasks the test does not use the noise of other methods, so what would separate the pair does not either.
        self.noise = float(((own_errors if self.over_tasks else errors) ** 2).mean()) if num else math.nan
        # Below 1e-12 are rounding errors.
        if math.isnan(self.error) or not math.isfinite(self.mean):
            self.p = math.nan
        elif abs(self.mean) < 1e-12:
            self.p = 1.0
        else:
            t = abs(self.mean) / self.error if self.error > 1e-12 else math.inf
            self.p = float(2 * special.stdtr(num - 1 if self.over_tasks else freedom, -t))

    def more(self, level: float, *, separable: bool) -> tuple[float, float]:
        """Return how many more tasks, or seeds per cell, a test at this level needs."""
        if separable:
            return 0.0, 0.0
        if math.isnan(self.p):
            return math.nan, math.nan
        if abs(self.mean) < 1e-12:
            return math.inf, math.inf
        critical = float(special.ndtri(1 - level / 2))
        # The test reaches its power when the variance of the mean is this small.
        allowed = (self.mean / (critical + float(special.ndtri(POWER)))) ** 2
        num = self.num_tasks
        # Student's test needs critical²/2 more tasks than a normal one (Guenther 1981, The American Statistician 35).
        tasks = self.deviation**2 / allowed + critical**2 / 2
        between = max(self.deviation**2 - self.noise, 0.0) if self.over_tasks else 0.0
        left = num * allowed - between
        seeds = self.num_seeds * (self.noise / left) if left > 0 else math.inf
        seeds = math.nan if math.isnan(self.noise) else seeds
        return _more(max(tasks, MIN_TASKS), num), _more(seeds, self.num_seeds)


def _more(needed: float, present: float) -> float:
    if math.isnan(needed):
        return math.nan
    more = max(needed - present, 1.0)
    return float(math.ceil(more)) if more <= MAX_MORE else math.inf


def smallest_p(num_tasks: int, num_methods: int) -> float:
    """Return the smallest p-value, adjusted by Holm, of Wilcoxon's signed-rank test for a pair; NaN without pairs.

    A pair reaches it if one method is better on every task. For N tasks and K pairs, the smallest p-value is 2 K / 2^N.
    Where it is above the level, a test of ranks separates no pair, however large the differences are.
    """
    num_pairs = math.comb(num_methods, 2)
    return min(1.0, num_pairs * 2.0 ** (1 - num_tasks)) if num_pairs and num_tasks else math.nan


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted by Holm's step-down method; NaN stays NaN, and does not count as a test."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


STATISTIC = Statistic("verdict", "verdict", verdict, shape="pair", better="lower")
