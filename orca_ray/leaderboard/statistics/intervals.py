"""Intervals of statistics: quantiles of distributions, and resampling of tasks and seeds."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, mean_over_seeds

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
    return float(special.ndtr(special.stdtrit(freedom, 0.025) * math.sqrt(num / (num - 1))))


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
