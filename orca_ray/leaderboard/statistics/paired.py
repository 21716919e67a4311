"""Ratios of scores that are paired by task, with intervals, for all comparisons of
methods and configurations.

The questions whether a step of a method, such as aligning, helped, and whether
searching did, are such comparisons.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from orca_ray.discovery import tables
from orca_ray.leaderboard.statistics.intervals import (
    LEVEL,
    MIN_TASKS,
    combined,
    moderated,
)
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable

Levels = Mapping[str, str]
"""Mapping from the name of a factor to the name of its level."""


class Ratio(NamedTuple):
    """A ratio of scores with the ends of its 95 % interval; below 1 is better. NaN
    where undefined.

    ``p`` is the p-value of the test to which the interval belongs: it is below 5 % if
    the interval excludes 1.
    """

    value: float
    low: float
    high: float
    p: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """Ratio of scores with ``levels`` to scores with ``reference``; both map the same
    factors to levels.

    A pair is a score with ``levels`` and a score with ``reference``, for the same task,
    seed and levels of all other factors. On one task, the scores of the seeds are
    averaged before the ratio is taken, and the ratios geometrically averaged over the
    other factors' levels.
    """

    levels: Levels
    reference: Levels
    ratio: Ratio
    """Geometric mean over tasks, with Student's interval over tasks; NaN ends if fewer
    than `MIN_TASKS` have pairs.

    In a sweep of fewer tasks, the interval comes from the noise over seeds and holds
    for these tasks only.
    """
    tasks: Mapping[str, Ratio]
    """Ratio on each task that has a pair, with Student's interval from the noise over
    seeds; see `LogScores`.
    """
    pairs: int
    planned: int
    """Number of pairs if no trial were missing."""

    @property
    def changed(self) -> Levels:
        """The factors whose level differs between ``levels`` and ``reference``, with
        their level in ``levels``.
        """
        return {
            factor: level
            for factor, level in self.levels.items()
            if level != self.reference[factor]
        }

    @property
    def given(self) -> Levels:
        """The factors whose level is the same in ``levels`` and ``reference``, with
        this level.
        """
        return {
            factor: level
            for factor, level in self.levels.items()
            if level == self.reference[factor]
        }

    @property
    def better(self) -> int:
        """Number of tasks on which scores with ``levels`` are lower beyond noise, at 5
        % over all tasks (Holm).
        """
        return sum(ratio.value < 1 for ratio in self.beyond_noise.values())

    @property
    def worse(self) -> int:
        """Number of tasks on which scores with ``levels`` are higher beyond noise, at 5
        % over all tasks (Holm).
        """
        return sum(ratio.value > 1 for ratio in self.beyond_noise.values())

    @property
    def beyond_noise(self) -> dict[str, Ratio]:
        """The ratios on tasks that differ from 1 beyond noise over seeds: no false one
        in 95 % of comparisons.
        """
        adjusted = holm(np.array([ratio.p for ratio in self.tasks.values()]))
        return {
            task: ratio
            for (task, ratio), p in zip(self.tasks.items(), adjusted, strict=True)
            if p <= LEVEL
        }


def holm(p: Floats) -> Floats:
    """Return p-values adjusted by Holm's step-down method; NaN stays NaN, and does not
    count as a test.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = (
        np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    )
    return adjusted


def score_floor(scores_CS: Floats) -> float:
    """Return half of a task's smallest positive score, 1 if no score is positive. Lower
    mean scores are raised to it.

    A mean of zero, such as no error on a small test set, has no ratio. Half of the
    smallest score that was measured stands for it, as half of the detection limit does
    in chemistry.
    """
    positive = scores_CS[scores_CS > 0]
    return float(positive.min()) / 2 if len(positive) else 1.0


def student_p(log: Floats, error: Floats, freedom: Floats) -> Floats:
    """Return the p-values of Student's test that logarithms of ratios with these
    standard errors are 0.
    """
    # Below 1e-12 are rounding errors.
    t = np.abs(log) / np.where(error < 1e-12, 1e-300, error)
    return np.where(
        np.abs(log) < 1e-12,
        np.where(np.isnan(error), np.nan, 1.0),
        2 * special.stdtr(freedom, -t),
    )


