"""Ratios of scores that are paired by task, with intervals, for all comparisons of methods and configurations.

The questions whether a step of a method, such as aligning, helped, and whether searching did, are such comparisons.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.discovery import tables
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS, drawn_tasks, tail
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable

Levels = Mapping[str, str]
"""Mapping from the name of a factor to the name of its level."""


class Ratio(NamedTuple):
    """A ratio of scores with the ends of its 95 % interval; below 1 is better. NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Ratio of scores with ``levels`` to scores with ``reference``; both map the same factors to levels.

    A pair is a score with ``levels`` and a score with ``reference``, for the same task, seed and levels of all other
    factors. On one task, the scores of the seeds are averaged before the ratio is taken, and the ratios geometrically
    averaged over the other factors' levels.
    """

    levels: Levels
    reference: Levels
    ratio: Ratio
    """Geometric mean over tasks, with a bootstrap interval over tasks; NaN ends if fewer than `MIN_TASKS` have pairs.

    In a sweep of fewer tasks, the interval is two standard errors wide on either side and holds for these tasks only.
    """
    tasks: Mapping[str, Ratio]
    """Ratio on each task that has a pair. The interval is two standard errors wide on either side; see `LogScores`."""
    pairs: int
    planned: int
    """Number of pairs if no trial were missing."""

    @property
    def changed(self) -> Levels:
        """The factors whose level differs between ``levels`` and ``reference``, with their level in ``levels``."""
        return {factor: level for factor, level in self.levels.items() if level != self.reference[factor]}

    @property
    def given(self) -> Levels:
        """The factors whose level is the same in ``levels`` and ``reference``, with this level."""
        return {factor: level for factor, level in self.levels.items() if level == self.reference[factor]}

    @property
    def better(self) -> int:
        """Number of tasks on which scores with ``levels`` are lower beyond noise: the ratio's interval is below 1."""
        return sum(ratio.high < 1 for ratio in self.tasks.values())

    @property
    def worse(self) -> int:
        """Number of tasks on which scores with ``levels`` are higher beyond noise: the ratio's interval is above 1."""
        return sum(ratio.low > 1 for ratio in self.tasks.values())


def score_floor(scores_CS: Floats) -> float:
    """Return half of a task's smallest positive score, 1 if no score is positive. Lower mean scores are raised to it.

    A mean of zero, such as no error on a small test set, has no ratio. Half of the smallest score that was measured
    stands for it, as half of the detection limit does in chemistry.
    """
    positive = scores_CS[scores_CS > 0]
    return float(positive.min()) / 2 if len(positive) else 1.0


def ratio_within(log: float, error: float) -> Ratio:
    """Return the ratio exp(``log``), with an interval of two standard errors ``error`` of ``log`` on either side."""
    return Ratio(*np.exp([log, log - 2 * error, log + 2 * error]).tolist())


def ratio_over_tasks(logs: Sequence[float] | Floats, errors: Sequence[float] | Floats, *, bootstrap: bool) -> Ratio:
    """Return the geometric mean over tasks of ratios given by their logarithms, with its 95 % interval.

    The bootstrap over tasks is that of `intervals`. Without ``bootstrap``, the interval comes from the standard errors
    of the logarithms, and does not cover the variation between tasks. Its ends are NaN with ``bootstrap`` and fewer
    than `MIN_TASKS` tasks.
    """
    num = len(logs)
    mean = float(np.mean(logs)) if num else float("nan")
    if not bootstrap or num < MIN_TASKS:
        error = float(np.sqrt(np.square(errors).sum())) / num if num and not bootstrap else float("nan")
        return ratio_within(mean, error)
    below = tail(num, num - 1)
    resampled = drawn_tasks(num) @ np.asarray(logs) / num
    return Ratio(*np.exp([mean, *np.quantile(resampled, [below, 1 - below])]).tolist())


