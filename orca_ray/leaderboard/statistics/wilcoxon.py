"""Wilcoxon's signed-rank test of two methods, with Holm's correction for the number of pairs."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.leaderboard.statistics.intervals import NORMAL
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic

MAX_EXACT = 25
"""Largest number of differences for which Wilcoxon's test is exact."""


def critical_difference(table: ScoreTable) -> pd.DataFrame:
    """Probability of differences as large as these between two equal methods: Wilcoxon's signed-rank test.

    ``value`` is adjusted by Holm for the number of pairs, ``p`` is not. The test ranks the differences of log scores,
    because the scores of tasks have different units. It is exact for up to 25 differences, also with ties; differences
    of zero are left out. It uses the tasks on which every method has a score.
    """
    common = table.common
    logs_TM, num = LogScores.of(common).means_TM, len(table.methods)
    p = np.full((num, num), np.nan)
    above, below = np.triu_indices(num, 1)
    for i, j in zip(above, below, strict=True):
        p[i, j] = p[j, i] = signed_rank(logs_TM[:, i] - logs_TM[:, j]) if len(common.tasks) else np.nan
    adjusted = np.full((num, num), np.nan)
    adjusted[above, below] = adjusted[below, above] = holm(p[above, below])
    return table.by_pair(value=adjusted, p=p, num_tasks=len(common.tasks))


def signed_rank(differences: Floats) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; zeros are dropped, 1 if none is left.

    Differences are rounded to twelve decimals first, so that rounding errors do not break ties. For up to `MAX_EXACT`
    differences, the distribution of the rank sum is exact, also with ties; for more, it is approximated by a normal
    distribution, corrected for ties.
    """
    differences = np.round(differences, 12)
    differences = differences[differences != 0]
    num = len(differences)
    if not num:
        return 1.0
    _, places, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[places]
    positive = int(doubled[differences > 0].sum())
    smaller = min(positive, num * (num + 1) - positive)
    if num > MAX_EXACT:
        ties = float((counts**3 - counts).sum())
        deviation = math.sqrt((num * (num + 1) * (2 * num + 1) - ties / 2) / 24)
        return min(1.0, 2 * NORMAL.cdf((smaller / 2 - num * (num + 1) / 4) / deviation))
    chances = np.zeros(num * (num + 1) + 1)
    chances[0] = 1
    for rank in doubled:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))


def smallest_p(num_tasks: int, num_methods: int) -> float:
    """Return the smallest p-value, adjusted by Holm, that `critical_difference` can give to a pair; NaN without pairs.

    A pair reaches it if one method is better on every task. For N tasks (at most `MAX_EXACT`) and K pairs, the smallest
    p-value is 2 K / 2^N. Where it is above the level, no pair is separable, however large the differences are.
    """
    num_pairs = math.comb(num_methods, 2)
    return min(1.0, num_pairs * signed_rank(np.arange(1.0, num_tasks + 1))) if num_pairs and num_tasks else math.nan


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted by Holm's step-down method; NaN stays NaN, and does not count as a test."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


STATISTIC = Statistic("critical_difference", "Wilcoxon–Holm p", critical_difference, shape="pair")
