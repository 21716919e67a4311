"""Choice of a model of own data: one or more configurations with weights."""

import math
import operator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.intervals import Interval, Judged, Measure
from orca_ray.adaptation.outputs import Parts
from orca_ray.data.rows import Array

LEVEL_OF_BETTER = 0.8
"""Level of the two-sided interval of a difference.

Its lower end is above zero if the difference is positive in nine of ten resamples.
"""
LOGARITHMS_OF_TEMPERATURE = (-2.0, 2.0)
"""Range of the natural logarithm of a temperature."""
LEAST_GAIN_OF_TEMPERATURE = 0.01
"""Least relative decrease of the log loss for which a temperature is used."""


@dataclass(frozen=True)
class Choice:
    """The chosen model: configurations with weights, and the score of their mean."""

    parts: Parts
    score: Interval
    judged: Judged
    """The samples on which the score was computed."""
    predictions: Array
    """Out-of-fold predictions for these samples [N, ...]: probabilities, or numbers."""
    temperature: float = 1.0
    outer: bool = False
    """Whether these samples are those of the outer test.

    This is so if the training of the model, or of the first part of a mean, was
    continued on all samples but the outer test (and later perhaps on all samples).
    """

    @property
    def first(self) -> Configuration:
        """The configuration of the first part."""
        return self.parts[0][0]


def calibrate(judged: Judged, parts: Parts, mixed: Array) -> Choice:
    """Return the choice of ``parts``, with a temperature if that helps.

    ``mixed`` are the predictions of ``parts``. The temperature minimises the out-of-
    fold log loss, and is 1 unless it lowers that loss measurably.
    """
    choice = Choice(parts, judged.interval(mixed), judged, mixed)
    if judged.average == "values":
        return choice
    best = minimize_scalar(
        lambda log: judged.log_loss(mixed, temperature=math.exp(log)),
        bounds=LOGARITHMS_OF_TEMPERATURE,
        method="bounded",
    )
    if best.fun < (1 - LEAST_GAIN_OF_TEMPERATURE) * judged.log_loss(mixed):
        return replace(choice, temperature=math.exp(best.x))
    return choice


def mean_choice(judged: Judged, configurations: list[Configuration]) -> Choice:
    """Return the choice of the mean of ``configurations`` with equal weights.

    ``judged`` holds the predictions of the configurations in the same order.
    """
    share = 1 / len(configurations)
    parts = [(configuration, share) for configuration in configurations]
    return calibrate(judged, parts, np.mean(judged.predictions, axis=0))


def is_better(judged: Judged, predictions: Array, others: Array) -> bool:
    """Return whether predictions are better than ``others`` in nine of ten resamples.

    If the metric is the error and ``predictions`` have no more errors than ``others``,
    a lower log loss in nine of ten resamples suffices.
    """
    measures: list[Measure | None] = [None]  # None: the score by the metric
    is_error = judged.metric == "error"
    if is_error and judged.score(predictions) <= judged.score(others):
        measures.append(judged.log_loss)
    for measure in measures:
        # Lower is better, so the gain is the score of ``others`` minus the new score.
        gain = judged.interval(
            others,
            predictions,
            of=operator.sub,
            level=LEVEL_OF_BETTER,
            measure=measure,
        )
        if gain.low > 0:
            return True
    return False