@dataclass(frozen=True)
class LogScores:
    """Table of the logarithms of a board's mean scores, from which ratios of methods are computed."""

    table: ScoreTable
    means_TM: Floats
    """Logarithm of the mean score over seeds of each task and method; NaN where there is no score."""
    errors_TM: Floats
    """Standard errors of `means_TM` over seeds; NaN if no method has several seeds on the task."""
    floors_T: Floats
    """Floors [T, 1] to which lower scores and means are raised; see `score_floor`."""
    noise_T: Floats
    """Standard deviation of a log score over seeds, pooled over methods, [T, 1]; NaN if no method has several seeds."""
    squares_TM: Floats
    """Sum of the squared deviations of log scores over seeds."""
    freedom_TM: NDArray[np.int64]
    """Degrees of freedom of `squares_TM`."""

    @classmethod
    def of(cls, table: ScoreTable) -> "LogScores":
        """Return the log scores of a table; scores and means below `score_floor` are raised to it."""
        floors_T = np.array([score_floor(scores_MS) for scores_MS in table.scores_TMS]).reshape(-1, 1)
        present_TMS, num_TM = np.isfinite(table.scores_TMS), np.maximum(table.num_seeds_TM, 1)
        logs_TMS = np.log(np.maximum(np.where(present_TMS, table.scores_TMS, 1.0), floors_T[:, :, None]))
        centres_TM = np.where(present_TMS, logs_TMS, 0.0).sum(axis=2) / num_TM
        squares_TM = np.where(present_TMS, (logs_TMS - centres_TM[:, :, None]) ** 2, 0.0).sum(axis=2)
        freedom_TM = np.maximum(table.num_seeds_TM - 1, 0)
        squares_T, freedom_T = (each.sum(axis=1, keepdims=True) for each in (squares_TM, freedom_TM))
        noise_T = np.sqrt(np.divide(squares_T, freedom_T, out=np.full(squares_T.shape, np.nan), where=freedom_T > 0))
        logs_TM = np.log(np.maximum(table.means_TM, floors_T))
        return cls(table, logs_TM, noise_T / np.sqrt(num_TM), floors_T, noise_T, squares_TM, freedom_TM)

    def own_errors(self, tasks: Sequence[int], both: Sequence[int]) -> Floats:
        """Return the standard errors [T] of two methods' log ratios on ``tasks``, from the two methods' seeds alone.

        ``tasks`` are indices of tasks, and ``both`` of the two methods. Unlike `errors_TM`, the result does not depend
        on other methods, but it has fewer degrees of freedom.
        """
        at = np.ix_(tasks, both)
        squares_T, freedom_T = (each[at].sum(axis=1) for each in (self.squares_TM, self.freedom_TM))
        variance_T = np.divide(squares_T, freedom_T, out=np.full(len(tasks), np.nan), where=freedom_T > 0)
        errors_T: Floats = np.sqrt(variance_T * (1 / self.table.num_seeds_TM[at]).sum(axis=1))
        return errors_T

    def paired(self, method: str, reference: str) -> tuple[list[str], Floats, Floats]:
        """Return the tasks on which both methods have a score, and for each the log ratio and its standard error."""
        m, r = (self.table.methods.index(name) for name in (method, reference))
        logs_T = self.means_TM[:, m] - self.means_TM[:, r]
        errors_T = np.sqrt(self.errors_TM[:, m] ** 2 + self.errors_TM[:, r] ** 2)
        used = np.flatnonzero(np.isfinite(logs_T))
        return [self.table.tasks[t] for t in used], logs_T[used], errors_T[used]

    def compare(self, method: str, reference: str) -> Comparison:
        """Return the comparison of two methods; a pair is a task on which both methods have a score."""
        tasks, logs, errors = self.paired(method, reference)
        return compare({"method": method}, {"method": reference}, tasks, logs, errors, planned=len(self.table.tasks))