def student_ratios(log: Floats, error: Floats, freedom: Floats) -> list[Ratio]:
    """Return the ratios exp(``log``), with Student's intervals and tests for the
    standard errors of ``log``.
    """
    half = special.stdtrit(freedom, 1 - LEVEL / 2) * error
    return [
        *map(
            Ratio,
            *np.exp([log, log - half, log + half]).tolist(),
            student_p(log, error, freedom).tolist(),
        )
    ]


class LogRatios(NamedTuple):
    """Logarithms [T] of ratios on some tasks, with their standard errors over seeds and
    the errors' freedom [T].
    """

    tasks: Sequence[str]
    logs: Floats
    errors: Floats
    freedom: Floats

    def ratio(self, *, over_tasks: bool) -> Ratio:
        """Return the geometric mean over tasks, with Student's interval and test.

        The standard error is that of the logarithms' deviation ``over_tasks``, NaN for
        fewer than `MIN_TASKS` tasks. Else it comes from the standard errors, and the
        interval does not cover the variation between tasks.
        """
        num = len(self.logs)
        mean = self.logs.mean() if num else math.nan
        error = math.nan
        freedom = math.nan
        if num and not over_tasks:
            variance, of_variance = combined(self.errors**2, self.freedom)
            error = math.sqrt(variance) / num
            freedom = float(of_variance)
        elif num >= MIN_TASKS:
            error = self.logs.std(ddof=1) / math.sqrt(num)
            freedom = num - 1
        return student_ratios(np.array([mean]), np.array([error]), np.array([freedom]))[
            0
        ]


@dataclass(frozen=True)
class LogScores:
    """Table of the logarithms of a board's mean scores, from which ratios of methods
    are computed.
    """

    table: ScoreTable
    means_TM: Floats
    """Logarithm of the mean score over seeds of each task and method; NaN where there
    is no score.
    """
    floors_T: Floats
    """Floors [T, 1] to which lower scores and means are raised; see `score_floor`."""
    variances_TM: Floats
    """Variances over seeds of a log score; see `moderated`.

    NaN on a task where no method has several seeds.
    """
    freedom_TM: Floats
    """Degrees of freedom of each method's own variance over seeds."""
    prior: float
    """Degrees of freedom that `variances_TM` have in addition."""

    @classmethod
    def of(cls, table: ScoreTable) -> "LogScores":
        """Return the log scores of a table; scores and means below `score_floor` are
        raised to it.
        """
        floors_T = np.array(
            [score_floor(scores_MS) for scores_MS in table.scores_TMS]
        ).reshape(-1, 1)
        present_TMS = np.isfinite(table.scores_TMS)
        num_TM = np.maximum(table.num_seeds_TM, 1)
        logs_TMS = np.log(
            np.maximum(
                np.where(present_TMS, table.scores_TMS, 1.0), floors_T[:, :, None]
            )
        )
        centres_TM = np.where(present_TMS, logs_TMS, 0.0).sum(axis=2) / num_TM
        squares_TM = np.where(
            present_TMS, (logs_TMS - centres_TM[:, :, None]) ** 2, 0.0
        ).sum(axis=2)
        freedom_TM = np.maximum(table.num_seeds_TM - 1.0, 0)
        variances_TM, prior = moderated(squares_TM, freedom_TM)
        logs_TM = np.log(np.maximum(table.means_TM, floors_T))
        return cls(table, logs_TM, floors_T, variances_TM, freedom_TM, prior)

    def over_seeds(self, variances: Floats, freedom: Floats) -> tuple[Floats, Floats]:
        """Return `combined` variances [T, ..., X] over seeds; none has more freedom
        than all scores of its task.
        """
        most_T = self.freedom_TM.sum(axis=1)
        return combined(
            variances,
            freedom,
            self.prior,
            most_T.reshape(-1, *[1] * (variances.ndim - 2)),
        )

    @property
    def errors_TM(self) -> Floats:
        """Standard errors of `means_TM` over seeds; NaN if no method has several seeds
        on the task.
        """
        errors_TM: Floats = np.sqrt(
            self.variances_TM / np.maximum(self.table.num_seeds_TM, 1)
        )
        return errors_TM

    @property
    def tied_TM(self) -> NDArray[np.bool_]:
        """Whether noise over seeds does not separate a method from the best one of a
        task; False where it is unknown.

        At 5 % over all pairs of the task (Bonferroni), because the best is chosen by
        the same scores.
        """
        best_T = np.argmin(
            np.where(np.isnan(self.means_TM), np.inf, self.means_TM), axis=1
        )[:, None]
        logs_TM, errors_TM2, freedom_TM2 = (
            np.stack(
                [
                    each,
                    np.broadcast_to(
                        np.take_along_axis(each, best_T, axis=1), each.shape
                    ),
                ],
                axis=-1,
            )
            for each in (self.means_TM, self.errors_TM, self.freedom_TM)
        )
        logs_TM = logs_TM[..., 0] - logs_TM[..., 1]
        variances_TM, freedom_TM = self.over_seeds(errors_TM2**2, freedom_TM2)
        num_T = np.isfinite(self.means_TM).sum(axis=1, keepdims=True)
        adjusted_TM = (
            student_p(logs_TM, np.sqrt(variances_TM), freedom_TM)
            * num_T
            * (num_T - 1)
            / 2
        )
        tied_TM: NDArray[np.bool_] = (adjusted_TM > LEVEL) & (logs_TM > 0)
        return tied_TM

    def paired(self, method: str, reference: str) -> LogRatios:
        """Return the log ratios of two methods on the tasks on which both have a score."""
        both = [self.table.methods.index(name) for name in (method, reference)]
        logs_T = self.means_TM[:, both[0]] - self.means_TM[:, both[1]]
        variances_T, freedom_T = self.over_seeds(
            self.errors_TM[:, both] ** 2, self.freedom_TM[:, both]
        )
        used = np.flatnonzero(np.isfinite(logs_T))
        return LogRatios(
            [self.table.tasks[t] for t in used],
            logs_T[used],
            np.sqrt(variances_T[used]),
            freedom_T[used],
        )

    def compare(self, method: str, reference: str) -> Comparison:
        """Return the comparison of two methods; a pair is a task on which both methods
        have a score.
        """
        sides = {"method": method}, {"method": reference}
        return compare(
            *sides, self.paired(method, reference), planned=len(self.table.tasks)
        )


