"""Critical-difference diagrams as the page must draw them: the tests of Friedman, Nemenyi, and Wilcoxon with Holm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.critical_difference import critical_difference, smallest_p
from orca_ray.leaderboard.statistics.intervals import NORMAL, chi_square_tail
from orca_ray.leaderboard.statistics.ranks import ranks
from orca_ray.leaderboard.statistics.table import Floats


@dataclass(frozen=True)
class CriticalDifferences:
    """Numbers of a critical-difference diagram. Demšar 2006, "Statistical Comparisons of Classifiers", JMLR 7."""

    mean_ranks: Mapping[str, float]
    """By method, best first."""
    num_tasks: int
    friedman_statistic: float
    friedman_p: float
    """P-value of the hypothesis that all methods are equal; NaN without tasks or with one method."""
    nemenyi: float
    """Two mean ranks that differ by more are separable by Nemenyi's test."""
    nemenyi_groups: Sequence[Sequence[str]]
    """Bars of the diagram: the largest sets of methods, consecutive in mean rank, without a separable pair."""
    wilcoxon_groups: Sequence[Sequence[str]]
    """The same by Wilcoxon's test with Holm's correction."""
    wilcoxon_possible: bool
    """Whether that test can separate a pair at all; see `smallest_p`."""


def critical_differences(scores: pd.DataFrame | ScoreTable, *, level: float = 0.05) -> CriticalDifferences:
    """Compute a critical-difference diagram on the tasks on which every method has a score."""
    table = ScoreTable.of(scores)
    common = table.common
    num, methods = len(common.tasks), len(common.methods)
    ranks_TM = ranks(common.means_TM)
    values_M = ranks_TM.mean(axis=0) if num else np.full(methods, np.nan)
    mean_ranks = dict(sorted(zip(common.methods, values_M.tolist(), strict=True), key=lambda item: item[1]))
    statistic, p = friedman(ranks_TM)
    possible = num > 0 and methods > 1
    nemenyi = (
        studentised_range(level, methods) * math.sqrt(methods * (methods + 1) / (12 * num)) if possible else math.nan
    )
    adjusted = critical_difference(table)["value"].to_dict()
    order = list(mean_ranks)
    by_ranks = {pair for pair in combinations(order, 2) if mean_ranks[pair[1]] - mean_ranks[pair[0]] > nemenyi}
    by_wilcoxon = {pair for pair in combinations(order, 2) if adjusted[pair] <= level}
    groups, wilcoxon_groups = _groups(order, by_ranks), _groups(order, by_wilcoxon)
    separates = smallest_p(num, methods) <= level
    return CriticalDifferences(mean_ranks, num, statistic, p, nemenyi, groups, wilcoxon_groups, separates)


def _groups(order: Sequence[str], separable: set[tuple[str, str]]) -> list[list[str]]:
    """Return the longest runs of at least two methods without a separable pair."""
    groups: list[list[str]] = []
    end = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not any((one, order[stop]) in separable for one in order[start:stop]):
            stop += 1
        if stop > max(end, start + 1):
            groups.append(list(order[start:stop]))
        end = max(end, stop)
    return groups


def friedman(ranks_TM: Floats) -> tuple[float, float]:
    """Return the statistic of Friedman's test, corrected for ties, and its p-value from chi-square."""
    centred = ranks_TM - (ranks_TM.shape[1] + 1) / 2
    spread = float((centred**2).sum())
    if not spread:
        return math.nan, math.nan
    freedom = ranks_TM.shape[1] - 1
    statistic = freedom * float((centred.sum(axis=0) ** 2).sum()) / spread
    return statistic, chi_square_tail(statistic, freedom)


@cache
def studentised_range(level: float, num: int) -> float:
    """Return q such that the range of ``num`` standard normal variables exceeds it with probability ``level``.

    This is the studentised range with infinite degrees of freedom. Its distribution function is
    ``num`` ∫ φ(z) [Φ(z) − Φ(z − q)]^(num − 1) dz (trapezoids of width 0.02), and is inverted by bisection.
    """
    z = np.arange(-8, 8.01, 0.02)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([NORMAL.cdf(each) for each in z])
    low, high = 0.0, 20.0
    while high - low > 1e-10:
        q = (low + high) / 2
        shifted = np.array([NORMAL.cdf(each - q) for each in z])
        inside = num * 0.02 * float((density * (below - shifted) ** (num - 1)).sum())
        low, high = (q, high) if 1 - inside > level else (low, q)
    return high