def compare(
    levels: Levels,
    reference: Levels,
    tasks: Sequence[str],
    logs: Floats,
    errors: Floats,
    *,
    planned: int,
    pairs: int | None = None,
    bootstrap: bool | None = None,
) -> Comparison:
    """Return a comparison, given the logarithms of the ratios on ``tasks`` and the standard errors of these logarithms.

    ``pairs`` is by default the number of tasks, and ``bootstrap`` (see `ratio_over_tasks`) by default true from
    `MIN_TASKS` tasks on.
    """
    ratio = ratio_over_tasks(logs, errors, bootstrap=len(tasks) >= MIN_TASKS if bootstrap is None else bootstrap)
    on_tasks = {task: ratio_within(*numbers) for task, *numbers in zip(tasks, logs, errors, strict=True)}
    return Comparison(levels, reference, ratio, on_tasks, len(tasks) if pairs is None else pairs, planned)


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to one question of ``questions.toml``, or to the question whether searching helped."""

    name: str
    question: str
    subject: str
    """Body that the scores belong to ("" if the board has one), or for ``searching`` the method ("" for all
    methods)."""
    comparison: Comparison
    """Scores with the step that the question asks about, relative to scores without it; below 1, the step helped. A
    pair is a task with both scores."""
    agent: str = "Searching"
    """What the question is about, as the subject of a sentence."""
    note: str = ""

    @property
    def answer(self) -> str:
        """``yes`` or ``no, it hurt`` if the interval excludes 1, else ``no clear effect``; ``unknown`` if it is NaN.

        The interval belongs to this one planned question. A verdict of a pair (``separable`` or not) may differ,
        because a verdict is adjusted for the number of pairs.
        """
        _, low, high = self.comparison.ratio
        if math.isnan(low):
            return "unknown"
        return "yes" if high < 1 else "no, it hurt" if low > 1 else "no clear effect"

    @property
    def sentence(self) -> str:
        """The answer as text: "Did aligning help? Yes: the ratio of orca to nft is 0.93 [0.90, 0.97] over 8 tasks…"."""
        subject = f" ({self.subject})" if self.subject else ""
        sides = (" ".join(levels.values()) for levels in (self.comparison.levels, self.comparison.reference))
        value, low, high = self.comparison.ratio
        num = self.comparison.pairs
        numbers = f"{value:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")
        counts = f"better beyond noise on {self.comparison.better}, worse on {self.comparison.worse}"
        where = f"over {num} task{'s' if num != 1 else ''}{'' if num >= MIN_TASKS else ', and holds for these only'}"
        ratio = f"the ratio of {' to '.join(sides)} is {numbers} {where}"
        known = any(not math.isnan(ratio.low) for ratio in self.comparison.tasks.values())
        text = f"{self.question}{subject} {self.answer.capitalize()}: {ratio}{f'; {counts}' if known else ''}."
        return f"{text} {self.note}".rstrip()


def answers(scores: pd.DataFrame | ScoreTable, searches: pd.DataFrame | None = None) -> list[QuestionAnswer]:
    """Return the answers to the questions of ``questions.toml`` whose two methods have scores, and about searching.

    ``searches`` has the columns of `COLUMNS`, with NaN for no score; None: no answer about searching. A method is named
    as on the board: ``orca``, or ``orca (body)`` if the board has several bodies.
    """
    logs = LogScores.of(ScoreTable.of(scores))
    names = logs.table.methods
    bodies = sorted({body for _, gap, body in (name.partition(" (") for name in names) if gap})
    found = [
        QuestionAnswer(name, each["question"], body.removesuffix(")"), logs.compare(*sides), each["agent"])
        for name, each in tables("orca_ray.leaderboard.statistics", "questions.toml").items()
        for body in ["", *bodies]
        if set(sides := [f"{method} ({body}" if body else method for method in each["methods"]]) <= set(names)
    ]
    return [*found, *(_searching(searches) if searches is not None else ())]


def _searching(searches: pd.DataFrame) -> Iterator[QuestionAnswer]:
    """Yield the ratio of the best to the first validation score of all methods together, then of each if several."""
    found = gains(searches)
    methods = sorted(found["method"].unique())
    for subject in ["", *methods] if len(methods) > 1 else methods:
        some = found[found["method"] == subject] if subject else found
        logs = some.groupby("task")["log"].mean()
        tasks = [str(task) for task in logs.index]
        values = logs.to_numpy(np.float64)
        sides = {"configuration": "winner"}, {"configuration": "first configuration"}
        compared = compare(*sides, tasks, values, np.full(len(tasks), np.nan), planned=searches["task"].nunique())
        note = "The winner was chosen by these validation scores, so this is the most that searching can have gained."
        yield QuestionAnswer("searching", "Did searching help?", subject, compared, note=note)


def gains(searches: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each search: ``task``, ``method`` and ``log``, the log ratio of its best to its first score.

    Only searches with at least two trials, and with a score of the first trial, count.
    """
    found = []
    for task, on_task in searches.groupby("task"):
        floor = score_floor(on_task["score"].to_numpy(np.float64))
        for method, trials in on_task.groupby("method"):
            scores = trials.sort_values("number")["score"].to_numpy(np.float64)
            if len(scores) > 1 and np.isfinite(scores[0]):
                best, first = max(float(np.nanmin(scores)), floor), max(float(scores[0]), floor)
                found.append((str(task), str(method), math.log(best / first)))
    return pd.DataFrame(found, columns=["task", "method", "log"])
