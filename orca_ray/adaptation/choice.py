"""Choice of a model of own data: one or more configurations with weights."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.intervals import Interval, Judged
from orca_ray.adaptation.outputs import Parts, TrialOutputs
from orca_ray.adaptation.ranking import find_reference
from orca_ray.data.rows import Array

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


def select_ensemble(
    configurations: Sequence[Configuration], outputs: TrialOutputs
) -> Choice | None:
    """Return the mean of the best configuration and of others that improve on it.

    None if no other one does. The first configuration of each other method joins, in
    the given order, if the error or the log loss falls on the folds that all have in
    common, and neither rises.

    Source: Caruana et al., 2004, "Ensemble selection from libraries of models", without
    replacement, in a fixed order.

    Args:
        configurations: configurations whose models may be used, the best first.
        outputs: outputs of their trials.
    """
    selected = [configurations[0]]
    tried = {configurations[0].method}
    for configuration in configurations[1:]:
        if configuration.method in tried:
            continue
        tried.add(configuration.method)
        if _improves(configuration, selected, outputs):
            selected.append(configuration)
    if len(selected) == 1:
        return None
    return mean_choice(outputs.out_of_fold(*selected), selected)


def _improves(
    configuration: Configuration,
    selected: Sequence[Configuration],
    outputs: TrialOutputs,
) -> bool:
    """Return whether a mean gets better if ``configuration`` joins it."""
    together = [*selected, configuration]
    if not set.intersection(*(set(each.records) for each in together)):
        return False
    judged = outputs.out_of_fold(*together)
    before = np.mean(judged.predictions[:-1], axis=0)
    after = np.mean(judged.predictions, axis=0)
    gain = judged.score(before) - judged.score(after)
    gain_of_log_loss = judged.log_loss(before) - judged.log_loss(after)
    return min(gain, gain_of_log_loss) >= 0 and max(gain, gain_of_log_loss) > 0


def rank_by_outputs(
    configurations: Sequence[Configuration], outputs: TrialOutputs
) -> list[Configuration]:
    """Return configurations, the best first.

    Each is compared with one reference (`find_reference`) on the samples of their
    common folds. One standard error of the difference is added, so that a lead on few
    samples must be large. Of equal configurations, the one with more folds comes first.
    """
    reference = find_reference(configurations)

    def pessimistic_difference(configuration: Configuration) -> float:
        if configuration is reference:
            return 0.0
        if configuration.records.keys().isdisjoint(reference.records):
            return math.inf
        judged = outputs.out_of_fold(configuration, reference)
        return judged.pessimistic_difference(*judged.predictions)

    by_folds = sorted(configurations, key=lambda each: -len(each.records))
    return sorted(by_folds, key=pessimistic_difference)


def find_usual(
    best: Configuration,
    others: Iterable[Configuration],
    methods: Sequence[str],
    outputs: TrialOutputs,
) -> Configuration:
    """Return the configuration of the most usual method that is as good as ``best``.

    A configuration is as good if ``best`` is better by less than one standard error of
    the difference, on the samples of their common folds.

    Source: the rule of one standard error of Breiman et al., 1984, "Classification and
    regression trees", section 3.4.3.

    Args:
        best: the best configuration.
        others: configurations that may take its place.
        methods: names of methods, the most usual first. Other methods are less usual.
        outputs: outputs of the trials of the configurations.
    """
    ranks = {method: number for number, method in enumerate(methods)}

    def is_as_good(configuration: Configuration) -> bool:
        if configuration.records.keys().isdisjoint(best.records):
            return False
        judged = outputs.out_of_fold(best, configuration)
        return judged.pessimistic_difference(*judged.predictions) >= 0

    as_good = [best, *filter(is_as_good, others)]
    return min(as_good, key=lambda each: ranks.get(each.method, len(ranks)))
