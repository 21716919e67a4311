"""Continued training: the training of one fold's model is continued on more samples.

It uses the last of the time of a search.

It is worth its time where few folds of a network fit into the time. Where three folds
fit, the mean of their models is better. With an outer test of classes or labels, the
training is first continued on all samples but the outer test, which judges the result,
and then on all samples. Without an outer test, it is continued on all samples at the
end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import entr

from orca_ray.adaptation.configuration import (
    ALL,
    ALL_BUT_TEST,
    START,
    Configuration,
    best_epoch_of,
)
from orca_ray.adaptation.first_trials import shorten_first_trial
from orca_ray.adaptation.situation import Situation
from orca_ray.adaptation.standings import MOST_LONGER, slack_of_longer_schedule
from orca_ray.results.record import Record

RATE = "refine.learning_rate"
FEW_FOLDS = 3
"""Number of folds from which the mean of their models stands for a configuration, and
the training of none of them is continued.
"""
LEAST_EPOCHS = 0.2
"""Least number of epochs of a continued training, relative to the epochs before."""
MOST_EPOCHS_OF_ALL = 2.0
"""Largest number of epochs of a training on all samples, relative to the epochs before.
"""
RATE_OF_ALL = 0.5
"""Factor of the learning rate in a training on all samples."""
SHARE_BUT_TEST = 2 / 3
"""Share of the remaining time for a training on all samples but the outer test."""
SHARE_OF_WAITING = 0.15
"""Largest share of the remaining time that a first trial may take before a continued
training gets the rest.
"""
SECONDS_OF_MODEL = 4.0
"""Seconds to load and store the model."""
SAFETY = 1.25
"""Factor of the expected duration of a trial. The product must fit into the remaining
time.
"""
SAFETY_OF_ALL = 1.15
"""`SAFETY` for a training on all samples, whose speed is known."""
SLACK_OF_LOSS = 0.01
"""Distance of the training loss to its least value, in nats, up to which a network has
converged, so that more folds help more than more epochs.
"""


@dataclass(frozen=True)
class Origin:
    """A configuration whose training is continued, and the samples to continue on."""

    configuration: Configuration
    samples: int
    """`ALL` or `ALL_BUT_TEST`."""


@dataclass(frozen=True)
class LastTraining:
    """A continued training that may start, and the time that is kept for it."""

    configuration: Configuration
    """The configuration with the hyper-parameters of the continued training."""
    samples: int
    """`ALL` or `ALL_BUT_TEST`."""
    seconds_of_method: float
    """Seconds that other trials of the same method must leave for it."""
    seconds_of_others: float
    """Seconds that trials of other methods must leave for it."""


def seconds_kept(last: LastTraining | None, *, is_own_method: bool) -> float:
    """Return the seconds that a trial must leave for the continued training ``last``.

    ``is_own_method``: whether the trial's method is that of ``last``.
    """
    if last is None:
        return 0.0
    return last.seconds_of_method if is_own_method else last.seconds_of_others


def find_last_training(
    situation: Situation, *, is_idle: bool = False
) -> LastTraining | None:
    """Return the continued training that should use the remaining time.

    None if there is no model to continue with, or if the time is too short.

    With an outer test, the training on all samples but the outer test leaves time for
    one on all samples, which continues it. If ``is_idle``, no other trial can start,
    and the continued training waits for no further fold.
    """
    time_left = situation.time.seconds_left
    origin = find_origin(situation, 0.0 if is_idle else time_left)
    if origin is None:
        return None
    before = origin.configuration
    first_fold = min(before.records)
    is_of_all = origin.samples == ALL
    if origin.samples == ALL_BUT_TEST:
        share_of_time = SHARE_BUT_TEST
        safety = 1.0
    else:
        share_of_time = 1.0
        safety = SAFETY_OF_ALL
    sizes = situation.folds.sizes
    # Number of samples, relative to the training that is continued.
    growth = sizes[origin.samples] / sizes.get(first_fold, 1.0)
    seconds_per_epoch = safety * situation.seconds(before) / before.epochs * growth
    epochs_that_fit = share_of_time * (time_left - SECONDS_OF_MODEL) / seconds_per_epoch
    if epochs_that_fit < max(1, LEAST_EPOCHS * before.epochs):
        return None
    factor = MOST_EPOCHS_OF_ALL if is_of_all else MOST_LONGER
    epochs = int(min(epochs_that_fit, factor * before.epochs))
    last = _continue_configuration(before, epochs, has_lower_rate=is_of_all)
    seconds_of_others = SECONDS_OF_MODEL + seconds_per_epoch * epochs / share_of_time
    seconds_of_method = seconds_of_others
    if not situation.folds.has_outer_test:
        seconds_of_method = SECONDS_OF_MODEL + seconds_per_epoch * before.epochs
    return LastTraining(last, origin.samples, seconds_of_method, seconds_of_others)


def _continue_configuration(
    before: Configuration, epochs: int, *, has_lower_rate: bool
) -> Configuration:
    """Return the configuration that continues the training of the first fold's model.

    ``before`` is the configuration of that model.
    """
    values = before.values_of_schedule(epochs)
    values[START] = before.records[min(before.records)].trial_key
    if has_lower_rate:
        usual_rate = float({**before.first, **values}[RATE])
        values[RATE] = RATE_OF_ALL * usual_rate
    return Configuration(before.method, values, before.first)


def find_origin(situation: Situation, time_left: float) -> Origin | None:
    """Return the configuration whose training is continued; None: there is none.

    If a configuration trained on all samples but the outer test, it is that one. Else,
    it is the best of `_find_candidates` for which a continued training is worth its
    time. ``time_left`` are the seconds left for more folds.
    """
    before_test = next(
        (each for each in situation.configurations if _has_trained_but_test(each)), None
    )
    if before_test is not None:
        if situation.started_from & before_test.trial_keys:
            return None
        return Origin(before_test, ALL)
    samples = ALL_BUT_TEST if situation.folds.has_outer_test else ALL
    for configuration in _find_candidates(situation):
        if may_continue_training(configuration, situation, time_left):
            return Origin(configuration, samples)
    return None


def _has_trained_but_test(configuration: Configuration) -> bool:
    return configuration.has_succeeded and ALL_BUT_TEST in configuration.records


def _find_candidates(situation: Situation) -> Sequence[Configuration]:
    """Return the leader, and networks that may be better after a continued training.

    The best one is first.

    There are such networks only if there is an outer test and the leader is a probe of
    features. Unlike a probe, a network still learns its features, and the model may
    become the mean of both.
    """
    ranked = situation.ranked
    if not ranked or not situation.folds.has_outer_test:
        return ranked[:1]
    if not may_start_only_continued_training(situation):
        return []
    leader = ranked[0]
    if not leader.is_probe:
        return [leader]
    networks = [
        configuration
        for configuration in ranked
        if not configuration.recipe.uses_body
        and not any(other.extends(configuration) for other in ranked)
        and _may_catch_up(configuration, leader, situation)
    ]
    return [leader, *networks]


def _may_catch_up(
    configuration: Configuration, leader: Configuration, situation: Situation
) -> bool:
    """Return whether a network may reach the leader with all the remaining time."""
    factor = situation.time.seconds_left / situation.seconds(configuration)
    slack = slack_of_longer_schedule(factor)
    return not situation.is_behind(configuration, leader, slack)


def may_continue_training(
    configuration: Configuration, situation: Situation, time_left: float
) -> bool:
    """Return whether to continue the training of the first fold on more samples.

    The configuration must be a network with few folds, which neither runs nor was
    continued before, and which gains more by more samples than by further folds.
    ``time_left`` are the seconds left for more folds; 0 if no further fold can start.
    """
    record = configuration.first_record
    if record is None or not _is_network_with_few_folds(configuration):
        return False
    if configuration.running or record.trial_key in situation.started_from:
        return False
    if situation.folds.has_outer_test:
        return _pays_with_outer_test(configuration, record, situation, time_left)
    return _pays_without_outer_test(configuration, record, situation, time_left)


def _is_network_with_few_folds(configuration: Configuration) -> bool:
    """Return whether a configuration is a network with less than `FEW_FOLDS` folds.

    Networks of methods that align do not count. With `FEW_FOLDS` folds, the mean of the
    folds' models is better than a continued training.
    """
    recipe = configuration.recipe
    is_network = not recipe.fitted and RATE in configuration.first
    has_few_folds = len(configuration.scores) < FEW_FOLDS
    return is_network and not recipe.aligns and has_few_folds


def _pays_with_outer_test(
    configuration: Configuration,
    record: Record,
    situation: Situation,
    time_left: float,
) -> bool:
    """Return whether training on all samples but the outer test is better than folds.

    With two folds, it is better, because their models have seen half of the samples.
    Else, the best epoch must have been in the second half, and the folds must not fit
    into the time: all folds with the usual epochs, or only `FEW_FOLDS` of them if the
    training loss has converged.
    """
    if configuration.is_suggested:
        return False
    num_folds = situation.folds.division_size
    if num_folds == 2 and not configuration.is_probe:
        return True
    has_converged = is_converged(configuration, record, situation.folds.num_classes)
    num_wanted = min(FEW_FOLDS, num_folds) if has_converged else num_folds
    seconds = _seconds_of_folds(configuration, num_wanted, situation)
    growth = max(1.0, configuration.usual_epochs / configuration.epochs)
    return _has_late_best_epoch(configuration, record) and growth * seconds > time_left


def _pays_without_outer_test(
    configuration: Configuration,
    record: Record,
    situation: Situation,
    time_left: float,
) -> bool:
    """Return whether training on all samples is better than folds.

    It is better if the score improved up to the end. It is also better if only one of
    several folds has ended, its best epoch was in the second half, and there is no time
    for `FEW_FOLDS` folds.
    """
    if configuration.still_improves:
        return True
    num_folds = situation.folds.division_size
    has_one_of_several = len(configuration.scores) == 1 < num_folds
    num_wanted = min(FEW_FOLDS, num_folds)
    seconds = _seconds_of_folds(configuration, num_wanted, situation)
    is_late = _has_late_best_epoch(configuration, record)
    return is_late and has_one_of_several and seconds > time_left


def _has_late_best_epoch(configuration: Configuration, record: Record) -> bool:
    """Return whether the best epoch was in the second half of the epochs."""
    return 2 * best_epoch_of(record) > configuration.epochs


def _seconds_of_folds(
    configuration: Configuration, num_wanted: int, situation: Situation
) -> float:
    """Return the expected seconds until ``num_wanted`` folds have ended.

    At least one more fold is counted.
    """
    num_missing = max(1, num_wanted - len(configuration.scores))
    return SAFETY * situation.seconds(configuration) * num_missing


def is_converged(
    configuration: Configuration, record: Record, num_classes: int
) -> bool:
    """Return whether the training loss can hardly fall any further.

    The loss must be within `SLACK_OF_LOSS` of the least one that is possible with the
    label smoothing.

    True where the loss does not show this: for a probe of features, for targets that
    are not classes, and for records of earlier versions without a training loss.
    """
    if record.training_loss is None or not num_classes or configuration.is_probe:
        return True
    smoothing = float(configuration.first.get("refine.label_smoothing", 0.0))
    # The least cross-entropy is the entropy of the smoothed labels; entr(p) = −p log p.
    share_of_others = smoothing / num_classes
    share_of_class = 1 - (num_classes - 1) * share_of_others
    least_loss = entr(share_of_class) + (num_classes - 1) * entr(share_of_others)
    return bool(record.training_loss < least_loss + SLACK_OF_LOSS)


def may_start_only_continued_training(situation: Situation) -> bool:
    """Return whether a search with an outer test may continue a training now.

    Such a search continues one training only. It does not start if it runs or has run
    before, if a network has `FEW_FOLDS` folds, or if a first trial runs or starts soon.
    """
    for configuration in situation.configurations:
        was_continued = START in configuration.values and (
            configuration.running or configuration.has_succeeded
        )
        is_network = not configuration.is_probe and not configuration.recipe.fitted
        has_mean = is_network and len(configuration.scores) >= FEW_FOLDS
        if was_continued or has_mean:
            return False
    return not has_first_trial_soon(situation)


def has_first_trial_soon(situation: Situation) -> bool:
    """Return whether a first trial runs, or a short first trial has not started yet.

    A short one takes at most `SHARE_OF_WAITING` of the remaining time. A first trial of
    a method that adapts a body counts only if it is a probe of features.
    """
    firsts = [each for each in situation.configurations if not each.records]
    if any(configuration.running for configuration in firsts):
        return True
    most_seconds = SHARE_OF_WAITING * situation.time.seconds_left
    for configuration in firsts:
        if configuration.recipe.uses_body and not configuration.is_probe:
            continue
        shortened = shorten_first_trial(configuration, situation)
        if SAFETY * situation.seconds(shortened) <= most_seconds:
            return True
    return False
