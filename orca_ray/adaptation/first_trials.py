"""The first trial of each method: its number of epochs, and when it starts."""

from dataclasses import dataclass

from orca_ray.adaptation.configuration import (
    COST_OF_PROBE,
    EPOCHS,
    START,
    Configuration,
)
from orca_ray.adaptation.expected_seconds import LEAST_SECONDS, busy_seconds
from orca_ray.adaptation.situation import Situation

SHARE_OF_FIRST = 0.08
"""Share of all time that the first trial of a method is expected to take at most."""
FACTOR_OF_NETWORKS = 2
"""Factor of `SHARE_OF_FIRST` for networks without a body if there is an outer test, as
one of these networks may get all the remaining time later.
"""
SHARE_OF_BODIES = 0.2
"""Share of all time that the first trials of methods that adapt a body are expected to
take at most before the leader gets further folds.
"""
LEAST_SHARE_OF_EPOCHS = 0.75
"""Share of the usual epochs below which the first trial of a method that adapts a body
would show too little; the leader then gets further folds first.
"""
LEAST_EPOCHS = 2
"""Least number of epochs of a first trial that is shortened."""


@dataclass(frozen=True)
class FirstTrials:
    """Configurations of the methods that have no trial yet."""

    prompt: list[Configuration]
    """Configurations whose first trials run before all other trials."""
    late: list[Configuration]
    """Configurations whose first trials wait for the folds of the leader."""


def shorten_first_trial(usual: Configuration, situation: Situation) -> Configuration:
    """Return a method's first configuration, with fewer epochs if it takes long."""
    recipe = usual.recipe
    share_of_time = SHARE_OF_FIRST
    if situation.folds.has_outer_test and not recipe.uses_body:
        share_of_time = FACTOR_OF_NETWORKS * SHARE_OF_FIRST
    seconds = max(situation.seconds_or_estimate(usual), LEAST_SECONDS)
    share_of_epochs = share_of_time * situation.time.total / seconds
    has_epochs = EPOCHS in usual.first
    costs_little = recipe.relative_cost <= COST_OF_PROBE
    if not has_epochs or costs_little or share_of_epochs >= 1:
        return usual
    epochs = max(LEAST_EPOCHS, int(share_of_epochs * usual.epochs))
    return Configuration(usual.method, usual.values_of_schedule(epochs), usual.first)


def sort_first_trials(situation: Situation) -> FirstTrials:
    """Return the first trials that have not started, as prompt and late ones.

    The first trial of a method that adapts a body is late if first trials of such
    methods have taken their share of the time, or if it would have very few epochs.
    """
    seconds_left = SHARE_OF_BODIES * situation.time.total
    seconds_left -= _seconds_of_bodies(situation)
    prompt = list[Configuration]()
    late = list[Configuration]()
    for configuration in situation.configurations:
        if configuration.has_started:
            continue
        first = shorten_first_trial(configuration, situation)
        is_late = False
        if first.recipe.uses_body:
            seconds_left -= situation.seconds(first)
            has_few_epochs = first.epochs < LEAST_SHARE_OF_EPOCHS * first.usual_epochs
            is_late = seconds_left < 0 or has_few_epochs
        if is_late:
            late.append(first)
        else:
            prompt.append(first)
    return FirstTrials(prompt, late)


def _seconds_of_bodies(situation: Situation) -> float:
    """Return the seconds that the first trials of methods that adapt a body took."""
    seconds = dict[str, float]()
    for configuration in situation.configurations:
        is_comparable = configuration.records and START not in configuration.values
        if is_comparable and configuration.recipe.uses_body:
            first_record = next(iter(configuration.records.values()))
            seconds.setdefault(configuration.method, busy_seconds(first_record))
    return sum(seconds.values())
