"""The ten planned questions of a study of many tasks, and their answers;
`benchmarks.findings_page` writes the page.

Six questions are about all tasks, four about properties of tasks. They are one family:
p-values are adjusted by Holm for all of them. `benchmarks.findings_calibration`
simulates studies and counts false answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.regression import Estimate, estimate, groups, mean, room, unequal_means
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.paired import Comparison, LogScores, holm
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable
from orca_ray.leaderboard.statistics.verdict import MAX_MORE, needed

Mask = NDArray[np.bool_]

BEST = "best baseline"
"""Name of the method that has the scores of each task's best baseline by validation."""
REFERENCE = "nft"


@dataclass(frozen=True)
class Data:
    """What the answer to one question is computed from: the log ratios [T] of tasks,
    and the tasks' properties [T].
    """

    logs: Floats
    kinds: NDArray[np.str_]
    """Kinds of data."""
    images: Mask
    """Whether the body is one for images."""
    samples: Floats
    """Numbers of training samples."""
    distances: Floats
    """Distances of embedded and source features before ``orca`` aligns; NaN where it is
    unknown.
    """
    centroids: Floats
    """Centroid gaps of these features (`orca_ray.training.artefacts.kinds.gaps`); NaN
    where it is unknown.
    """
    distributions: Floats
    """Distribution gaps of these features; NaN where it is unknown."""

    def part(self, kept: Mask) -> "Data":
        """Return the data of some of the tasks."""
        return Data(*(each[kept] for each in vars(self).values()))


@dataclass(frozen=True)
class Study:
    """Scores of methods on tasks, and the properties of the tasks."""

    table: ScoreTable
    """Scores; NaN for a method and task without scores of all planned seeds."""
    properties: Data
    """Properties of all tasks; its ``logs`` mean nothing."""

    @cached_property
    def logs(self) -> LogScores:
        """Logarithms of the scores."""
        return LogScores.of(self.table)

    def data(self, method: str, reference: str) -> Data:
        """Return the log ratios of two methods on the tasks on which both have scores."""
        if not {method, reference} <= set(self.table.methods):
            return replace(
                self.properties.part(np.zeros(len(self.table.tasks), bool)),
                logs=np.empty(0),
            )
        found = self.logs.paired(method, reference)
        return replace(
            self.properties.part(np.isin(self.table.tasks, found.tasks)),
            logs=found.logs,
        )

    def compare(self, method: str, reference: str) -> Comparison | None:
        """Return the board's comparison of two methods; None if a method has no scores."""
        known = {method, reference} <= set(self.table.methods)
        return self.logs.compare(method, reference) if known else None


def over_tasks(found: Data) -> Estimate:
    """Return the mean log ratio over tasks."""
    return mean(found.logs)


def between_kinds(found: Data) -> Estimate:
    """Return the p-value that the ratio is the same on all kinds of data."""
    return Estimate(p=unequal_means(found.logs, found.kinds))


def by_samples(found: Data) -> Estimate:
    """Return the slope of log ratios per tenfold training samples, between tasks of one
    kind of data.
    """
    kinds = np.unique(found.kinds)
    design = np.column_stack(
        [*(found.kinds == kind for kind in kinds), np.log10(found.samples)]
    ).astype(float)
    return estimate(found.logs, design, np.eye(len(kinds) + 1)[-1])


def by_distance(found: Data) -> Estimate:
    """Return the slope of log ratios per doubling of the distance, between tasks of one
    modality of the body.
    """
    return by_doubling(found, found.distances)


def by_doubling(found: Data, values: Floats) -> Estimate:
    """Return the slope of log ratios per doubling of ``values`` [T], between tasks of
    one modality of the body.
    """
    known = found.part(values > 0)
    sides = [side for side in (known.images, ~known.images) if side.any()]
    design = np.column_stack([*sides, np.log2(values[values > 0])]).astype(float)
    return estimate(known.logs, design, np.eye(len(sides) + 1)[-1])


@dataclass(frozen=True)
class Question:
    """A planned question about the ratio of two methods, which is below 1 if the first
    one is better.
    """

    text: str
    sides: tuple[str, str]
    fit: Callable[[Data], Estimate] = over_tasks
    """Function that returns what is tested: a log ratio, a slope, or only a p-value."""
    unit: str = ""
    """What a slope is per."""
    grows: bool = False
    """Whether the answer is Yes if the slope is positive."""


QUESTIONS = (
    Question("Does aligning help?", ("orca", REFERENCE)),
    Question("Does guarded aligning help?", ("orca_guarded", REFERENCE)),
    Question("Does pretraining help?", (REFERENCE, "scratch")),
    Question(
        "Does the transformer beat the best baseline of its task?", (REFERENCE, BEST)
    ),
    Question(
        "Is it better to train the whole body than the head alone?",
        (REFERENCE, "linear_probe"),
    ),
    Question(
        "Is it better to train the whole body than its norms?", (REFERENCE, "fpt")
    ),
    Question(
        "Does pretraining help more on some kinds of data?",
        (REFERENCE, "scratch"),
        between_kinds,
    ),
    Question(
        "Does the transformer do better on some kinds of data?",
        (REFERENCE, BEST),
        between_kinds,
    ),
    Question(
        "Does pretraining help more with fewer samples?",
        (REFERENCE, "scratch"),
        by_samples,
        "with ten times the training samples of the same kind",
        grows=True,
    ),
    Question(
        "Does aligning help more where data are farther from the body's own?",
        ("orca", REFERENCE),
        by_distance,
        "at twice the distance from the same body",
    ),
)
"""All questions that are asked of the scores of the benchmark's own sweep."""


