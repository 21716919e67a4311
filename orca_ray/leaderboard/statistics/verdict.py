"""Whether two methods are separable, by Student's test with Holm's correction.

A verdict also says about how many more tasks or seeds would separate two methods.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS, add_variances
from orca_ray.leaderboard.statistics.paired import LogScores, holm
from orca_ray.leaderboard.statistics.table import ScoreTable, Statistic

POWER = 0.8
"""Probability with which the additional tasks or seeds would separate two methods."""
MAX_MORE = 1000
"""Largest number of additional tasks or seeds that is reported, else infinity."""


def verdict(table: ScoreTable, *, level: float = LEVEL) -> pd.DataFrame:
    """Score of the method relative to the other, and whether the two are separable.

    A ``value`` below 1 is better. Test and interval are Student's, of the paired log
    ratios of tasks; for fewer than five tasks, their error comes from the deviation
    over seeds, and the verdict holds for these tasks only. ``separable`` holds if
    ``adjusted_p``, the p-value adjusted by Holm for the number of pairs, is at most
    ``level``. The interval is not adjusted, so it may exclude 1 for a pair that is not
    separable.

    ``more_tasks`` and ``more_seeds`` (per task and method) would each separate the pair
    with a probability of 80 % if the observed mean and deviations are the true ones.
    They are 0 for a separable pair, infinite if no number up to 1000 suffices, and NaN
    if unknown. A pair uses the tasks on which both methods have a score. More seeds
    reduce only the part of the deviation over tasks that is noise over seeds; the rest
    is known roughly, so ``more_seeds`` is rough, too. Other methods change the number
    of pairs, and the noise over seeds a little.
    """
    logs = LogScores.of(table)
    num_methods = len(table.methods)
    pairs = list(combinations(range(num_methods), 2))
    tests = [_Test(logs, table.methods[i], table.methods[j]) for i, j in pairs]
    p = np.array([test.p for test in tests])
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
    columns = {name: np.full((num_methods, num_methods), np.nan) for name in names}
    for (i, j), test, adjusted_p in zip(pairs, tests, holm(p), strict=True):
        is_separable = bool(adjusted_p <= level)
        # Holm tests the smallest p first, at the level divided by the tests left.
        num_tests_left = int(np.isfinite(p).sum() - (p < test.p).sum())
        more = test.more(level / max(num_tests_left, 1), separable=is_separable)
        ratio = test.ratio
        columns["value"][i, j] = ratio.value
        columns["low"][i, j] = ratio.low
        columns["high"][i, j] = ratio.high
        columns["value"][j, i] = 1 / ratio.value
        columns["low"][j, i] = 1 / ratio.high
        columns["high"][j, i] = 1 / ratio.low
        for cell in ((i, j), (j, i)):
            columns["p"][cell] = test.p
            columns["adjusted_p"][cell] = adjusted_p
            columns["separable"][cell] = is_separable
            columns["more_tasks"][cell] = more.tasks
            columns["more_seeds"][cell] = more.seeds
            columns["num_tasks"][cell] = test.num_tasks
    return table.by_pair(**columns).astype({"separable": bool, "num_tasks": "int64"})


def describe(method: str, other: str, row: Mapping[str, float]) -> str:
    """Return a verdict in words.

    ``row`` is the pair's row in the frame that `verdict` returns.
    """
    num_tasks = int(row["num_tasks"])
    where = f"{num_tasks} task" if num_tasks == 1 else f"{num_tasks} tasks"
    if math.isnan(row["p"]):
        return (
            f"{method} and {other} cannot be compared: too few tasks and seeds with"
            f" scores of both ({where})."
        )
    basis = (
        f"ratio {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], adjusted p ="
        f" {row['adjusted_p']:.2g}"
    )
    if row["separable"]:
        relation = "better" if row["value"] < 1 else "worse"
        return f"{method} is {relation} than {other} on {where} ({basis})."
    needs = [
        f"about {_more_text(row[name], noun)}"
        for name, noun in (("more_tasks", "task"), ("more_seeds", "seed"))
        if math.isfinite(row[name])
    ]
    if needs:
        needed_text = " or ".join(needs)
    else:
        needed_text = f"only more than {MAX_MORE} more tasks, if anything,"
    return (
        f"{method} and {other} are not separable on {where} ({basis}); {needed_text}"
        " would separate them."
    )


def _more_text(number: float, noun: str) -> str:
    ending = "" if number == 1 else "s"
    return f"{int(number)} more {noun}{ending}"


class _More(NamedTuple):
    """Additional numbers that would each separate a pair of methods."""

    tasks: float
    seeds: float
    """Number of seeds per task and method."""


class _Test:
    """Student's test of the log ratios of two methods."""

    def __init__(self, scores: LogScores, method: str, other: str) -> None:
        ratios = scores.paired(method, other)
        table = scores.table
        num_tasks = len(ratios.tasks)
        self.num_tasks = num_tasks
        self.over_tasks = num_tasks >= MIN_TASKS
        self.ratio = ratios.ratio(over_tasks=self.over_tasks)
        self.p = self.ratio.p
        self.mean = math.nan
        self.deviation = math.nan
        """Standard deviation of the log ratios over tasks."""
        self.noise = math.nan
        """Mean variance of the log ratios over seeds."""
        self.num_seeds = math.nan
        """Mean number of seeds of a task and method."""
        _, freedom = add_variances(ratios.errors**2, ratios.freedom)
        self.freedom = float(freedom)
        if num_tasks:
            pair = [table.methods.index(name) for name in (method, other)]
            has_ratio_T = np.isin(table.tasks, ratios.tasks)
            self.mean = float(ratios.logs.mean())
            self.noise = float((ratios.errors**2).mean())
            self.num_seeds = float(table.num_seeds_TM[has_ratio_T][:, pair].mean())
        if num_tasks > 1:
            self.deviation = float(ratios.logs.std(ddof=1))

    def more(self, level: float, *, separable: bool) -> _More:
        """Return how many more tasks, or seeds per task and method, would be enough.

        They are enough if a test at this ``level`` separates the methods with the
        probability `POWER`. None are needed if the methods are ``separable`` already.
        """
        if separable:
            return _More(0.0, 0.0)
        if math.isnan(self.p):
            return _More(math.nan, math.nan)
        size = abs(self.mean)
        if size < 1e-12:  # equal but for rounding: no number is enough
            return _More(math.inf, math.inf)
        num_tasks = self.num_tasks
        variance_of_tasks = 0.0
        if self.over_tasks:
            variance_of_tasks = max(self.deviation**2 - self.noise, 0.0)

        def are_enough_tasks(more: int) -> bool:
            total = num_tasks + more
            if total < MIN_TASKS:
                return False
            required = self.deviation * detectable_mean(total - 1, level)
            return size * math.sqrt(total) >= required

        def are_enough_seeds(more: int) -> bool:
            if self.over_tasks:
                freedom: float = num_tasks - 1
            else:  # each of the two methods gets ``more`` scores on each task
                freedom = self.freedom + 2 * num_tasks * more
            noise = self.noise * self.num_seeds / (self.num_seeds + more)
            deviation = math.sqrt(variance_of_tasks + noise)
            required = deviation * detectable_mean(freedom, level)
            return size * math.sqrt(num_tasks) >= required

        return _More(
            math.nan if math.isnan(self.deviation) else _fewest(are_enough_tasks),
            math.nan if math.isnan(self.noise) else _fewest(are_enough_seeds),
        )


def detectable_mean(freedom: float, level: float) -> float:
    """Return the mean that Student's test detects with the probability `POWER`.

    The mean is in standard errors; the test has the level ``level``.
    """
    return float(
        special.nctdtrinc(freedom, 1 - POWER, special.stdtrit(freedom, 1 - level / 2))
    )


def _fewest(is_enough: Callable[[int], bool]) -> float:
    """Return the smallest number from 1 on that is enough.

    It is infinity if `MAX_MORE` is not enough.
    """
    # More is enough whenever less is, so a search by halves finds the smallest number.
    fewest = bisect_left(range(1, MAX_MORE + 1), True, key=is_enough) + 1
    return float(fewest) if fewest <= MAX_MORE else math.inf


STATISTIC = Statistic("verdict", "verdict", verdict, shape="pair", better="lower")
