"""Whether two methods are separable, and about how many more tasks or seeds would separate them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics.critical_difference import holm
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS, NORMAL, student_tail
from orca_ray.leaderboard.statistics.paired import Comparison, LogScores, compare, ratio_over_tasks, score_floor
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable, Statistic

POWER = 0.8
"""Probability with which the additional tasks or seeds would separate two methods."""
MAX_MORE = 1000
"""A larger number of tasks or seeds is given as infinity."""


def verdict(table: ScoreTable, *, level: float = 0.05) -> pd.DataFrame:
    """Score of the method relative to the other (``value``, below 1 is better), and whether the two are separable.

    The test is Student's paired test of the log ratios of tasks; for fewer than five tasks, its error comes from the
    deviation over seeds, and the verdict holds for these tasks only. ``separable`` holds if ``adjusted_p``, the p-value
    adjusted by Holm for the number of pairs, is at most ``level``. The test is the closed form of the paired bootstrap
    that gives the interval; a bootstrap itself has no p-values as small as Holm needs for many pairs, and a rank test
    (see critical_difference) cannot separate ten methods on ten tasks, however large the differences are. The interval
    is not adjusted, so it may exclude 1 for a pair that is not separable.

    ``more_tasks`` and ``more_seeds`` (per task and method) would each separate the pair with a probability of 80 % if
    the observed mean and deviations are the true ones. They are 0 for a separable pair, infinite if no number up to
    1000 suffices, and NaN if unknown. A pair uses the tasks on which both methods have a score. Other methods change
    these numbers only by the number of pairs. More seeds reduce only the part of the deviation over tasks that is noise
    over seeds. That part comes from the seeds of the two methods; the rest is known roughly, so ``more_seeds`` is, too.
    """
    logs = LogScores.of(table)
    pairs = list(combinations(range(len(table.methods)), 2))
    tests = [_Test.of(logs, table.methods[i], table.methods[j]) for i, j in pairs]
    p = np.array([test.p for test in tests])
    adjusted = holm(p)
    num = len(table.methods)
    names = ("value", "low", "high", "p", "adjusted_p", "separable", "more_tasks", "more_seeds", "num_tasks")
    columns = {name: np.full((num, num), np.nan) for name in names}
    for (i, j), test, corrected in zip(pairs, tests, adjusted, strict=True):
        tests_left = np.isfinite(p).sum() - (p < test.p).sum()
        more = test.more(level / max(int(tests_left), 1), separable=bool(corrected <= level))
        value, low, high = test.ratio
        shared = (test.p, corrected, corrected <= level, *more, len(test.logs))
        for place, ratio in (((i, j), (value, low, high)), ((j, i), (1 / value, 1 / high, 1 / low))):
            for name, number in zip(names, (*ratio, *shared), strict=True):
                columns[name][place] = number
    frame = table.by_pair(**columns)
    return frame.astype({"separable": bool, "num_tasks": "int64"})


def describe(method: str, other: str, row: Mapping[str, float]) -> str:
    """Return a verdict in words, given the row of the pair in what `verdict` returns."""
    basis = f"ratio {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], p = {row['adjusted_p']:.2g}"
    where = f"{int(row['num_tasks'])} task{'s' if row['num_tasks'] != 1 else ''}"
    if math.isnan(row["p"]):
        return f"{method} and {other} cannot be compared: too few tasks and seeds with scores of both ({where})."
    if row["separable"]:
        return f"{method} is {'better' if row['value'] < 1 else 'worse'} than {other} on {where} ({basis})."
    needs = [
        f"about {int(row[name])} more {what}{'s' if row[name] != 1 else ''}"
        for name, what in (("more_tasks", "task"), ("more_seeds", "seed"))
        if math.isfinite(row[name])
    ]
    needed = " or ".join(needs) or f"only more than {MAX_MORE} more tasks, if anything,"
    return f"{method} and {other} are not separable on {where} ({basis}); {needed} would separate them."


class _Test:
    """Student's test of the log ratios of one pair."""

    def __init__(self, logs: Floats, errors: Floats, own_errors: Floats, freedom: int, num_seeds: float) -> None:
        num = len(logs)
        self.logs, self.num_seeds = logs, num_seeds
        self.over_tasks = num >= MIN_TASKS
        self.mean = float(logs.mean()) if num else math.nan
        self.deviation = float(logs.std(ddof=1)) if num > 1 else math.nan
        self.ratio = ratio_over_tasks(logs, errors, bootstrap=self.over_tasks)
        noise = math.sqrt(float((errors**2).sum())) / num if num else math.nan
        self.error = self.deviation / math.sqrt(num) if self.over_tasks else noise
        # Over tasks the test does not use the noise of other methods, so what would separate the pair does not either.
        self.noise = float(((own_errors if self.over_tasks else errors) ** 2).mean()) if num else math.nan
        # Below 1e-12 are rounding errors.
        if math.isnan(self.error) or not math.isfinite(self.mean):
            self.p = math.nan
        elif abs(self.mean) < 1e-12:
            self.p = 1.0
        else:
            t = abs(self.mean) / self.error if self.error > 1e-12 else math.inf
            self.p = student_tail(t, num - 1 if self.over_tasks else freedom)

    @classmethod
    def of(cls, logs: LogScores, method: str, other: str) -> "_Test":
        tasks, values, errors = logs.paired(method, other)
        at = [logs.table.tasks.index(task) for task in tasks]
        both = [logs.table.methods.index(name) for name in (method, other)]
        num_seeds = float(logs.table.num_seeds_TM[np.ix_(at, both)].mean()) if at else math.nan
        return cls(values, errors, logs.own_errors(at, both), sum(logs.freedom_T[t] for t in at), num_seeds)

    def more(self, level: float, *, separable: bool) -> tuple[float, float]:
        """Return how many more tasks, or seeds per cell, a test at this level needs."""
        if separable:
            return 0.0, 0.0
        if math.isnan(self.p):
            return math.nan, math.nan
        if abs(self.mean) < 1e-12:
            return math.inf, math.inf
        critical = NORMAL.inv_cdf(1 - level / 2)
        # The test reaches its power when the variance of the mean is this small.
        allowed = (self.mean / (critical + NORMAL.inv_cdf(POWER))) ** 2
        num = len(self.logs)
        # Student's test needs critical²/2 more tasks than a normal one (Guenther 1981, The American Statistician 35).
        tasks = self.deviation**2 / allowed + critical**2 / 2
        between = max(self.deviation**2 - self.noise, 0.0) if self.over_tasks else 0.0
        left = num * allowed - between
        seeds = self.num_seeds * (self.noise / left) if left > 0 else math.inf
        seeds = math.nan if math.isnan(self.noise) else seeds
        return _more(max(tasks, MIN_TASKS), num), _more(seeds, self.num_seeds)