@dataclass(frozen=True)
class Answer:
    """The answer to a planned question."""

    question: Question
    data: Data
    found: Estimate
    adjusted_p: float = math.nan
    family: int = len(QUESTIONS)
    """Number of questions that p-values are adjusted for."""

    @property
    def clear(self) -> bool:
        """Whether the answer is Yes or No at the 5 % level over all questions."""
        return self.adjusted_p <= LEVEL

    @property
    def level(self) -> float:
        """Level of the question's own test at its place in Holm's order."""
        known = 0 < self.found.p <= self.adjusted_p < 1
        return LEVEL * self.found.p / self.adjusted_p if known else LEVEL / self.family

    @property
    def verdict(self) -> str:
        """The answer in words."""
        if math.isnan(self.found.p):
            return "Unknown"
        if not self.clear:
            return "Not clear"
        wanted = (
            self.found.value > 0 if self.question.grows else not self.found.value > 0
        )
        return "Yes" if wanted else "No, the reverse"

    @property
    def sentence(self) -> str:
        """The answer with its numbers, and what would overturn it."""
        num = len(self.data.logs)
        method, reference = self.question.sides
        where = f"over {num} task{'' if num == 1 else 's'}"
        if math.isnan(self.found.p):
            return f"**{self.question.text} Unknown**: {num} tasks do not suffice."
        numbers = ratio_text(self.found)
        if self.question.fit is between_kinds:
            means = sorted(
                (part.mean(), f"{kind}, {len(part)}")
                for kind, part in self._groups.items()
            )
            numbers = " to ".join(
                f"{math.exp(value):.2f} ({of})" for value, of in (means[0], means[-1])
            )
        unit = f" times as large {self.question.unit}," if self.question.unit else ""
        ratio = f"the ratio of `{method}` to `{reference}` is {numbers}{unit} {where}"
        answer = (
            f"**{self.question.text} {self.verdict}**: {ratio}, adjusted p ="
            f" {self.adjusted_p:.2g}"
        )
        return f"{answer}; {self.overturned}."

    @property
    def _groups(self) -> dict[str, Floats]:
        return groups(self.data.logs, self.data.kinds)

    @property
    def overturned(self) -> str:
        """What would overturn the answer."""
        if self.clear:
            return self._fragile()
        if math.isnan(self.found.value):
            factor = math.exp(room(self.data.logs, self.data.kinds))
            return f"two kinds may still differ by a factor of up to {factor:.2g}"
        more = self._more_tasks()
        tasks = (
            f"about {more:,.0f}"
            if math.isfinite(more)
            else f"only more than {MAX_MORE:,}"
        )
        return f"{tasks} more such tasks would make it clear if the ratio stays"

    def _more_tasks(self) -> float:
        """Return about how many more tasks a test at `level` needs to find this value
        with a probability of 80 %.
        """
        num = len(self.data.logs)
        size = abs(self.found.value)
        for more in range(1, MAX_MORE + 1 if size > 1e-9 else 1):
            error = self.found.error * math.sqrt(num / (num + more))
            if size >= error * needed(
                self.found.freedom * (num + more) / num, self.level
            ):
                return more
        return math.inf

    def _fragile(self) -> str:
        """Return which tasks, if they were left out, would make a clear answer unclear."""
        kept = np.ones(len(self.data.logs), dtype=bool)
        removed = 0
        while removed < len(kept) - MIN_TASKS and self._still_clear(kept):
            kept[max(np.flatnonzero(kept), key=partial(self._p_without, kept))] = False
            removed += 1
        if not removed:
            return f"it rests on {len(kept)} tasks, of which none can be left out"
        most = (
            "the task that speaks"
            if removed == 1
            else f"the {removed} tasks that speak"
        )
        if self._still_clear(kept):
            return f"it stays clear without {most} most for it"
        kinds = [
            str(kind)
            for kind in np.unique(self.data.kinds)
            if not self._still_clear(self.data.kinds != kind)
        ]
        return f"not clear without {most} most for it" + "".join(
            f", or without the {kind}" for kind in kinds
        )

    def _still_clear(self, kept: Mask) -> bool:
        return self.question.fit(self.data.part(kept)).p <= self.level

    def _p_without(self, kept: Mask, task: int) -> float:
        without = kept.copy()
        without[task] = False
        p = self.question.fit(self.data.part(without)).p
        return 1.0 if math.isnan(p) else p


def answers(study: Study, questions: Sequence[Question] = QUESTIONS) -> list[Answer]:
    """Return the answers to a family of questions; one that cannot be answered yet
    counts in the family as well.
    """
    found = []
    for question in questions:
        data = study.data(*question.sides)
        found.append(Answer(question, data, question.fit(data), family=len(questions)))
    adjusted = holm(np.nan_to_num([each.found.p for each in found], nan=1.0))
    return [
        replace(each, adjusted_p=float(p))
        for each, p in zip(found, adjusted, strict=True)
    ]


def ratio_text(found: Estimate) -> str:
    """Return a ratio with its interval, as far as there are any."""
    low, high = found.ends
    ends = "" if math.isnan(low) else f" [{math.exp(low):.2f}, {math.exp(high):.2f}]"
    return "–" if math.isnan(found.value) else f"{math.exp(found.value):.2f}{ends}"
