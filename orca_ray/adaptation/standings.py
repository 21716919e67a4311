"""Ranks of configurations that were judged on different folds.

A test says which of them are measurably worse than the leader.
"""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from orca_ray.adaptation.configuration import ALL, ALL_BUT_TEST, Configuration
from orca_ray.adaptation.levels import fit_levels

SLACK = 0.3
"""Relative distance to the leader on one or two folds up to which a configuration is
not behind.
"""
SLACK_OF_VARIANT = 0.05
"""`SLACK` for a configuration that differs from the first one of its method by more
than the schedule.
"""
STANDARD_ERRORS = 2.0
"""Number of standard errors of the paired difference to the leader from which a
configuration is behind.
"""
FOLDS_OF_ERROR = 3
"""Least number of common folds for which the standard error of the differences is used.
"""
MOST_LONGER = 6.0
"""Largest factor of the epochs of a longer schedule, and of a continued training where
there is an outer test.
"""


class Standing(NamedTuple):
    """Level of a configuration: its mean score, without the difficulty of its folds."""

    level: float
    configuration: Configuration


def rank_configurations(configurations: Sequence[Configuration]) -> list[Standing]:
    """Return the levels of configurations, the best first.

    A configuration is left out if a trial on a fold has no score, or if others make it
    redundant.
    """
    scored = [each for each in configurations if _has_only_scores(each)]
    remaining = [
        each
        for each in scored
        if not any(other.makes_redundant(each) for other in scored)
    ]
    levels = fit_levels([configuration.scores for configuration in remaining])
    standings = map(Standing, levels, remaining)
    return sorted(standings, key=lambda standing: standing.level)


def _has_only_scores(configuration: Configuration) -> bool:
    """Return whether at least one fold has ended, and each of them with a score."""
    folds = configuration.records.keys() - {ALL, ALL_BUT_TEST}
    return bool(folds) and configuration.scores.keys() == folds


def is_behind(
    configuration: Configuration,
    leader: Configuration,
    *,
    num_held: float,
    slack: float = SLACK,
) -> bool:
    """Return whether a configuration is measurably worse than the leader.

    They are compared on the folds that both have.

    Args:
        configuration: the configuration to judge.
        leader: the best configuration.
        num_held: number of validation samples of a fold, if scores are shares of these
            samples; else infinite.
        slack: relative difference up to which a configuration is not behind, used if
            few folds are common.
    """
    if configuration is leader:
        return False
    scores = configuration.scores
    leader_scores = leader.scores
    common_folds = scores.keys() & leader_scores.keys()
    if not common_folds:
        return False
    differences = [scores[fold] - leader_scores[fold] for fold in common_folds]
    if len(differences) >= FOLDS_OF_ERROR:
        error = stdev(differences) / math.sqrt(len(differences))
        return mean(differences) > STANDARD_ERRORS * error
    least_score = 1 / num_held
    leader_level = abs(mean(leader_scores[fold] for fold in common_folds))
    worse_level = max(
        leader_level, least_score, mean(scores[fold] for fold in common_folds)
    )
    # Variance of a mean share of errors; 0 if ``num_held`` is infinite.
    variance = min(worse_level, 1.0) / num_held / len(common_folds)
    noise = STANDARD_ERRORS * math.sqrt(variance)
    return mean(differences) > slack * max(leader_level, least_score) + noise


def slack_of_longer_schedule(factor: float) -> float:
    """Return the slack of a configuration whose epochs may be multiplied by ``factor``.

    A longer schedule is expected to divide a score by that factor at best.
    """
    return (1 + SLACK) * min(factor, MOST_LONGER) - 1
