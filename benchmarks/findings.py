"""Questions about a study of many tasks, and their answers.

The questions of a study are one family: p-values are adjusted by Holm for all of them.
`benchmarks.planned` has the questions of each study. `benchmarks.findings_page` writes
the page of the answers; `benchmarks.findings_calibration` simulates studies and counts
false answers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.regression import (
    Estimate,
    estimate,
    groups,
    room,
    stratified_mean,
    unequal_means,
)
from benchmarks.searches import label
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.paired import (
    Comparison,
    LogRatios,
    LogScores,
    compare,
    holm,
)
from orca_ray.leaderboard.statistics.table import Floats, ScoreTable
from orca_ray.leaderboard.statistics.verdict import MAX_MORE, detectable_mean

Mask = NDArray[np.bool_]

MARGIN = 0.05
"""Largest share of the error by which two methods may differ and count as equal."""


def joined_name(method: str, part: str) -> str:
    """Return the name of a method in a part of a study, such as ``nft (150 steps)``.

    A part is another sweep, or another protocol, of the same methods and tasks.
    """
    return f"{method} ({part})"


class Sides(NamedTuple):
    """What is compared: the scores of two sides, or two ratios of them."""

    side: str
    """Name of a method or a search."""
    reference: str
    """Name of the method or search that ``side`` is divided by."""
    earlier: str = ""
    """Part of the study whose ratio of the same sides this ratio is divided by.

    See `joined_name`. The comparison is that of a ratio with 1 if this is empty.
    """

    @property
    def title(self) -> str:
        """The comparison in words, for a column of a table."""
        ratio = f"{label(self.side)} to {label(self.reference)}"
        return (
            f"{ratio}, divided by that after {self.earlier}" if self.earlier else ratio
        )


@dataclass(frozen=True)
class Data:
    """Log ratios [T] of tasks and properties [T] of these tasks."""

    logs: Floats
    kinds: NDArray[np.str_]
    """Kinds of data."""
    images: Mask
    """Whether the body is one for images."""
    samples: Floats
    """Numbers of training samples."""
    distances: Floats
    """Distances of embedded and source features before ``orca`` aligns.

    NaN where the distance is unknown.
    """
    centroids: Floats
    """Centroid gaps of these features; NaN where the gap is unknown.

    See `orca_ray.training.artefacts.kinds.gaps`.
    """
    distributions: Floats
    """Distribution gaps of these features; NaN where the gap is unknown."""

    def part(self, is_kept: Mask | slice) -> "Data":
        """Return the data of some of the tasks."""
        arrays = {name: values[is_kept] for name, values in vars(self).items()}
        return Data(**arrays)


@dataclass(frozen=True)
class Study:
    """Scores of methods on tasks, and the properties of the tasks."""

    table: ScoreTable
    """Scores; NaN for a method and task without scores of all planned seeds."""
    properties: Data
    """Properties of all tasks; its ``logs`` mean nothing."""

    searches: Mapping[str, Floats] = field(default_factory=dict)
    """Weights [T, M] of the methods in each search; see `benchmarks.searches`."""

    @cached_property
    def logs(self) -> LogScores:
        """Logarithms of the scores."""
        return LogScores.of(self.table)

    def weights_TM(self, side: str) -> Floats:
        """Return the weights of methods in a side: a method, or a search.

        They are NaN on a task where the side has no score.
        """
        if side in self.searches:
            return self.searches[side]
        is_side_M = np.array([method == side for method in self.table.methods])
        has_score_T = (self.table.num_seeds_TM * is_side_M).sum(axis=1) > 0
        return np.where(has_score_T[:, None], is_side_M, np.nan)

    def difference_TM(self, side: str, reference: str, earlier: str = "") -> Floats:
        """Return the weights of methods in the log ratio of two sides.

        With ``earlier``, the log ratio of this part of the study is subtracted; see
        `Sides`. Weights are NaN on a task where a side has no score.
        """
        weights_TM = self.weights_TM(side) - self.weights_TM(reference)
        if earlier:
            sides = (joined_name(name, earlier) for name in (side, reference))
            weights_TM = weights_TM - self.difference_TM(*sides)
        return weights_TM

    def ratios(self, side: str, reference: str, earlier: str = "") -> LogRatios:
        """Return the log ratios of two sides on the tasks where both have scores.

        With ``earlier``, they are the logarithms of ratios of ratios; see `Sides`.
        """
        weights_TM = self.difference_TM(side, reference, earlier)
        is_known_T = np.isfinite(weights_TM).all(axis=1)
        counts_TM = np.isfinite(weights_TM) & (weights_TM != 0)
        weights_TM = np.where(counts_TM, weights_TM, 0.0)
        logs = self.logs
        logs_T = (weights_TM * np.where(counts_TM, logs.means_TM, 0.0)).sum(axis=1)
        errors_TM = weights_TM * np.where(counts_TM, logs.errors_TM, 0.0)
        freedom_TM = np.where(counts_TM, logs.freedom_TM, np.inf)
        variances_T, freedom_T = logs.over_seeds(errors_TM**2, freedom_TM)
        tasks = [self.table.tasks[t] for t in np.flatnonzero(is_known_T)]
        errors_T = np.sqrt(variances_T[is_known_T])
        return LogRatios(tasks, logs_T[is_known_T], errors_T, freedom_T[is_known_T])

    def data(self, side: str, reference: str, earlier: str = "") -> Data:
        """Return the log ratios of `ratios` with the properties of their tasks."""
        ratios = self.ratios(side, reference, earlier)
        has_ratio = np.isin(self.table.tasks, ratios.tasks)
        return replace(self.properties.part(has_ratio), logs=ratios.logs)

    def compare(
        self, side: str, reference: str, earlier: str = ""
    ) -> Comparison | None:
        """Return the board's comparison of two sides, if there is a ratio."""
        ratios = self.ratios(side, reference, earlier)
        if not ratios.tasks:
            return None
        num_tasks = len(self.table.tasks)
        return compare(
            {"method": side}, {"method": reference}, ratios, planned=num_tasks
        )


