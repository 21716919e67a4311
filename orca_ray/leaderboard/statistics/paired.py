"""Ratios of scores that are paired by task, with intervals.

All comparisons of methods and of configurations are such ratios, also those that answer
whether searching, or a step of a method such as aligning, helped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orca_ray.leaderboard.statistics.intervals import (
    LEVEL,
    MIN_TASKS,
    add_variances,
    moderate_variances,
)
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable

Levels = Mapping[str, str]
"""Mapping from the name of a factor to the name of its level."""
_ROUNDING = 1e-12
"""Logarithms of ratios and standard errors below this are rounding errors."""


class Ratio(NamedTuple):
    """A ratio of scores with the ends of its 95 % interval; below 1 is better.

    Undefined numbers are NaN. ``p`` is the p-value of the test to which the interval
    belongs: it is below 5 % if the interval excludes 1.
    """

    value: float
    low: float
    high: float
    p: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """Ratio of scores with ``levels`` to scores with ``reference``.

    Both map the same factors to levels. A pair is a score with ``levels`` and a score
    with ``reference``, for the same task, seed and levels of all other factors. On one
    task, the scores of the seeds are averaged before the ratio is taken. The ratios are
    then averaged geometrically over the levels of the other factors.
    """

    levels: Levels
    reference: Levels
    ratio: Ratio
    """Geometric mean over tasks, with Student's interval over tasks.

    The ends are NaN if fewer than `MIN_TASKS` tasks have pairs. In a sweep of fewer
    tasks, the interval comes from the noise over seeds and holds for these tasks only.
    """
    tasks: Mapping[str, Ratio]
    """Ratio on each task that has a pair, with an interval from the noise over seeds.

    The interval is Student's; see `LogScores`.
    """
    pairs: int
    planned: int
    """Number of pairs if no trial were missing."""

    @property
    def changed(self) -> Levels:
        """Levels of the factors that differ between ``levels`` and ``reference``.

        These are the levels in ``levels``.
        """
        return {
            factor: level
            for factor, level in self.levels.items()
            if level != self.reference[factor]
        }

    @property
    def given(self) -> Levels:
        """Levels of the factors that are the same in ``levels`` and ``reference``."""
        return {
            factor: level
            for factor, level in self.levels.items()
            if level == self.reference[factor]
        }

    @property
    def better(self) -> int:
        """Number of tasks on which ``levels`` is better; see `beyond_noise`."""
        return sum(ratio.value < 1 for ratio in self.beyond_noise.values())

    @property
    def worse(self) -> int:
        """Number of tasks on which ``levels`` is worse; see `beyond_noise`."""
        return sum(ratio.value > 1 for ratio in self.beyond_noise.values())

    @property
    def beyond_noise(self) -> dict[str, Ratio]:
        """The ratios on tasks that differ from 1 beyond noise over seeds.

        The level is 5 % over all tasks (Holm): 95 % of comparisons contain no ratio
        that differs from 1 by chance alone.
        """
        adjusted = holm(np.array([ratio.p for ratio in self.tasks.values()]))
        return {
            task: ratio
            for (task, ratio), p in zip(self.tasks.items(), adjusted, strict=True)
            if p <= LEVEL
        }


def holm(p: Floats) -> Floats:
    """Return p-values adjusted by Holm's step-down method.

    NaN stays NaN, and does not count as a test.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]
    if len(order):
        steps = p[order] * np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def student_p(log: Floats, error: Floats, freedom: Floats) -> Floats:
    """Return the p-values of Student's test that logarithms of ratios are 0.

    ``error`` are the standard errors of ``log``.
    """
    # An error of 0 must not divide; a tiny one gives the p-value 0.
    t = np.abs(log) / np.where(error < _ROUNDING, 1e-300, error)
    p_of_equal = np.where(np.isnan(error), np.nan, 1.0)
    return np.where(np.abs(log) < _ROUNDING, p_of_equal, 2 * special.stdtr(freedom, -t))


def student_ratios(log: Floats, error: Floats, freedom: Floats) -> list[Ratio]:
    """Return the ratios exp(``log``), with Student's intervals and tests.

    ``error`` are the standard errors of ``log``.
    """
    half = special.stdtrit(freedom, 1 - LEVEL / 2) * error
    values, low, high = np.exp([log, log - half, log + half]).tolist()
    p = student_p(log, error, freedom).tolist()
    return [Ratio(*numbers) for numbers in zip(values, low, high, p, strict=True)]