def compare(
    levels: Levels,
    reference: Levels,
    found: LogRatios,
    *,
    planned: int,
    pairs: int | None = None,
    over_tasks: bool | None = None,
) -> Comparison:
    """Return a comparison, given the logarithms of the ratios on tasks.

    ``pairs`` is by default the number of tasks, and ``over_tasks`` (see
    `LogRatios.ratio`) by default true from `MIN_TASKS` tasks on.
    """
    num = len(found.tasks)
    ratio = found.ratio(
        over_tasks=num >= MIN_TASKS if over_tasks is None else over_tasks
    )
    on_tasks = dict(zip(found.tasks, student_ratios(*found[1:]), strict=True))
    return Comparison(
        levels, reference, ratio, on_tasks, num if pairs is None else pairs, planned
    )


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to one question of ``questions.toml``, or to the question whether
    searching helped.
    """

    name: str
    question: str
    subject: str
    """Body that the scores belong to ("" if the board has one), or for ``searching``
    the method ("" for all).
    """
    comparison: Comparison
    """Scores with the step that the question asks about, relative to scores without it;
    below 1, the step helped. A pair is a task with both scores.
    """
    agent: str = "Searching"
    """What the question is about, as the subject of a sentence."""
    adjusted_p: float = math.nan
    """p-value adjusted by Holm for the number of questions that the board answers."""
    note: str = ""

    @property
    def answer(self) -> str:
        """``yes`` or ``no, it hurt`` if `adjusted_p` is at most 5 %, else ``no clear
        effect``; ``unknown`` if NaN.

        All answers of a board hold together at this level; the interval belongs to one
        question. The answer about searching is ``at most``: the winner was chosen by
        the compared scores, so it cannot be worse.
        """
        if self.name == "searching":
            return "at most"
        if math.isnan(self.adjusted_p):
            return "unknown"
        if self.adjusted_p > LEVEL:
            return "no clear effect"
        return "yes" if self.comparison.ratio.value < 1 else "no, it hurt"

    @property
    def sentence(self) -> str:
        """The answer as text: "Did aligning help? Yes: the ratio of orca to nft is 0.93
        [0.90, 0.97] over 8 tasks…".
        """
        subject = f" ({self.subject})" if self.subject else ""
        sides = (
            " ".join(levels.values())
            for levels in (self.comparison.levels, self.comparison.reference)
        )
        value, low, high, _ = self.comparison.ratio
        num = self.comparison.pairs
        numbers = f"{value:.2f}" + (
            "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
        )
        where = (
            f"over {num}"
            f" task{'s' if num != 1 else ''}{'' if num >= MIN_TASKS else ', and holds for these only'}"
        )
        p = (
            ""
            if math.isnan(self.adjusted_p)
            else f", adjusted p = {self.adjusted_p:.2g}"
        )
        ratio = f"the ratio of {' to '.join(sides)} is {numbers} {where}{p}"
        known = any(
            not math.isnan(ratio.low) for ratio in self.comparison.tasks.values()
        )
        counts = (
            f"; better beyond noise on {self.comparison.better}, worse on"
            f" {self.comparison.worse}"
            if known
            else ""
        )
        return (
            f"{self.question}{subject} {self.answer.capitalize()}: {ratio}{counts}."
            f" {self.note}".rstrip()
        )


def answers(
    scores: pd.DataFrame | ScoreTable, searches: pd.DataFrame | None = None
) -> list[QuestionAnswer]:
    """Return the answers to the questions of ``questions.toml`` whose two methods have
    scores, and about searching.

    ``searches`` has the columns of `COLUMNS`, with NaN for no score; None: no answer
    about searching. A method is named as on the board: ``orca``, or ``orca (body)`` if
    the board has several bodies.
    """
    logs = LogScores.of(ScoreTable.of(scores))
    names = logs.table.methods
    bodies = sorted(
        {body for _, gap, body in (name.partition(" (") for name in names) if gap}
    )
    found = [
        QuestionAnswer(
            name,
            each["question"],
            body.removesuffix(")"),
            logs.compare(*sides),
            each["agent"],
        )
        for name, each in tables(
            "orca_ray.leaderboard.statistics", "questions.toml"
        ).items()
        for body in ["", *bodies]
        if set(
            sides := [
                f"{method} ({body}" if body else method for method in each["methods"]
            ]
        )
        <= set(names)
    ]
    adjusted = holm(np.array([each.comparison.ratio.p for each in found]))
    found = [
        replace(each, adjusted_p=float(p))
        for each, p in zip(found, adjusted, strict=True)
    ]
    return [*found, *(_searching(searches) if searches is not None else ())]


def _searching(searches: pd.DataFrame) -> Iterator[QuestionAnswer]:
    """Yield the ratio of the best to the first validation score of all methods
    together, then of each if several.
    """
    found = gains(searches)
    methods = sorted(found["method"].unique())
    for subject in ["", *methods] if len(methods) > 1 else methods:
        some = found[found["method"] == subject] if subject else found
        logs = some.groupby("task")["log"].mean()
        # These scores have no interval: the lowest of several scores is below the first
        # one by chance alone.
        unknown = np.full(len(logs), np.nan)
        ratios = LogRatios(
            [str(task) for task in logs.index],
            logs.to_numpy(np.float64),
            unknown,
            unknown,
        )
        sides = {"configuration": "winner"}, {"configuration": "first configuration"}
        compared = compare(
            *sides, ratios, planned=searches["task"].nunique(), over_tasks=False
        )
        note = (
            "The winner was chosen by these validation scores, so the gain on new data"
            " is smaller, if there is one."
        )
        yield QuestionAnswer(
            "searching", "Did searching help?", subject, compared, note=note
        )


def gains(searches: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each search: ``task``, ``method`` and ``log``, the log ratio of
    its best to its first score.

    Only searches with at least two trials, and with a score of the first trial, count.
    """
    found = []
    for task, on_task in searches.groupby("task"):
        floor = score_floor(on_task["score"].to_numpy(np.float64))
        for method, trials in on_task.groupby("method"):
            scores = trials.sort_values("number")["score"].to_numpy(np.float64)
            if len(scores) > 1 and np.isfinite(scores[0]):
                best = max(float(np.nanmin(scores)), floor)
                first = max(float(scores[0]), floor)
                found.append((str(task), str(method), math.log(best / first)))
    return pd.DataFrame(found, columns=["task", "method", "log"])