def over_tasks(data: Data) -> Estimate:
    """Return the mean log ratio over tasks, which were drawn by kind of data."""
    return stratified_mean(data.logs, data.kinds)


def between_kinds(data: Data) -> Estimate:
    """Return the p-value that the ratio is the same on all kinds of data."""
    return Estimate(p=unequal_means(data.logs, data.kinds))


def by_samples(data: Data) -> Estimate:
    """Return the slope of log ratios per tenfold training samples.

    Tasks of one kind of data are compared.
    """
    kinds = [data.kinds == kind for kind in np.unique(data.kinds)]
    return _slope(data.logs, kinds, np.log10(data.samples))


def by_distance(data: Data) -> Estimate:
    """Return the slope of log ratios per doubling of the distance."""
    return by_doubling(data, data.distances)


def by_doubling(data: Data, values: Floats) -> Estimate:
    """Return the slope of log ratios per doubling of ``values`` [T].

    Tasks of one modality of the body are compared.
    """
    is_known = values > 0
    known = data.part(is_known)
    modalities = [mask for mask in (known.images, ~known.images) if mask.any()]
    return _slope(known.logs, modalities, np.log2(values[is_known]))


def _slope(logs: Floats, groups: Sequence[Mask], values: Floats) -> Estimate:
    """Return the slope of log ratios over ``values`` within groups of tasks."""
    design = np.column_stack([*groups, values]).astype(float)
    contrast = np.zeros(len(groups) + 1)
    contrast[-1] = 1.0
    return estimate(logs, design, contrast)


@dataclass(frozen=True)
class Question:
    """A planned question about the ratio of two sides: methods, or searches.

    The ratio is below 1 if the first side is better.
    """

    text: str
    sides: Sides
    fit: Callable[[Data], Estimate] = over_tasks
    """Function that returns what is tested: a log ratio, a slope, or only a p-value."""
    unit: str = ""
    """What a slope is per, or which two ratios a ratio of ratios compares."""
    grows: bool = False
    """Whether the answer is Yes if the slope, or the log ratio, is positive."""


