"""95 % intervals in closed form, Student's and Clopper and Pearson's, and variances
over seeds that methods share.
"""

import math

import numpy as np
from scipy import special

from orca_ray.leaderboard.statistics.table import Floats

LEVEL = 0.05
"""Level of every test and verdict; intervals cover with the probability 1 - `LEVEL`."""
MIN_TASKS = 5
"""Least number of tasks from whose spread an interval is computed."""
LEAST_SHARE = 0.01
"""A variance over seeds counts as at least this share of the mean variance on its task:
few scores may be equal.
"""


def student(values_TX: Floats) -> tuple[Floats, Floats, Floats]:
    """Return means over tasks, and the ends of Student's intervals, [X] each; NaN ends
    below `MIN_TASKS` tasks.
    """
    num = len(values_TX)
    means = values_TX.mean(axis=0) if num else np.full(values_TX.shape[1], np.nan)
    if num < MIN_TASKS:
        return means, np.full_like(means, np.nan), np.full_like(means, np.nan)
    half = (
        special.stdtrit(num - 1, 1 - LEVEL / 2)
        * values_TX.std(axis=0, ddof=1)
        / math.sqrt(num)
    )
    return means, means - half, means + half


def binomial(wins: Floats, num: int) -> tuple[Floats, Floats]:
    """Return the ends of Clopper and Pearson's intervals of the shares of tasks won;
    NaN for no task.

    ``wins`` of ``num`` tasks may be fractions, for shared wins. The intervals cover
    with at least 95 %, also at 0 wins. Clopper and Pearson 1934, "The use of confidence
    or fiducial limits", Biometrika 26.
    """
    if not num:
        return np.full_like(wins, np.nan), np.full_like(wins, np.nan)
    wins = np.clip(wins, 0, num)
    low, high = (
        np.where(
            ours > 0,
            special.betaincinv(np.maximum(ours, 1e-9), num - ours + 1, LEVEL / 2),
            0.0,
        )
        for ours in (wins, num - wins)
    )
    return low, 1 - high


def moderated(squares_TM: Floats, freedom_TM: Floats) -> tuple[Floats, float]:
    """Return the variances [T, M] over seeds, and how many degrees of freedom the mean
    variance of a task adds to each.

    A method's own variance has few degrees of freedom, and methods have unequal
    variances. So the own variance, with its degrees of freedom, is averaged with the
    task's mean variance, which counts the more, the more alike variances of one task
    are. Smyth 2004, "Linear models and empirical Bayes methods", Statistical
    Applications in Genetics and Molecular Biology 3; the mean takes the place of his
    location, which is too low if there are few methods.

    ``squares_TM`` are squared deviations summed over seeds; on a task without
    ``freedom_TM``, variances are NaN.
    """
    freedom_T = freedom_TM.sum(axis=1, keepdims=True)
    pooled_T = squares_TM.sum(axis=1, keepdims=True) / np.where(
        freedom_T > 0, freedom_T, np.nan
    )
    known_TM = (freedom_TM > 0) & (pooled_T > 0)
    half_TM = np.where(known_TM, freedom_TM, 2.0) / 2
    own_TM = np.where(
        known_TM, np.maximum(squares_TM / (2 * half_TM), LEAST_SHARE * pooled_T), 1.0
    )
    logs_TM = np.where(
        known_TM, np.log(own_TM) - special.digamma(half_TM) + np.log(half_TM), 0.0
    )
    num_T = np.maximum(known_TM.sum(axis=1, keepdims=True), 1)
    squared_TM = (logs_TM - logs_TM.sum(axis=1, keepdims=True) / num_T) ** 2
    by_chance_TM = (1 - 1 / num_T) * special.polygamma(1, half_TM)
    excess = float((squared_TM - by_chance_TM)[known_TM].sum()) / max(
        int((num_T - 1).sum()), 1
    )
    grid = np.geomspace(1e4, 0.2, 2000)
    prior = float(np.interp(excess, special.polygamma(1, grid / 2), grid))
    return (prior * pooled_T + squares_TM) / (prior + freedom_TM), prior


def combined(
    variances: Floats,
    freedom: Floats,
    prior: float = 0.0,
    most: Floats | float = math.inf,
) -> tuple[Floats, Floats]:
    """Return the sums of variances over the last axis, and their degrees of freedom:
    ``prior`` more, ``most`` at most.

    The degrees of freedom are those of Satterthwaite 1946, "An approximate distribution
    of estimates of variance components", Biometrics Bulletin 2. If all variances are 0,
    they are the least of the parts.
    """
    total = variances.sum(axis=-1)
    parts = (variances**2 / np.maximum(freedom, 1e-9)).sum(axis=-1)
    of_total = np.where(
        parts > 0,
        total**2 / np.where(parts > 0, parts, 1.0),
        freedom.min(axis=-1, initial=np.inf),
    )
    return total, np.minimum(of_total + prior, most)
