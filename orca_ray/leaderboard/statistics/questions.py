"""Whether a step of a method, such as aligning, helped, and whether searching did: comparisons of pairs of methods."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orca_ray.discovery import tables
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.paired import Comparison, LogScores, compare, score_floor
from orca_ray.leaderboard.statistics.table import ScoreTable


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to one question of `METHODS`, or to the question whether searching helped."""

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