@dataclass(frozen=True)
class Answer:
    """The answer to a planned question."""

    question: Question
    data: Data
    estimate: Estimate
    family: int
    """Number of questions that p-values are adjusted for."""
    adjusted_p: float = math.nan
    outside_p: float = math.nan
    """p-value that the two sides differ by at least `MARGIN`, if all tasks are asked.

    It is adjusted by Holm for all questions about all tasks, a family of its own.
    """

    @property
    def clear(self) -> bool:
        """Whether the answer is Yes or No at the 5 % level over all questions."""
        return self.adjusted_p <= LEVEL

    @property
    def is_unknown(self) -> bool:
        """Whether there are too few tasks for a test."""
        return math.isnan(self.estimate.p)

    @property
    def is_equal(self) -> bool:
        """Whether the sides are equal within `MARGIN`, at the 5 % level over all."""
        return not self.clear and self.outside_p <= LEVEL

    @property
    def level(self) -> float:
        """Level of the question's own test at its place in Holm's order."""
        p = self.estimate.p
        if 0 < p <= self.adjusted_p < 1:
            return LEVEL * p / self.adjusted_p
        return LEVEL / self.family

    @property
    def verdict(self) -> str:
        """The answer in words."""
        if self.is_unknown:
            return "Unknown"
        if self.is_equal:
            return f"No difference larger than {100 * MARGIN:.0f} %"
        if not self.clear:
            return "Not clear"
        is_positive = self.estimate.value > 0
        return "Yes" if is_positive == self.question.grows else "No, the reverse"

    @property
    def sentence(self) -> str:
        """The answer with its numbers, and what would overturn it."""
        num_tasks = len(self.data.logs)
        if self.is_unknown:
            return (
                f"**{self.question.text} Unknown**: {num_tasks} tasks do not suffice."
            )
        side, reference, _ = self.question.sides
        tasks = "1 task" if num_tasks == 1 else f"{num_tasks} tasks"
        return (
            f"**{self.question.text} {self.verdict}**: the ratio of {label(side)} to"
            f" {label(reference)} is {self.numbers} over {tasks}, adjusted p ="
            f" {self.adjusted_p:.2g}; {self.overturned}."
        )

    @property
    def numbers(self) -> str:
        """The ratio, the slope or the ratios of kinds in words."""
        numbers = ratio_text(self.estimate)
        if self.question.fit is between_kinds:
            numbers = self._extreme_kinds()
        if self.question.unit:
            numbers += f" times as large {self.question.unit},"
        return numbers

    def _extreme_kinds(self) -> str:
        """Return the lowest and the highest mean ratio of kinds of data."""
        means = sorted(
            (logs.mean(), f"{kind}, {len(logs)}") for kind, logs in self._groups.items()
        )
        lowest, highest = (
            f"{math.exp(log):.2f} ({label})" for log, label in (means[0], means[-1])
        )
        return f"{lowest} to {highest}"

    @property
    def _groups(self) -> dict[str, Floats]:
        """Log ratios by kind of data."""
        return groups(self.data.logs, self.data.kinds)

    @property
    def overturned(self) -> str:
        """What would change the answer, in words."""
        if self.clear:
            return self._fragile()
        if self.is_equal:
            return f"adjusted p = {self.outside_p:.2g} that it is beyond this margin"
        if math.isnan(self.estimate.value):
            factor = math.exp(room(self.data.logs, self.data.kinds))
            return f"two kinds may still differ by a factor of up to {factor:.2g}"
        more = self._more_tasks()
        if math.isfinite(more):
            tasks = f"about {more:,.0f}"
        else:
            tasks = f"only more than {MAX_MORE:,}"
        return f"{tasks} more such tasks would make it clear if the ratio stays"

    def _more_tasks(self) -> float:
        """Return about how many more tasks a test at `level` needs.

        They would find the observed value with a probability of 80 %. The number is
        infinity if `MAX_MORE` do not suffice.
        """
        num_tasks = len(self.data.logs)
        size = abs(self.estimate.value)
        if size <= 1e-9:
            return math.inf
        for more in range(1, MAX_MORE + 1):
            error = self.estimate.error * math.sqrt(num_tasks / (num_tasks + more))
            freedom = self.estimate.freedom * (num_tasks + more) / num_tasks
            if size >= error * detectable_mean(freedom, self.level):
                return more
        return math.inf

    def _fragile(self) -> str:
        """Return which tasks, if left out, would make a clear answer unclear."""
        kept = np.ones(len(self.data.logs), dtype=bool)
        num_removed = 0
        while num_removed < len(kept) - MIN_TASKS and self._stays_clear(kept):
            tasks = np.flatnonzero(kept)
            kept[max(tasks, key=partial(self._p_without, kept))] = False
            num_removed += 1
        if not num_removed:
            return f"it rests on {len(kept)} tasks, of which none can be left out"
        if num_removed == 1:
            most = "the task that speaks"
        else:
            most = f"the {num_removed} tasks that speak"
        if self._stays_clear(kept):
            return f"it stays clear without {most} most for it"
        kinds = [
            f", or without the {kind}"
            for kind in np.unique(self.data.kinds)
            if not self._stays_clear(self.data.kinds != kind)
        ]
        return f"not clear without {most} most for it{''.join(kinds)}"

    def _stays_clear(self, kept: Mask) -> bool:
        return self.question.fit(self.data.part(kept)).p <= self.level

    def _p_without(self, kept: Mask, task: int) -> float:
        without = kept.copy()
        without[task] = False
        return _known_p(self.question.fit(self.data.part(without)).p)


def answers(study: Study, questions: Sequence[Question]) -> list[Answer]:
    """Return the answers to a family of questions.

    A question that cannot be answered yet counts in the family as well. Differences and
    equalities are two families: of the statements of either, a false one is meant to be
    in at most 5 % of studies. No question can have a false one of both.
    """
    unadjusted = []
    for question in questions:
        data = study.data(*question.sides)
        unadjusted.append(
            Answer(question, data, question.fit(data), family=len(questions))
        )
    p = [_known_p(answer.estimate.p) for answer in unadjusted]
    # A question that is not about all tasks is none of the family of equalities.
    outside_p = [
        _known_p(answer.estimate.outside(math.log1p(MARGIN)))
        if answer.question.fit is over_tasks
        else math.nan
        for answer in unadjusted
    ]
    adjusted_p = holm(np.array(p))
    adjusted_outside_p = holm(np.array(outside_p))
    return [
        replace(answer, adjusted_p=float(difference), outside_p=float(equality))
        for answer, difference, equality in zip(
            unadjusted, adjusted_p, adjusted_outside_p, strict=True
        )
    ]


def _known_p(p: float) -> float:
    """Return a p-value, 1 if it is unknown."""
    return 1.0 if math.isnan(p) else p


def ratio_text(estimate: Estimate) -> str:
    """Return a ratio with its interval, as far as there are any."""
    if math.isnan(estimate.value):
        return "–"
    ratio = f"{math.exp(estimate.value):.2f}"
    low, high = estimate.ends
    if math.isnan(low):
        return ratio
    return f"{ratio} [{math.exp(low):.2f}, {math.exp(high):.2f}]"
