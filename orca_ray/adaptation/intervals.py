"""Scores of predictions for samples that the predicting model has not seen, with their
intervals.
"""

import contextlib
import math
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
LEVEL = 0.9
"""Number of bootstrap resamples of the samples, and the level of all intervals."""
_MOST_VALUES = 10**6
_LEAST_DRAWN = 100
_LEAST_UNITS = 20
"""Largest number of predicted values of a resample, unless it has as few samples or
groups as the other numbers.
"""
_LEAST = 1e-7


@dataclass(frozen=True)
class Interval:
    """A score, or a ratio of scores, with its interval of the level `LEVEL`."""

    value: float
    low: float
    high: float

    def widened(self, factor: float) -> "Interval":
        """Return the interval with both arms ``factor`` times as long; no end becomes
        negative by it.
        """
        low = max(self.value - factor * (self.value - self.low), min(self.low, 0.0))
        return Interval(self.value, low, self.value + factor * (self.high - self.value))

    def pooled(self, unbiased: "Interval") -> "Interval":
        """Return the mean of both, weighted by inverse variance.

        What both differ by beyond their noise is a bias of this one, and counts as
        noise of it (as the variance between studies does in a meta-analysis:
        DerSimonian and Laird, 1986).
        """
        both = (self, unbiased)
        squares = np.square(
            [(each.value - each.low, each.high - each.value) for each in both]
        )
        if not squares.any(
            axis=1
        ).all():  # all resamples of one are equal, and say nothing of its noise
            return self if squares[0].any() else unbiased
        gap = norm.ppf(0.5 + LEVEL / 2) * (unbiased.value - self.value)
        squares[0] += max(0.0, gap**2 - squares.max(axis=1).sum())
        shares = 1 / squares.max(axis=1)
        shares /= shares.sum()
        value = float(shares @ [each.value for each in both])
        below, above = np.sqrt(shares**2 @ squares)
        return Interval(
            value,
            max(value - float(below), min(self.low, unbiased.low, 0.0)),
            value + float(above),
        )

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Judged:
    """Out-of-fold predictions of several candidates for the same samples, and the
    targets of these samples.
    """

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
        chosen = predictions[rows]
        return get_metric(self.metric).compute(
            chosen if self.average == "values" else self._logits(chosen), self.y[rows]
        )

    def interval(
        self,
        *predictions: Array,
        of: Callable[..., float] = lambda score: score,
        level: float = LEVEL,
        measure: Callable[..., float] | None = None,
    ) -> Interval:
        """Return a function ``of`` of the scores of predictions, by ``measure``, with
        its bootstrap interval.

        A single group says nothing of others: a comparison is unbounded then, and a
            score is that of its samples.
        """
        size = len(self.y)
        measure = measure or self.score
        losses = (
            [self.losses(each) for each in predictions]
            if measure == self.score
            else [None]
        )
        if all(each is not None for each in losses):
            predictions = tuple(each for each in losses if each is not None)
            measure = self._mean
        value = of(*map(measure, predictions))
        if (
            self.metric == "error" and len(predictions) == 1
        ):  # no resample of samples without an error has one
            count = self._independent(predictions[0])
            low, high = beta.ppf(
                [0.5 - level / 2, 0.5 + level / 2],
                value * count + 0.5,
                (1 - value) * count + 0.5,
            )
            return Interval(value, min(float(low), value), max(float(high), value))
        members = None
        if self.units is not None:
            _, counts = np.unique(self.units, return_counts=True)
            members = np.split(
                np.argsort(self.units, kind="stable"), np.cumsum(counts)[:-1]
            )
            if len(members) == 1 and len(predictions) > 1:
                return Interval(value, -math.inf, math.inf)
            members = members if len(members) > 1 else None
        total = size if members is None else len(members)
        # Of many samples, a part is drawn, whose scores spread more.
        count = _MOST_VALUES * total // max(1, predictions[0][:1].size * size)
        count = min(
            total, max(_LEAST_DRAWN if members is None else _LEAST_UNITS, count)
        )
        random = np.random.default_rng(0)
        found = []
        for _ in range(RESAMPLES):
            drawn = random.integers(total, size=count)
            drawn = (
                drawn
                if members is None
                else np.concatenate([members[unit] for unit in drawn])
            )
            with contextlib.suppress(UserError, ValueError):  # a class may be absent
                found.append(of(*(measure(each, drawn) for each in predictions)))
        low, high = np.percentile(
            found or [value], [50 * (1 - level), 50 * (1 + level)]
        )
        if count < total:
            low, high = (
                value + math.sqrt(count / total) * (end - np.mean(found))
                for end in (low, high)
            )
        made = Interval(value, min(float(low), value), max(float(high), value))
        if members is None:
            return made
        # Resamples of few groups spread too little, and their own spread is hardly
        # known (Student).
        few = (
            math.sqrt(total / (total - 1))
            * t.ppf(0.5 + level / 2, total - 1)
            / norm.ppf(0.5 + level / 2)
        )
        return made.widened(float(few))

    def _independent(self, losses: Array) -> float:
        """Return the number of independent samples whose mean loss would have the
        standard error of this one.

        That is the number of samples divided by the design effect (Kish, 1965, "Survey
        sampling"). One more error that a group shares is added: without any error, the
        number of samples is that of groups.
        """
        size = len(losses)
        if self.units is None:
            return size
        over = losses - losses.mean()
        sums = np.bincount(np.unique(self.units, return_inverse=True)[1], over)
        between = float(sums @ sums) * len(sums) / max(1, len(sums) - 1)
        return min(size, size * (float(over @ over) + 1) / (between + size / len(sums)))

    def losses(self, predictions: Array) -> Array | None:
        """Return the loss of each sample [N] of predictions [N, ...]; None if the
        metric is no mean of losses.
        """
        losses = get_metric(self.metric).losses
        return None if losses is None else losses(predictions, self.y)

    def _mean(self, losses: Array, rows: Array | slice = slice(None)) -> float:
        mean = float(losses[rows].mean())
        return math.sqrt(mean) if get_metric(self.metric).root else mean

    def log_loss(
        self,
        chances: Array,
        rows: Array | slice = slice(None),
        temperature: float = 1.0,
    ) -> float:
        """Return the mean log loss of probabilities [N, ...] on ``rows``; 0 if the
        predictions are no probabilities.
        """
        if self.average == "values" or (self.y < 0).any():  # targets that are ignored
            return 0.0
        logits = self._logits(chances[rows]) / temperature
        y = self.y[rows]
        if self.average == "softmax":
            return float(-log_softmax(logits, axis=1)[np.arange(len(logits)), y].mean())
        return float(
            np.mean(np.logaddexp(0, logits) - logits * y.reshape(logits.shape))
        )

    def _logits(self, predictions: Array) -> Array:
        clipped = np.clip(predictions, _LEAST, 1 - _LEAST)
        return np.asarray(
            np.log(clipped) if self.average == "softmax" else logit(clipped)
        )
