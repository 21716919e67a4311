"""Regression of the log ratios of tasks on properties of the tasks.

The tests hold where tasks spread unequally. Tasks count equally, as on a board. What
tasks differ by and the noise over seeds are both in the residuals, whose variance may
be another for each task.
"""

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.paired import student_p
from orca_ray.leaderboard.statistics.table import Floats

LEAST_GROUP = 3
"""Least number of tasks of a group that is compared with others."""
NUM_DRAWS = 20_000
"""Number of draws of the test that groups have one mean.

The least p-value is one in as many.
"""


class Estimate(NamedTuple):
    """A log ratio, or a slope of log ratios, with its test; NaN where undefined."""

    value: float = math.nan
    error: float = math.nan
    """Standard error of ``value``."""
    freedom: float = math.nan
    """Degrees of freedom of ``error``."""
    p: float = math.nan
    """p-value that ``value`` is 0."""

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of Student's 95 % interval."""
        half = float(special.stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error
        return self.value - half, self.value + half

    def outside(self, margin: float) -> float:
        """Return the p-value that the true value is at least ``margin`` away from 0.

        It is the larger one of two one-sided tests. Schuirmann 1987, Journal of
        Pharmacokinetics and Biopharmaceutics 15.
        """
        inside = margin - abs(self.value)
        if self.error > 0:
            return float(special.stdtr(self.freedom, -inside / self.error))
        return math.nan if math.isnan(self.error) else float(inside <= 0)


def estimate(logs_T: Floats, design_TP: Floats, contrast_P: Floats) -> Estimate:
    """Return the least-squares estimate of a contrast of coefficients.

    ``design_TP`` has P properties of T tasks. The estimate is NaN if the tasks do not
    determine it, or if its error has fewer degrees of freedom than the spread of
    `MIN_TASKS` tasks. The variance is HC2 (MacKinnon and White 1985, Journal of
    Econometrics 29): unbiased if all tasks spread equally, and consistent if not. Its
    degrees of freedom are those of Bell and McCaffrey 2002, Survey Methodology 28. For
    the mean of a group of tasks, both are those of Student's test of the group alone.
    """
    num_tasks, width = design_TP.shape
    if num_tasks < max(MIN_TASKS, width + 1):
        return Estimate()
    if np.linalg.matrix_rank(design_TP) < width:
        return Estimate()
    inverse_PT = np.linalg.pinv(design_TP)
    residual_TT = np.eye(num_tasks) - design_TP @ inverse_PT
    load_T = contrast_P @ inverse_PT
    left_T = np.diag(residual_TT)
    # The fit meets some tasks exactly, such as the only task of a group. They say
    # nothing of a slope within groups; where they count, the error is unknown.
    used_T = left_T > 1e-9
    if (np.abs(load_T[~used_T]) > 1e-9).any():
        return Estimate()
    share_T = np.where(used_T, load_T**2 / np.where(used_T, left_T, 1.0), 0.0)
    value = float(load_T @ logs_T)
    error = math.sqrt(float(share_T @ (residual_TT @ logs_T) ** 2))
    freedom = float((load_T @ load_T) ** 2 / (share_T @ residual_TT**2 @ share_T))
    if freedom < MIN_TASKS - 1 - 1e-6:
        return Estimate()
    p = student_p(np.array([value]), np.array([error]), np.array([freedom]))
    return Estimate(value, error, freedom, float(p[0]))


def mean(logs_T: Floats) -> Estimate:
    """Return the mean with Student's error and test, as a board has them.

    Below `MIN_TASKS` tasks, there is only the mean.
    """
    num_tasks = len(logs_T)
    if 0 < num_tasks < MIN_TASKS:
        return Estimate(float(logs_T.mean()))
    return estimate(logs_T, np.ones((num_tasks, 1)), np.ones(1))


def stratified_mean(logs_T: Floats, strata_T: NDArray[np.str_]) -> Estimate:
    """Return the mean over tasks that were drawn by stratum, with its error and test.

    Differences between strata are no part of the error: another study would have as
    many tasks of each. The strata are those of `merged`. Where they leave fewer degrees
    of freedom than `estimate` wants, the estimate is that of `mean`.
    """
    merged_T = merged(strata_T)
    names, counts = np.unique(merged_T, return_counts=True)
    design_TK = (merged_T[:, None] == names).astype(float)
    stratified = estimate(logs_T, design_TK, counts / max(len(logs_T), 1))
    return mean(logs_T) if math.isnan(stratified.p) else stratified


def merged(strata_T: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return strata of at least `LEAST_GROUP` tasks, if there are as many tasks.

    The smallest stratum joins the next one until none is smaller.
    """
    merged_T = strata_T.copy()
    while True:
        names, counts = np.unique(merged_T, return_counts=True)
        if len(names) < 2 or counts.min() >= LEAST_GROUP:
            return merged_T
        smallest, next_one = names[np.argsort(counts, kind="stable")[:2]]
        merged_T[merged_T == smallest] = next_one


def unequal_means(logs_T: Floats, groups_T: NDArray[np.str_]) -> float:
    """Return the p-value of the test that all groups have one mean; NaN for one group.

    Groups of at least `LEAST_GROUP` tasks count, and may spread unequally. The test is
    the parametric bootstrap of Krishnamoorthy, Lu and Mathew 2007, Computational
    Statistics & Data Analysis 51: means and variances of normal groups with one mean
    and these variances are drawn `NUM_DRAWS` times. Welch's test and permutations of
    groups are false too often for groups of five or six tasks; see
    docs/decisions/0032-like-with-like.md.
    """
    parts = list(groups(logs_T, groups_T).values())
    if len(parts) < 2:
        return math.nan
    random = np.random.default_rng(0)
    freedom = np.array([len(part) - 1 for part in parts])
    means = np.array([part.mean() for part in parts])
    errors = np.array([part.std(ddof=1) / math.sqrt(len(part)) for part in parts])
    shape = (NUM_DRAWS, len(parts))
    drawn_means = errors * random.normal(size=shape)
    drawn_errors = errors * np.sqrt(random.chisquare(freedom, shape) / freedom)
    is_farther = _distance(drawn_means, drawn_errors) >= _distance(means, errors)
    return float((1 + is_farther.sum()) / (1 + NUM_DRAWS))


def _distance(means_G: Floats, errors_G: Floats) -> Floats:
    """Return the weighted squared distance of means [..., G] from their common mean."""
    weights_G = 1 / errors_G**2
    centre = (weights_G * means_G).sum(axis=-1) / weights_G.sum(axis=-1)
    distance: Floats = (weights_G * (means_G - centre[..., None]) ** 2).sum(axis=-1)
    return distance


def room(logs_T: Floats, groups_T: NDArray[np.str_]) -> float:
    """Return the largest log ratio between two groups that the data leave open.

    It is the largest end of Welch's 95 % intervals of differences between groups of at
    least `LEAST_GROUP` tasks; 0 for one group.
    """
    parts = groups(logs_T, groups_T).values()
    ends = [_difference_end(part, other) for part, other in permutations(parts, 2)]
    return max([0.0, *ends])


def _difference_end(part: Floats, other: Floats) -> float:
    """Return the upper end of Welch's interval of the difference of two means."""
    errors = np.array([part.var(ddof=1) / len(part), other.var(ddof=1) / len(other)])
    freedom = errors.sum() ** 2 / (errors**2 / [len(part) - 1, len(other) - 1]).sum()
    half = special.stdtrit(freedom, 1 - LEVEL / 2) * math.sqrt(errors.sum())
    return float(part.mean() - other.mean() + half)


def groups(logs_T: Floats, groups_T: NDArray[np.str_]) -> dict[str, Floats]:
    """Return the log ratios of each group of at least `LEAST_GROUP` unequal tasks."""
    parts = {str(group): logs_T[groups_T == group] for group in np.unique(groups_T)}
    return {
        group: part
        for group, part in parts.items()
        if len(part) >= LEAST_GROUP and np.ptp(part) > 1e-9
    }
