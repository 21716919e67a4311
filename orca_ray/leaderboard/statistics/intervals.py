"""95 % intervals in closed form, and variances over seeds that methods share.

Own code from `scipy.special`: `scipy.stats` takes 2 s to import, longer than a board
takes, and its interval of Clopper and Pearson refuses shared (fractional) wins.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from orca_ray.leaderboard.statistics.table import Floats

LEVEL = 0.05
"""Level of every test and verdict; intervals cover with the probability 1 - `LEVEL`."""
MIN_TASKS = 5
"""Least number of tasks from whose spread an interval is computed."""
LEAST_SHARE = 0.01
"""Share of a task's mean variance to which lower variances over seeds are raised.

The few scores of a method may be equal by chance.
"""


class MeanIntervals(NamedTuple):
    """Means [X] with the ends [X] of their intervals."""

    means: Floats
    low: Floats
    high: Floats


def student(values_TX: Floats) -> MeanIntervals:
    """Return the means over tasks with Student's intervals.

    The ends are NaN below `MIN_TASKS` tasks.
    """
    num_tasks, num_values = values_TX.shape
    undefined = np.full(num_values, np.nan)
    if num_tasks == 0:
        return MeanIntervals(undefined, undefined, undefined)
    means = values_TX.mean(axis=0)
    if num_tasks < MIN_TASKS:
        return MeanIntervals(means, undefined, undefined)
    quantile = special.stdtrit(num_tasks - 1, 1 - LEVEL / 2)
    half = quantile * values_TX.std(axis=0, ddof=1) / math.sqrt(num_tasks)
    return MeanIntervals(means, means - half, means + half)


def binomial(wins: Floats, num: int) -> tuple[Floats, Floats]:
    """Return the ends of Clopper and Pearson's intervals of the shares of tasks won.

    They are NaN if there is no task. ``wins`` of ``num`` tasks may be fractions, for
    shared wins. The intervals cover with at least 95 %, also at 0 wins. Clopper and
    Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26.
    """
    if not num:
        return np.full_like(wins, np.nan), np.full_like(wins, np.nan)
    wins = np.clip(wins, 0, num)
    return _lower_end(wins, num), 1 - _lower_end(num - wins, num)


def _lower_end(wins: Floats, num: int) -> Floats:
    """Return the lower ends of Clopper and Pearson's intervals."""
    # The first parameter of the beta distribution must be positive.
    ends = special.betaincinv(np.maximum(wins, 1e-9), num - wins + 1, LEVEL / 2)
    return np.where(wins > 0, ends, 0.0)


def moderate_variances(squares_TM: Floats, freedom_TM: Floats) -> tuple[Floats, float]:
    """Return moderated variances [T, M] over seeds, and their prior degrees of freedom.

    A method's own variance has few degrees of freedom. It is therefore averaged with
    the mean variance of all methods on the task, each weighted by its degrees of
    freedom. The mean variance gets the prior degrees of freedom: many if the methods'
    variances on one task are alike, few if they differ or if this is not known. After
    Smyth 2004, "Linear models and empirical Bayes methods", Statistical Applications in
    Genetics and Molecular Biology 3; the mean variance replaces his location parameter,
    which is too low if there are few methods.

    ``squares_TM`` are squared deviations summed over seeds, and ``freedom_TM`` their
    degrees of freedom. Variances are NaN on a task where all of these are 0.
    """
    freedom_T = freedom_TM.sum(axis=1, keepdims=True)
    divisor_T = np.where(freedom_T > 0, freedom_T, np.nan)
    pooled_T = squares_TM.sum(axis=1, keepdims=True) / divisor_T
    prior = _prior_freedom(squares_TM, freedom_TM, pooled_T)
    return (prior * pooled_T + squares_TM) / (prior + freedom_TM), prior


def _prior_freedom(squares_TM: Floats, freedom_TM: Floats, pooled_T: Floats) -> float:
    """Return the prior degrees of freedom of the tasks' mean variances ``pooled_T``.

    Logarithms of variances spread by chance. Their spread beyond chance measures how
    unequal the true variances on one task are: the smaller it is, the more degrees of
    freedom the mean variance gets. The spread is uncertain, too: what counts is the
    upper end of its interval, two standard errors above the estimate. Otherwise, few
    cells that look alike by chance would make tests too sure.
    """
    known_TM = (freedom_TM > 0) & (pooled_T > 0)
    half_TM = np.where(known_TM, freedom_TM, 2.0) / 2
    floored_TM = np.maximum(squares_TM / (2 * half_TM), LEAST_SHARE * pooled_T)
    own_TM = np.where(known_TM, floored_TM, 1.0)
    unbiased_TM = np.log(own_TM) - special.digamma(half_TM) + np.log(half_TM)
    logs_TM = np.where(known_TM, unbiased_TM, 0.0)
    num_T = np.maximum(known_TM.sum(axis=1, keepdims=True), 1)
    squared_TM = (logs_TM - logs_TM.sum(axis=1, keepdims=True) / num_T) ** 2
    by_chance_TM = (1 - 1 / num_T) * special.polygamma(1, half_TM)
    num_compared = max(int((num_T - 1).sum()), 1)
    excess = float((squared_TM - by_chance_TM)[known_TM].sum()) / num_compared
    # The variance of a squared deviation follows from the second and the fourth
    # cumulant of the logarithms.
    second_TM = special.polygamma(1, half_TM) + max(excess, 0.0)
    variances_TM = 2 * second_TM**2 + special.polygamma(3, half_TM)
    variance = float(variances_TM[known_TM].mean()) if known_TM.any() else 0.0
    most = excess + 2 * math.sqrt(variance / num_compared)
    # The prior degrees of freedom d solve trigamma(d / 2) = most. The grid of d is
    # in falling order, because trigamma falls and `np.interp` needs rising points.
    grid = np.geomspace(1e4, 0.2, 2000)
    return float(np.interp(most, special.polygamma(1, grid / 2), grid))


def add_variances(
    variances: Floats,
    freedom: Floats,
    prior: float = 0.0,
    most: Floats | float = math.inf,
) -> tuple[Floats, Floats]:
    """Return the sums of variances over the last axis, and their degrees of freedom.

    The degrees of freedom are those of Satterthwaite 1946, "An approximate distribution
    of estimates of variance components", Biometrics Bulletin 2, or the least of
    ``freedom`` if all variances are 0. ``prior`` is added to them, and ``most`` limits
    them.
    """
    total = variances.sum(axis=-1)
    parts = (variances**2 / np.maximum(freedom, 1e-9)).sum(axis=-1)
    satterthwaite = total**2 / np.where(parts > 0, parts, 1.0)
    least = freedom.min(axis=-1, initial=np.inf)
    total_freedom = np.where(parts > 0, satterthwaite, least)
    return total, np.minimum(total_freedom + prior, most)