def _more(needed: float, present: float) -> float:
    if math.isnan(needed):
        return math.nan
    more = max(needed - present, 1.0)
    return float(math.ceil(more)) if more <= MAX_MORE else math.inf


STATISTIC = Statistic("verdict", "verdict", verdict, shape="pair", better="lower")


METHODS = (
    ("aligning", "Did aligning help?", "Aligning", "orca", "nft"),
    ("guarded", "Did guarded aligning help?", "Guarded aligning", "orca_guarded", "nft"),
    (
        "aligning_norms",
        "Did aligning help where only norms of the body are trained?",
        "Aligning where only norms of the body are trained",
        "orca_fpt",
        "fpt",
    ),
    ("aligning_lora", "Did aligning help low-rank updates?", "Aligning before low-rank updates", "orca_lora", "lora"),
    ("joint", "Did joint losses help?", "Joint losses", "joint", "nft"),
    ("mixing", "Did mixing in source tokens help?", "Mixing in source tokens", "pare", "nft"),
    ("bilevel", "Did bilevel learning of the embedder help?", "Bilevel learning of the embedder", "mona", "nft"),
    ("distortion", "Did reducing the label distortion help?", "Reducing the label distortion", "recraft", "nft"),
    ("pretraining", "Did pretraining help?", "Pretraining", "nft", "scratch"),
    ("body", "Did the body help?", "The body", "nft", "no_body"),
    ("transformer", "Did the transformer help?", "The transformer", "nft", "cnn"),
)
"""Name, question, the step in question as a subject of sentences, and the methods with and without the step."""


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to one question."""

    name: str
    question: str
    subject: str
    """Owner of the scores: a body ("" if the board has one), or for ``searching`` a method ("" for all)."""
    comparison: Comparison
    """Scores with the thing asked about, relative to scores without it; below 1, it helped. A pair is a task with both
    scores."""
    agent: str = "Searching"
    """What the question is about, as the subject of a sentence."""
    note: str = ""

    @property
    def answer(self) -> str:
        """``yes`` or ``no, it hurt`` if the interval over all tasks excludes 1; ``no clear effect`` or ``unknown``.

        The interval belongs to this one planned question. A verdict of a pair (``separable`` or not) may differ,
        because it is adjusted for the number of pairs.
        """
        _, low, high = self.comparison.ratio
        if math.isnan(low):
            return "unknown"
        return "yes" if high < 1 else "no, it hurt" if low > 1 else "no clear effect"

    @property
    def sentence(self) -> str:
        """The answer in words, with its numbers."""
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
    """Return the answers that the tables allow; ``searches`` has the columns of `COLUMNS`, and NaN for no score.

    A method is named as on the board: ``orca``, or ``orca (body)`` if the board has several bodies.
    """
    logs = LogScores.of(ScoreTable.of(scores))
    names = logs.table.methods
    bodies = sorted({body for _, gap, body in (name.partition(" (") for name in names) if gap})
    found = [
        QuestionAnswer(name, question, body.removesuffix(")"), logs.compare(*sides), agent)
        for name, question, agent, method, other in METHODS
        for body in ["", *bodies]
        if set(sides := [f"{each} ({body}" if body else each for each in (method, other)]) <= set(names)
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
    """Return the logarithm (``log``) of best to first score of each ``task`` and ``method``.

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
