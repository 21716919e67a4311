"""Questions about steps of methods, such as whether aligning helped.

An answer is a comparison of scores with the step to scores without it. Whether
searching helped is such a question, too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from orca_ray.discovery import tables
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.paired import (
    Comparison,
    LogRatios,
    LogScores,
    compare,
    holm,
)
from orca_ray.leaderboard.statistics.table import ScoreTable, score_floor


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to one question about a step of a method, such as aligning.

    The questions are those of ``questions.toml``, and whether searching helped.
    """

    name: str
    question: str
    subject: str
    """What the answer is limited to.

    The body that the scores belong to ("" if the board has one) or, for ``searching``,
    the method ("": all methods).
    """
    comparison: Comparison
    """Scores with the step relative to scores without it; below 1, the step helped.

    A pair is a task with both scores.
    """
    agent: str = "Searching"
    """What the question is about, as the subject of a sentence."""
    adjusted_p: float = math.nan
    """p-value adjusted by Holm for the number of questions that the board answers."""
    note: str = ""

    @property
    def answer(self) -> str:
        """``yes``, ``no, it hurt``, ``no clear effect`` or ``unknown``.

        One of the first two holds if `adjusted_p` is at most 5 %, ``unknown`` if it is
        NaN. All answers of a board hold together at this level; the interval belongs to
        one question. The answer about searching is ``at most``: the winner was chosen
        by the compared scores, so it cannot be worse.
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
        """The answer as text: "Did aligning help? Yes: the ratio of orca to …"."""
        subject = f" ({self.subject})" if self.subject else ""
        text = (
            f"{self.question}{subject} {self.answer.capitalize()}: {self._ratio_text}"
            f"{self._counts_text}. {self.note}"
        )
        return text.rstrip()

    @property
    def _ratio_text(self) -> str:
        """The ratio with its interval, number of tasks and adjusted p-value."""
        method = " ".join(self.comparison.levels.values())
        reference = " ".join(self.comparison.reference.values())
        ratio = self.comparison.ratio
        num_tasks = self.comparison.pairs
        text = f"the ratio of {method} to {reference} is {ratio.value:.2f}"
        if not math.isnan(ratio.low):
            text += f" [{ratio.low:.2f}, {ratio.high:.2f}]"
        text += (
            f" over {num_tasks} task" if num_tasks == 1 else f" over {num_tasks} tasks"
        )
        if num_tasks < MIN_TASKS:
            text += ", and holds for these only"
        if not math.isnan(self.adjusted_p):
            text += f", adjusted p = {self.adjusted_p:.2g}"
        return text

    @property
    def _counts_text(self) -> str:
        """The numbers of tasks beyond noise; "" if no noise is known."""
        if all(math.isnan(ratio.low) for ratio in self.comparison.tasks.values()):
            return ""
        return (
            f"; better beyond noise on {self.comparison.better}, worse on"
            f" {self.comparison.worse}"
        )


_SEARCHING_NOTE = (
    "The winner was chosen by these validation scores, so the gain on new data is"
    " smaller, if there is one."
)
"""Sentence that follows every answer about searching."""


def answers(
    scores: pd.DataFrame | ScoreTable, searches: pd.DataFrame | None = None
) -> list[QuestionAnswer]:
    """Return the answers to the questions whose methods have scores.

    The questions are those of ``questions.toml``, and the one about searching.
    ``searches`` has the columns of `COLUMNS`, with NaN for no score; None: no answer
    about searching. A method is named as on the board: ``orca``, or ``orca (body)`` if
    the board has several bodies.
    """
    logs = LogScores.of(ScoreTable.of(scores))
    questions = list(_step_answers(logs))
    p = np.array([question.comparison.ratio.p for question in questions])
    adjusted = [
        replace(question, adjusted_p=float(adjusted_p))
        for question, adjusted_p in zip(questions, holm(p), strict=True)
    ]
    if searches is None:
        return adjusted
    return [*adjusted, *_searching_answers(searches)]


def _step_answers(logs: LogScores) -> Iterator[QuestionAnswer]:
    """Yield the answers to the questions of ``questions.toml``, without adjusted p."""
    names = logs.table.methods
    bodies = {name.partition(" (")[2].removesuffix(")") for name in names}
    questions = tables("orca_ray.leaderboard.statistics", "questions.toml")
    for name, question in questions.items():
        # Without a body, the methods are compared that have one body on the board.
        for body in sorted({"", *bodies}):
            ending = f" ({body})" if body else ""
            method, reference = (f"{stem}{ending}" for stem in question["methods"])
            if method in names and reference in names:
                yield QuestionAnswer(
                    name,
                    question["question"],
                    body,
                    logs.compare(method, reference),
                    question["agent"],
                )


def _searching_answers(searches: pd.DataFrame) -> Iterator[QuestionAnswer]:
    """Yield answers about searching: ratios of the best to the first validation score.

    The first answer is about all methods together; if there are several methods, one
    about each follows.
    """
    search_gains = gains(searches)
    methods = sorted(search_gains["method"].unique())
    for subject in ["", *methods] if len(methods) > 1 else methods:
        rows = search_gains
        if subject:
            rows = rows[rows["method"] == subject]
        logs = rows.groupby("task")["log"].mean()
        # These scores have no interval: the lowest of several scores is below the first
        # one by chance alone.
        unknown = np.full(len(logs), np.nan)
        ratios = LogRatios(
            [str(task) for task in logs.index],
            logs.to_numpy(np.float64),
            unknown,
            unknown,
        )
        comparison = compare(
            {"configuration": "winner"},
            {"configuration": "first configuration"},
            ratios,
            planned=searches["task"].nunique(),
            over_tasks=False,
        )
        yield QuestionAnswer(
            "searching",
            "Did searching help?",
            subject,
            comparison,
            note=_SEARCHING_NOTE,
        )


def gains(searches: pd.DataFrame) -> pd.DataFrame:
    """Return the log ratio of the best to the first score of each search.

    Columns are ``task``, ``method`` and ``log``. Only searches with at least two
    trials, and with a score of the first trial, count.
    """
    rows = []
    for task, searches_of_task in searches.groupby("task"):
        floor = score_floor(searches_of_task["score"].to_numpy(np.float64))
        for method, trials in searches_of_task.groupby("method"):
            scores = trials.sort_values("number")["score"].to_numpy(np.float64)
            if len(scores) > 1 and np.isfinite(scores[0]):
                best = max(float(np.nanmin(scores)), floor)
                first = max(float(scores[0]), floor)
                rows.append((str(task), str(method), math.log(best / first)))
    return pd.DataFrame(rows, columns=["task", "method", "log"])
