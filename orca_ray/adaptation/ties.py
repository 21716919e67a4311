"""The leading configurations of data with few samples.

With few samples, configurations within one standard error of the best one count as
equally good.
"""

import math
from collections.abc import Sequence

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.outputs import TrialOutputs
from orca_ray.data.rows import Array

FEW_SAMPLES = 100
"""Largest number of samples up to which configurations within one standard error of the
leader count as equally good.

If one of these is of a method that is usual for the kind of data, it becomes the
leader. Otherwise, the mean of all of these replaces the leader. On resamples of 36 and
60 series, this reduced the error to 0.87 and 0.96 of the leader's error.
"""
USUAL_METHODS = {"time series": ("minirocket_hydra", "minirocket", "hydra")}
"""Methods that are usual for a kind of data, the most usual first, by domain."""
LEAST_FOLDS_OF_USUAL = 2
"""Least number of folds with which a usual method may lead."""
MOST_CANDIDATES = 15
"""Largest number of configurations that an ensemble is selected from."""


def has_few_samples(outputs: TrialOutputs) -> bool:
    """Return whether the data have at most `FEW_SAMPLES` samples."""
    return outputs.num_known <= FEW_SAMPLES


def usual_methods(outputs: TrialOutputs) -> Sequence[str]:
    """Return the methods that are usual for the task's kind of data."""
    return USUAL_METHODS.get(outputs.task.domain, ())


def find_leaders(
    ranked: Sequence[Configuration], outputs: TrialOutputs
) -> list[Configuration]:
    """Return the best configuration and, with few samples, those that tie with it.

    ``ranked`` are configurations, the best first. Two configurations tie if they differ
    by at most one standard error.

    With few samples, a configuration needs all folds, or `LEAST_FOLDS_OF_USUAL` if its
    method is usual for the kind of data. If a configuration of a usual method is the
    best, or ties with the best on the folds of both, it is returned alone.
    """
    if not ranked or not has_few_samples(outputs):
        return list(ranked[:1])
    usual = _usual_configurations(ranked, outputs)
    all_folds = outputs.first_division
    complete = [
        configuration
        for configuration in ranked
        if all_folds <= configuration.records.keys() or configuration in usual
    ]
    rivals = complete if complete else list(ranked)
    best = rivals[0]
    for configuration in usual:
        if configuration is best or _is_as_good(configuration, best, outputs):
            return [configuration]
    return [best, *_tied_with(best, rivals, outputs)]


def _usual_configurations(
    ranked: Sequence[Configuration], outputs: TrialOutputs
) -> list[Configuration]:
    """Return the configurations of usual methods with enough folds to lead."""
    complete = [
        configuration
        for configuration in ranked
        if len(configuration.records) >= LEAST_FOLDS_OF_USUAL
    ]
    return [
        configuration
        for method in usual_methods(outputs)
        for configuration in complete
        if configuration.method == method
    ]


def _is_as_good(
    configuration: Configuration, best: Configuration, outputs: TrialOutputs
) -> bool:
    excess = excess_losses(best, [configuration], outputs)
    return bool(excess) and _is_within_noise(excess[0])


def _tied_with(
    best: Configuration, rivals: Sequence[Configuration], outputs: TrialOutputs
) -> list[Configuration]:
    """Return the configurations within one standard error of the best one.

    Those that make the same predictions are left out.
    """
    folds = outputs.first_division & best.records.keys()
    if not folds:
        folds = set(best.records)
    comparable = [each for each in rivals if folds <= each.records.keys()]
    others = [each for each in comparable[:MOST_CANDIDATES] if each is not best]
    # [] if the losses cannot be compared.
    excess = excess_losses(best, others, outputs)
    return [
        configuration
        for configuration, losses in zip(others, excess, strict=False)
        if losses.any() and _is_within_noise(losses)
    ]


def excess_losses(
    best: Configuration, others: Sequence[Configuration], outputs: TrialOutputs
) -> list[Array]:
    """Return the losses [N] of each of ``others`` minus those of ``best``.

    [] if the configurations have no common fold, or if the metric is no mean of losses.
    """
    folds = [set(configuration.records) for configuration in (best, *others)]
    if not set.intersection(*folds):
        return []
    judged = outputs.out_of_fold(best, *others)
    losses = [judged.losses(predictions) for predictions in judged.predictions]
    best_losses = losses[0]
    if best_losses is None:
        return []
    return [each - best_losses for each in losses[1:] if each is not None]


def _is_within_noise(excess: Array) -> bool:
    """Return whether the mean of ``excess`` [N] is at most its standard error."""
    return bool(excess.mean() <= excess.std(ddof=1) / math.sqrt(len(excess)))
