"""Bootstrap intervals from a random sequence that no library's version changes: equal boards have equal bytes.

**Generator.** `words` is SplitMix with 32 bits: word i mixes the number (i + 1) · 0x9E3779B9 modulo 2³² with two
multiplications and three shifts. Index i below n is word(i) · n / 2³², rounded down.

**Scheme.** A board is a sample of tasks, and each cell a sample of seeds. With at least `MIN_TASKS` tasks, tasks are
drawn with replacement, and a drawn task keeps all its seeds: the values of tasks already differ by the noise over seeds
too, and drawing seeds as well would count that noise twice (Davison and Hinkley 1997, Bootstrap Methods and Their
Application, section 3.8). Place k of resample r holds the task ``index(r T + k, T)``. The same tasks are drawn for all
methods, so that comparisons are paired.

With fewer tasks, tasks are kept and seeds are drawn with replacement in each cell: score j of n of task t and method m
is score ``index(((r T + t) M + m) S + j, n)``, where S is the largest n. Such an interval holds for these tasks only.
There is none if a cell has one seed.

**Interval.** Percentiles of the resampled values are too narrow for small samples. They are moved outwards, so that the
interval equals Student's for normal data: the expanded percentile interval of Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", The American Statistician 69(4). See `tail`.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.distributions import NORMAL, student_quantile
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, mean_over_seeds

MIN_TASKS = 5
"""Number of tasks from which on tasks are resampled; fewer tasks are too few for that."""
NUM_RESAMPLES = 5000
PerTask = Callable[[Floats], Floats]
"""Takes mean scores [..., T, M] and returns values [..., T, X], each computed from one task alone."""


def words(num: int) -> NDArray[np.uint32]:
    """Return the first ``num`` words of the random sequence."""
    z = np.arange(1, num + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    z = (z ^ (z >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    z = (z ^ (z >> np.uint32(15))) * np.uint32(0x735A2D97)
    return z ^ (z >> np.uint32(15))


def indices(shape: tuple[int, ...], limits: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Return random indices of a shape: each below its limit, from the words in C order."""
    drawn = words(math.prod(shape)).reshape(shape).astype(np.uint64)
    return ((drawn * np.asarray(limits, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)


@cache
def drawn_tasks(num: int) -> Floats:
    """Return how often each resample draws each of ``num`` tasks, [R, T].

    The statistics of a board share the array: do not change it.
    """
    drawn_RT = indices((NUM_RESAMPLES, num), num) + num * np.arange(NUM_RESAMPLES)[:, None]
    return np.bincount(drawn_RT.ravel(), minlength=NUM_RESAMPLES * num).reshape(-1, num).astype(np.float64)


def resampled_means(table: ScoreTable) -> Floats:
    """Return the mean scores of each cell over resampled seeds, [R, T, M]."""
    drawn_RTMS = indices((NUM_RESAMPLES, *table.scores_TMS.shape), table.num_seeds_TM[..., None])
    present_TMS = np.isfinite(table.scores_TMS)
    scores_RTMS = np.take_along_axis(table.scores_TMS[None], drawn_RTMS, axis=-1)
    return mean_over_seeds(np.where(present_TMS, scores_RTMS, np.nan))


def resample(table: ScoreTable, per_task: PerTask) -> Floats:
    """Return the mean over tasks of values per task, in each resample, [R, X]; NaN if no interval is possible."""
    if len(table.tasks) >= MIN_TASKS:
        return drawn_tasks(len(table.tasks)) @ per_task(table.means_TM) / len(table.tasks)
    if table.num_seeds_TM.min(initial=2) < 2 or not table.tasks:
        return np.full((NUM_RESAMPLES, per_task(np.ones((1, len(table.methods)))).shape[-1]), np.nan)
    values: Floats = per_task(resampled_means(table)).mean(axis=-2)
    return values


def tail(num: int, freedom: int) -> float:
    """Return the probability of the lower percentile of a 95 % interval, for samples of ``num`` values."""
    return NORMAL.cdf(-student_quantile(0.05, freedom) * math.sqrt(num / (num - 1)))


def interval(table: ScoreTable, resampled: Floats) -> tuple[Floats, Floats]:
    """Return the ends of the 95 % intervals of values, from those of the resamples, [R, X]."""
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
    """Return the mean over tasks of values per task, and the ends of its intervals, [X] each."""
    values_TX = per_task(table.means_TM)
    value = values_TX.mean(axis=0) if len(table.tasks) else np.full(values_TX.shape[1], np.nan)
    return value, *interval(table, resample(table, per_task))
