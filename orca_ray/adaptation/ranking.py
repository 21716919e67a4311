"""Ranks of configurations that were judged on different folds, by their scores."""

from collections.abc import Sequence
from statistics import mean

from orca_ray.adaptation.configuration import Configuration


def rank_configurations(
    configurations: Sequence[Configuration],
) -> list[Configuration]:
    """Return the configurations that have a score, the best first.

    A fold may be harder than another one. Therefore each configuration is compared with
    one reference on the folds that both have. The reference is the configuration with
    the most folds, and the best of these if there are several.

    A configuration is left out if a trial on a fold has no score, or if others make it
    redundant.
    """
    scored = [each for each in configurations if has_only_scores(each)]
    remaining = [
        each
        for each in scored
        if not any(other.makes_redundant(each) for other in scored)
    ]
    if not remaining:
        return []
    reference = find_reference(remaining)
    return sorted(remaining, key=lambda each: mean_difference(each, reference))


def has_only_scores(configuration: Configuration) -> bool:
    """Return whether at least one fold has ended, and each of them with a score."""
    folds = {fold for fold in configuration.records if fold >= 0}
    return bool(folds) and configuration.scores.keys() == folds


def find_reference(configurations: Sequence[Configuration]) -> Configuration:
    """Return the configuration with the most folds; of several, the best one."""
    return min(
        configurations,
        key=lambda each: (-len(each.scores), mean(each.scores.values())),
    )


def mean_difference(configuration: Configuration, reference: Configuration) -> float:
    """Return the mean score minus that of ``reference``, on the folds that both have.

    Without a common fold, the means over all folds are compared.
    """
    scores = configuration.scores
    others = reference.scores
    common = scores.keys() & others.keys()
    if not common:
        return mean(scores.values()) - mean(others.values())
    return mean(scores[fold] - others[fold] for fold in common)