class LogRatios(NamedTuple):
    """Logarithms [T] of ratios on some tasks, with standard errors over seeds."""

    tasks: Sequence[str]
    logs: Floats
    errors: Floats
    freedom: Floats
    """Degrees of freedom of the errors [T]."""

    def ratio(self, *, over_tasks: bool) -> Ratio:
        """Return the geometric mean over tasks, with Student's interval and test.

        If ``over_tasks``, the standard error is computed from the deviation of the
        logarithms over tasks; it is NaN for fewer than `MIN_TASKS` tasks. Otherwise it
        is computed from `errors`, and the interval does not cover the variation between
        tasks.
        """
        num = len(self.logs)
        mean = self.logs.mean() if num else math.nan
        error = math.nan
        freedom = math.nan
        if num and not over_tasks:
            variance, variance_freedom = add_variances(self.errors**2, self.freedom)
            error = math.sqrt(variance) / num
            freedom = float(variance_freedom)
        elif num >= MIN_TASKS:
            error = self.logs.std(ddof=1) / math.sqrt(num)
            freedom = num - 1
        (ratio,) = student_ratios(
            np.array([mean]), np.array([error]), np.array([freedom])
        )
        return ratio


@dataclass(frozen=True)
class LogScores:
    """Logarithms of a board's mean scores, from which ratios are computed."""

    table: ScoreTable
    means_TM: Floats
    """Logarithms of mean scores [T, M]; NaN where there is no score."""
    floors_T: Floats
    """Floors [T, 1] to which lower scores and means are raised."""
    variances_TM: Floats
    """Variances over seeds of a log score; see `moderate_variances`.

    NaN on a task where no method has several seeds.
    """
    freedom_TM: Floats
    """Degrees of freedom of each method's own variance over seeds."""
    prior: float
    """Degrees of freedom that `variances_TM` have in addition."""

    @classmethod
    def of(cls, table: ScoreTable) -> "LogScores":
        """Return the log scores of a table.

        Scores and means below the floor of their task are raised to it; see
        `ScoreTable.floors_T`.
        """
        floors_T = table.floors_T.reshape(-1, 1)
        present_TMS = np.isfinite(table.scores_TMS)
        num_TM = np.maximum(table.num_seeds_TM, 1)
        filled_TMS = np.where(present_TMS, table.scores_TMS, 1.0)
        logs_TMS = np.log(np.maximum(filled_TMS, floors_T[:, :, None]))
        centres_TM = np.where(present_TMS, logs_TMS, 0.0).sum(axis=2) / num_TM
        squares_TMS = (logs_TMS - centres_TM[:, :, None]) ** 2
        squares_TM = np.where(present_TMS, squares_TMS, 0.0).sum(axis=2)
        freedom_TM = np.maximum(table.num_seeds_TM - 1.0, 0)
        variances_TM, prior = moderate_variances(squares_TM, freedom_TM)
        logs_TM = np.log(np.maximum(table.means_TM, floors_T))
        return cls(table, logs_TM, floors_T, variances_TM, freedom_TM, prior)

    def over_seeds(self, variances: Floats, freedom: Floats) -> tuple[Floats, Floats]:
        """Return `add_variances` of variances [T, ..., X] over seeds.

        No variance gets more degrees of freedom than all scores of its task have.
        """
        most_T = self.freedom_TM.sum(axis=1)
        # One axis of length 1 for each axis between T and X.
        num_middle_axes = variances.ndim - 2
        most = most_T.reshape(-1, *[1] * num_middle_axes)
        return add_variances(variances, freedom, self.prior, most)

    @property
    def errors_TM(self) -> Floats:
        """Standard errors of `means_TM` over seeds.

        They are NaN on a task where no method has several seeds.
        """
        num_TM = np.maximum(self.table.num_seeds_TM, 1)
        errors_TM: Floats = np.sqrt(self.variances_TM / num_TM)
        return errors_TM

    @property
    def tied_TM(self) -> NDArray[np.bool_]:
        """Mask [T, M] of methods that noise over seeds does not separate from the best.

        It is False for the best method of a task itself, and where the noise is
        unknown. The level is 5 % over all pairs of methods on a task (Bonferroni),
        because the best one is chosen by the same scores.
        """
        means_TM = np.where(np.isnan(self.means_TM), np.inf, self.means_TM)
        best_T = np.argmin(means_TM, axis=1)[:, None]

        def beside_best(values_TM: Floats) -> Floats:
            """Return pairs [T, M, 2] of a method's and the best method's value."""
            best_values_T = np.take_along_axis(values_TM, best_T, axis=1)
            best_values_TM = np.broadcast_to(best_values_T, values_TM.shape)
            return np.stack([values_TM, best_values_TM], axis=-1)

        logs_TM2 = beside_best(self.means_TM)
        logs_TM = logs_TM2[..., 0] - logs_TM2[..., 1]
        variances_TM, freedom_TM = self.over_seeds(
            beside_best(self.errors_TM) ** 2, beside_best(self.freedom_TM)
        )
        p_TM = student_p(logs_TM, np.sqrt(variances_TM), freedom_TM)
        num_T = np.isfinite(self.means_TM).sum(axis=1, keepdims=True)
        adjusted_TM = p_TM * num_T * (num_T - 1) / 2
        tied_TM: NDArray[np.bool_] = (adjusted_TM > LEVEL) & (logs_TM > 0)
        return tied_TM

    def paired(self, method: str, reference: str) -> LogRatios:
        """Return the log ratios of two methods on the tasks with scores of both."""
        m = self.table.methods.index(method)
        m_reference = self.table.methods.index(reference)
        logs_T = self.means_TM[:, m] - self.means_TM[:, m_reference]
        both = [m, m_reference]
        variances_T, freedom_T = self.over_seeds(
            self.errors_TM[:, both] ** 2, self.freedom_TM[:, both]
        )
        used = np.flatnonzero(np.isfinite(logs_T))  # tasks with scores of both methods
        return LogRatios(
            [self.table.tasks[t] for t in used],
            logs_T[used],
            np.sqrt(variances_T[used]),
            freedom_T[used],
        )

    def prediction_interval(self, task: str, method: str) -> tuple[float, float]:
        """Return the 95 % prediction interval of the score of one more seed.

        The ends are NaN if the noise over seeds is unknown or zero.
        """
        t = self.table.tasks.index(task)
        m = self.table.methods.index(method)
        error = math.sqrt(self.variances_TM[t, m] + self.errors_TM[t, m] ** 2)
        if not error > _ROUNDING:
            return math.nan, math.nan
        freedom_T = self.freedom_TM.sum(axis=1)
        freedom = min(self.freedom_TM[t, m] + self.prior, freedom_T[t])
        half = special.stdtrit(freedom, 1 - LEVEL / 2) * error
        centre = self.means_TM[t, m]
        return math.exp(centre - half), math.exp(centre + half)

    def compare(self, method: str, reference: str) -> Comparison:
        """Return the comparison of two methods.

        A pair is a task on which both methods have a score.
        """
        return compare(
            {"method": method},
            {"method": reference},
            self.paired(method, reference),
            planned=len(self.table.tasks),
        )


def compare(
    levels: Levels,
    reference: Levels,
    ratios: LogRatios,
    *,
    planned: int,
    pairs: int | None = None,
    over_tasks: bool | None = None,
) -> Comparison:
    """Return a comparison, given the logarithms of the ratios on tasks.

    ``planned`` and ``pairs`` are fields of `Comparison`; ``pairs`` is by default the
    number of tasks. ``over_tasks`` says whether the interval comes from the deviation
    over tasks (see `LogRatios.ratio`), by default if there are `MIN_TASKS` or more.
    """
    num_tasks = len(ratios.tasks)
    if pairs is None:
        pairs = num_tasks
    if over_tasks is None:
        over_tasks = num_tasks >= MIN_TASKS
    on_tasks = student_ratios(ratios.logs, ratios.errors, ratios.freedom)
    return Comparison(
        levels,
        reference,
        ratio=ratios.ratio(over_tasks=over_tasks),
        tasks=dict(zip(ratios.tasks, on_tasks, strict=True)),
        pairs=pairs,
        planned=planned,
    )
