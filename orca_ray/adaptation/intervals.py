"""Scores of predictions for samples that no training has seen, with intervals."""

import contextlib
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logit
from scipy.stats import beta, norm, t

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.models.mixture import Average
from orca_ray.tasks.metrics import get_metric

RESAMPLES = 400
"""Number of bootstrap resamples of the samples."""
LEVEL = 0.9
"""Level of all intervals that users see."""
MOST_VALUES = 10**6
"""Largest number of predicted values in a resample. `LEAST_SAMPLES` and `LEAST_GROUPS`
take precedence.
"""
LEAST_SAMPLES = 100
"""Least number of samples in a resample, if the data have as many."""
LEAST_GROUPS = 20
"""Least number of groups in a resample, if the data have as many."""
LEAST_PROBABILITY = 1e-7
"""Probabilities are clipped to at least this number, so that logits are finite."""

Measure = Callable[..., float]
"""Function that returns the score of predictions, or of the given rows of them."""


@dataclass(frozen=True)
class Interval:
    """A score, or a ratio of scores, with its interval of the level `LEVEL`."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, low: float, high: float) -> "Interval":
        """Return the interval, extended to hold its value."""
        return cls(value, min(float(low), value), max(float(high), value))

    def widened(self, factor: float) -> "Interval":
        """Return the interval with both arms ``factor`` times as long.

        A lower end that was not negative does not become negative.
        """
        low = max(self.value - factor * (self.value - self.low), min(self.low, 0.0))
        return Interval(self.value, low, self.value + factor * (self.high - self.value))

    def pooled(self, unbiased: "Interval") -> "Interval":
        """Return the mean of this and an ``unbiased`` interval.

        Both are weighted by their inverse variance. If their values differ by more than
        their noise, the rest of the difference is a bias of this interval, and is added
        to its variance (like the variance between studies in a meta-analysis:
        DerSimonian and Laird, 1986).
        """
        both = (self, unbiased)
        # Lengths below and above each value [2, 2], which stand for standard errors.
        arms = [(each.value - each.low, each.high - each.value) for each in both]
        squares = np.square(arms)
        if not squares.any(axis=1).all():
            # An interval of length 0 comes from equal resamples: its noise is unknown.
            return self if squares[0].any() else unbiased
        gap = norm.ppf(0.5 + LEVEL / 2) * (unbiased.value - self.value)
        squares[0] += max(0.0, gap**2 - squares.max(axis=1).sum())
        shares = 1 / squares.max(axis=1)
        shares /= shares.sum()
        value = float(shares @ [each.value for each in both])
        below, above = np.sqrt(shares**2 @ squares)
        # The low end is negative only if that of an interval is.
        low = max(value - float(below), min(self.low, unbiased.low, 0.0))
        return Interval(value, low, value + float(above))

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def identity(score: float) -> float:
    """Return the score itself."""
    return score


@dataclass(frozen=True)
class Judged:
    """Out-of-fold predictions of several candidates for the same samples."""

    metric: str
    average: Average
    y: Array
    predictions: Sequence[Array]
    """Probabilities or numbers [N, ...] of each candidate."""
    num_folds: int
    units: Array | None = None
    """Group of each sample [N]; samples of one group are alike, so whole groups are
    resampled. None: no groups.
    """

    def score(self, predictions: Array, rows: Array | slice = slice(None)) -> float:
        """Return the metric of predictions [N, ...] on the samples ``rows``."""
        outputs = predictions[rows]
        if self.average != "values":
            outputs = self._logits(outputs)
        return get_metric(self.metric).compute(outputs, self.y[rows])

    def losses(self, predictions: Array) -> Array | None:
        """Return the loss of each sample [N] of predictions [N, ...].

        None if the metric is no mean of losses.
        """
        losses = get_metric(self.metric).losses
        return None if losses is None else losses(predictions, self.y)

    def log_loss(
        self,
        chances: Array,
        rows: Array | slice = slice(None),
        temperature: float = 1.0,
    ) -> float:
        """Return the mean log loss of probabilities [N, ...] on ``rows``.

        0 if the predictions are no probabilities, or if some targets are to be ignored.
        """
        has_ignored_targets = (self.y < 0).any()
        if self.average == "values" or has_ignored_targets:
            return 0.0
        logits = self._logits(chances[rows]) / temperature
        y = self.y[rows]
        if self.average == "softmax":
            log_chances = log_softmax(logits, axis=1)
            return float(-log_chances[np.arange(len(logits)), y].mean())
        return float(
            np.mean(np.logaddexp(0, logits) - logits * y.reshape(logits.shape))
        )

    def pessimistic_difference(self, predictions: Array, others: Array) -> float:
        """Return the score of ``predictions`` minus that of ``others``, plus one
        standard error.

        If the metric is the root of a mean loss, the losses are compared, not the
        roots.
        """
        losses = self._losses_of_all((predictions, others))
        if not losses:
            level = 2 * norm.cdf(1) - 1  # from one standard error below to one above
            difference = self.interval(
                predictions, others, of=operator.sub, level=level
            )
            return difference.high
        excess = losses[0] - losses[1]
        variance = float(np.var(excess)) / self._num_independent(excess)
        return float(excess.mean()) + math.sqrt(variance)

    def interval(
        self,
        *predictions: Array,
        of: Callable[..., float] = identity,
        level: float = LEVEL,
        measure: Measure | None = None,
    ) -> Interval:
        """Return ``of`` the scores of ``predictions``, with a bootstrap interval.

        ``of`` is a function that takes one score for each array of predictions, and
        ``measure`` the function that computes a score (None: `score`).

        A single group shows nothing about other groups. The interval of a comparison is
        unbounded then, and that of a score holds only for the samples of the group.
        """
        arrays: Sequence[Array] = predictions
        if measure is None:
            losses = self._losses_of_all(predictions)
            arrays = losses if losses else predictions
            measure = self._mean_of_losses if losses else self.score
        value = of(*map(measure, arrays))
        is_comparison = len(predictions) > 1
        if self.metric == "error" and not is_comparison:
            return self._interval_of_error(value, arrays[0], level)
        groups = self._groups()
        if len(groups) == 1:
            if is_comparison:
                return Interval(value, -math.inf, math.inf)
            groups = []  # single samples are resampled

        def measure_rows(rows: Array) -> float:
            return of(*(measure(each, rows) for each in arrays))

        num_values = arrays[0][:1].size * len(self.y)
        interval = self._bootstrap(value, measure_rows, groups, num_values, level)
        if not groups:
            return interval
        return interval.widened(_student_factor(len(groups), level))

    def _losses_of_all(self, predictions: Sequence[Array]) -> list[Array]:
        """Return the losses [N] of each of ``predictions``.

        [] if the metric is no mean of losses.
        """
        losses = [self.losses(each) for each in predictions]
        return [each for each in losses if each is not None]

    def _interval_of_error(self, value: float, losses: Array, level: float) -> Interval:
        """Return a share of errors with its interval by Jeffreys' prior.

        For samples without an error, the bootstrap interval would have length 0.
        """
        count = self._num_independent(losses)
        low, high = beta.ppf(
            [0.5 - level / 2, 0.5 + level / 2],
            value * count + 0.5,
            (1 - value) * count + 0.5,
        )
        return Interval.around(value, low, high)

    def _groups(self) -> list[Array]:
        """Return the rows of each group of samples; [] without groups."""
        if self.units is None:
            return []
        _, counts = np.unique(self.units, return_counts=True)
        rows = np.argsort(self.units, kind="stable")
        return np.split(rows, np.cumsum(counts)[:-1])

    def _bootstrap(
        self,
        value: float,
        measure_rows: Callable[[Array], float],
        groups: Sequence[Array],
        num_values: int,
        level: float,
    ) -> Interval:
        """Return ``value`` with the interval of its resamples.

        Args:
            value: measure of all samples.
            measure_rows: function from rows to their measure.
            groups: rows of each group, which are resampled as a whole; []: single
                samples are resampled.
            num_values: number of predicted values of all samples.
            level: level of the interval.
        """
        total = len(groups) if groups else len(self.y)
        least_drawn = LEAST_GROUPS if groups else LEAST_SAMPLES
        # With many samples, a resample holds a part of them, and its score varies more.
        count = MOST_VALUES * total // max(1, num_values)
        count = min(total, max(least_drawn, count))
        random = np.random.default_rng(0)
        measures = list[float]()
        for _ in range(RESAMPLES):
            drawn = random.integers(total, size=count)
            if groups:
                drawn = np.concatenate([groups[number] for number in drawn])
            with contextlib.suppress(UserError, ValueError):  # a class may be absent
                measures.append(measure_rows(drawn))
        percentiles = [50 * (1 - level), 50 * (1 + level)]
        low, high = np.percentile(measures or [value], percentiles)
        if count < total:
            shrinkage = math.sqrt(count / total)
            center = np.mean(measures)
            low = value + shrinkage * (low - center)
            high = value + shrinkage * (high - center)
        return Interval.around(value, low, high)

    def _num_independent(self, losses: Array) -> float:
        """Return the effective number of samples, given that groups are alike.

        The mean loss of so many independent samples would have the same standard error
        as the mean of ``losses`` [N].

        It is the number of samples divided by the design effect (Kish, 1965, "Survey
        sampling"). One error that a whole group shares is added to the losses: without
        any error, the effective number of samples is the number of groups.
        """
        size = len(losses)
        if self.units is None:
            return size
        over = losses - losses.mean()
        sums = np.bincount(np.unique(self.units, return_inverse=True)[1], over)
        num_groups = len(sums)
        between = float(sums @ sums) * num_groups / max(1, num_groups - 1)
        within = float(over @ over)
        # 1 and size / num_groups are the sums of squares of the added error.
        return min(size, size * (within + 1) / (between + size / num_groups))

    def _mean_of_losses(
        self, losses: Array, rows: Array | slice = slice(None)
    ) -> float:
        mean = float(losses[rows].mean())
        return math.sqrt(mean) if get_metric(self.metric).root else mean

    def _logits(self, predictions: Array) -> Array:
        clipped = np.clip(predictions, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logits = np.log(clipped) if self.average == "softmax" else logit(clipped)
        return np.asarray(logits)


def _student_factor(num_groups: int, level: float) -> float:
    """Return the factor by which the bootstrap interval of few groups is widened.

    Resamples of few groups vary too little, and the variance between few groups is
    itself uncertain (Student's t distribution).
    """
    quantile = 0.5 + level / 2
    correction = math.sqrt(num_groups / (num_groups - 1))
    student = t.ppf(quantile, num_groups - 1) / norm.ppf(quantile)
    return float(correction * student)
