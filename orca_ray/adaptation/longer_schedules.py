"""Longer schedules of configurations whose last epochs still improved."""

from collections.abc import Iterator, Sequence

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.expected_seconds import LEAST_SECONDS
from orca_ray.adaptation.last_training import (
    FEW_FOLDS,
    SAFETY,
    find_last_training,
    seconds_kept,
)
from orca_ray.adaptation.situation import Situation
from orca_ray.adaptation.standings import (
    MOST_LONGER,
    SLACK,
    slack_of_longer_schedule,
)

LEAST_LONGER = 1.5
"""Least factor of the epochs of a longer schedule."""
SHARE_OF_LONGER = 0.65
"""Share of the remaining time that a longer schedule may take, unless three folds of it
must fit.
"""


def extend_schedules(
    ranked: Sequence[Configuration], situation: Situation
) -> Iterator[Configuration]:
    """Yield longer schedules of configurations that still improved.

    ``ranked`` are configurations, the best first.

    Configurations other than the leader must leave time for the folds that the leader
    lacks (see `_seconds_of_few_folds`).
    """
    if not ranked:
        return
    leader = ranked[0]
    seconds_of_folds = _seconds_of_few_folds(leader, situation)
    last = find_last_training(situation)
    seconds_left = situation.time.seconds_left
    for configuration in ranked:
        is_own_method = configuration.method == leader.method
        spare_seconds = seconds_left - seconds_kept(last, is_own_method=is_own_method)
        time_left = seconds_left
        if configuration is not leader:
            time_left -= seconds_of_folds
        share = _share_of_longer_schedule(configuration, leader, situation)
        most_seconds = min(share * time_left, spare_seconds)
        seconds = SAFETY * max(situation.seconds(configuration), LEAST_SECONDS)
        factor = min(MOST_LONGER, most_seconds / seconds)
        if factor >= LEAST_LONGER and _pays_with_more_epochs(
            configuration, leader, factor, situation
        ):
            values = configuration.values_of_schedule(
                int(factor * configuration.epochs)
            )
            yield Configuration(
                configuration.method,
                values,
                configuration.first,
                configuration.is_suggested,
            )


def _seconds_of_few_folds(leader: Configuration, situation: Situation) -> float:
    """Return the expected seconds until the leader has `FEW_FOLDS` folds.

    Folds that do not fit into the remaining time are not counted. 0 if the leader's
    method is fitted without gradients.
    """
    if leader.recipe.fitted:
        return 0.0
    seconds_of_fold = SAFETY * max(situation.seconds(leader), LEAST_SECONDS)
    num_wanted = min(FEW_FOLDS, situation.folds.division_size)
    num_missing = max(0, num_wanted - len(leader.scores))
    num_fitting = max(0, situation.time.seconds_left) // seconds_of_fold
    return seconds_of_fold * min(num_missing, num_fitting)


def _share_of_longer_schedule(
    configuration: Configuration, leader: Configuration, situation: Situation
) -> float:
    """Return the share of the remaining time that one longer training may take.

    With an outer test it is 1 / `FEW_FOLDS`, so that as many folds fit into the time.
    Otherwise, and for a method whose first trial was shortened, it is
    `SHARE_OF_LONGER`: only a schedule of the usual length shows how good a method is.
    """
    folds = situation.folds
    is_shortened = (
        configuration is not leader
        and configuration.epochs < configuration.usual_epochs
    )
    folds_follow = folds.has_outer_test and folds.division_size >= FEW_FOLDS
    return 1 / FEW_FOLDS if folds_follow and not is_shortened else SHARE_OF_LONGER


def _pays_with_more_epochs(
    configuration: Configuration,
    leader: Configuration,
    factor: float,
    situation: Situation,
) -> bool:
    """Return whether a configuration may reach the leader with more epochs.

    ``factor`` is the factor of its epochs. The configuration must have improved up to
    its last epochs, have a score above 0, and have no longer schedule yet.

    A probe that was extended once gets no extra slack, because more epochs do not
    change its features.
    """
    has_error = any(score != 0 for score in configuration.scores.values())
    if not has_error or not configuration.still_improves:
        return False
    if situation.has_longer_schedule(configuration):
        return False
    was_extended = any(configuration.extends(each) for each in situation.configurations)
    slack = slack_of_longer_schedule(factor)
    if configuration.is_probe and was_extended:
        slack = SLACK
    return not situation.is_behind(configuration, leader, slack)
