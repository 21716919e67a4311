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
"""Share of the time that is left which a longer schedule may take, if three folds of it
need not follow.
"""


def extend_schedules(
    ranked: Sequence[Configuration], situation: Situation
) -> Iterator[Configuration]:
    """Yield longer schedules of configurations that still improved.

    ``ranked`` are configurations, the best first.

    Configurations other than the leader leave time for as many of the few folds of the
    leader, whose models are averaged, as fit.
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
    """Return the seconds of the folds that the leader lacks of `FEW_FOLDS`.

    Only folds that fit into the time count; none counts if the leader is of a fitted
    method.
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
    """Return the share of the time that is left which a longer schedule may take.

    With an outer test, folds follow it if its model does not train on. A first trial
    that was shortened may lead when it is as long as usual.
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
    """Return whether ``factor`` times the epochs may bring a configuration to the lead.

    It must have improved up to its last epochs, have an error that can vanish, and no
    longer schedule yet.

    More epochs do not change the features of a probe.
    """
    has_error = any(configuration.scores.values())
    if not has_error or not configuration.still_improves:
        return False
    if situation.has_longer_schedule(configuration):
        return False
    was_extended = any(configuration.extends(each) for each in situation.configurations)
    slack = slack_of_longer_schedule(factor)
    if configuration.is_probe and was_extended:
        slack = SLACK
    return not situation.is_behind(configuration, leader, slack)
