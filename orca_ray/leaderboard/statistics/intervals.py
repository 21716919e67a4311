"""Intervals of statistics: quantiles of distributions, and resampling of tasks and seeds."""

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, mean_over_seeds

NORMAL = NormalDist()


def student_tail(t: float, freedom: int) -> float:
    """Return P(|T| > t) of Student's distribution with a whole number of degrees of freedom, for t >= 0.

    The finite series is that of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if math.isinf(t):
        return 0.0
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * (k - 1) / k
        total += term
    total *= math.sin(angle)
    if odd:
        total = 2 / math.pi * (angle + (total if freedom > 1 else 0.0))
    return max(1 - total, 0.0)


@cache
def student_quantile(level: float, freedom: int) -> float:
    """Return t with P(|T| > t) = ``level``, by bisection."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > level else (low, middle)
    return high


def chi_square_tail(x: float, freedom: int) -> float:
    """Return P(X > x) of the chi-square distribution with a whole number of degrees of freedom.

    The finite series is that of Abramowitz and Stegun, 26.4.4 and 26.4.5.
    """
    half = x / 2
    if half <= 0:
        return 1.0
    shape = 0.5 if freedom % 2 else 1.0
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else math.exp(-half)
    while shape < freedom / 2:
        tail += math.exp(shape * math.log(half) - half - math.lgamma(shape + 1))
        shape += 1
    return tail


MIN_TASKS = 5
"""Least number of tasks for which tasks are resampled."""
NUM_RESAMPLES = 5000
PerTask = Callable[[Floats], Floats]
"""Takes mean scores [..., T, M] and returns values [..., T, X], each computed from one task alone."""


def words(num: int) -> NDArray[np.uint32]:
    """Return the first ``num`` 32-bit words of a fixed pseudo-random sequence."""
    z = np.arange(1, num + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    z = (z ^ (z >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    z = (z ^ (z >> np.uint32(15))) * np.uint32(0x735A2D97)
    return z ^ (z >> np.uint32(15))


def indices(shape: tuple[int, ...], limits: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Return pseudo-random integers of a shape, 0 or more and below ``limits``, made of `words` in C order."""
    drawn = words(math.prod(shape)).reshape(shape).astype(np.uint64)
    return ((drawn * np.asarray(limits, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)


@cache
def drawn_tasks(num: int) -> Floats:
    """Return [R, T]: how often each of R bootstrap resamples contains each of ``num`` tasks.

    The array is cached and shared by the statistics of a board: do not change it.
    """
    drawn_RT = indices((NUM_RESAMPLES, num), num) + num * np.arange(NUM_RESAMPLES)[:, None]
    return np.bincount(drawn_RT.ravel(), minlength=NUM_RESAMPLES * num).reshape(-1, num).astype(np.float64)


def resample(table: ScoreTable, per_task: PerTask) -> Floats:
    """Return the mean over tasks of the values of ``per_task`` in each resample, [R, X]; NaN if seeds are too few.

    Tasks are resampled if there are `MIN_TASKS` or more, else seeds; each task and method then needs two seeds.
    """
    if len(table.tasks) >= MIN_TASKS:
        return drawn_tasks(len(table.tasks)) @ per_task(table.means_TM) / len(table.tasks)
    if table.num_seeds_TM.min(initial=2) < 2 or not table.tasks:
        return np.full((NUM_RESAMPLES, per_task(np.ones((1, len(table.methods)))).shape[-1]), np.nan)
    drawn_RTMS = indices((NUM_RESAMPLES, *table.scores_TMS.shape), table.num_seeds_TM[..., None])
    scores_RTMS = np.take_along_axis(table.scores_TMS[None], drawn_RTMS, axis=-1)
    means_RTM = mean_over_seeds(np.where(np.isfinite(table.scores_TMS), scores_RTMS, np.nan))
    values: Floats = per_task(means_RTM).mean(axis=-2)
    return values


def tail(num: int, freedom: int) -> float:
    """Return the quantile level at the lower end of a 95 % bootstrap interval: below 0.025 if there are few values."""
    return NORMAL.cdf(-student_quantile(0.05, freedom) * math.sqrt(num / (num - 1)))


def interval(table: ScoreTable, resampled: Floats) -> tuple[Floats, Floats]:
    """Return the ends [X] of the 95 % intervals of X values, given ``resampled`` [R, X], the values by resample."""
    tasks = len(table.tasks)
    if tasks >= MIN_TASKS:
        below = tail(tasks, tasks - 1)
    elif np.isnan(resampled).all():
        return resampled[0], resampled[0]
    else:
        seeds = int(table.num_seeds_TM.min())
        below = tail(seeds, tasks * (seeds - 1))
    low, high = np.quantile(resampled, [below, 1 - below], axis=0)
    return low, high


def mean_over_tasks(table: ScoreTable, per_task: PerTask) -> tuple[Floats, Floats, Floats]:
    """Return the means over tasks of the values of ``per_task``, and the ends of their 95 % intervals, [X] each."""
    values_TX = per_task(table.means_TM)
    value = values_TX.mean(axis=0) if len(table.tasks) else np.full(values_TX.shape[1], np.nan)
    return value, *interval(table, resample(table, per_task))
