"""The policy of a search on own data: which trial starts next, within a given time.

`RULES` are the rules of the policy, the most urgent first:

1. Each method starts on the first fold, in the order of the portfolio. The number of
   epochs is halved until the trial fits into the method's share of the time.
2. The leader and the methods without a body, which cost little, get twice the epochs
   while their best epoch is in the second half of their schedule.
3. The leader and the competitive methods without a body get their missing folds.
4. All methods get more epochs, folds and other configurations. The method whose next
   improvement is expected to cost least comes first (`progress`).
5. Methods whose first trial exceeds their share of the time start at the end.

A trial starts only if its expected duration and that of the leader's training on all
samples (`last_training`) fit into the remaining time. When nothing else fits, that
training starts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orca_ray.adaptation.configuration import ALL, EPOCHS, Configuration
from orca_ray.adaptation.last_training import SAFETY, find_last_training
from orca_ray.adaptation.progress import measure_progress
from orca_ray.adaptation.situation import Situation
from orca_ray.adaptation.variants import suggest_variant

EPOCHS_FACTOR = 2
"""Factor by which schedules get longer or shorter.

Source: the factor of the sample size in FLAML (`progress`).
"""
SHARE_OF_FIRST_TRIALS = 0.5
"""Share of the time for the first trials of all methods; the rest improves on them."""


@dataclass(frozen=True)
class Proposal:
    """A trial that may start: a configuration, and a fold or `ALL`."""

    configuration: Configuration
    fold: int


def start_methods(situation: Situation) -> Iterator[Proposal]:
    """Propose the first trials that fit into their share of the time."""
    for configuration in first_configurations(situation):
        if situation.seconds(configuration) <= share_of_time(configuration, situation):
            yield Proposal(configuration, situation.folds.first)


def lengthen_schedules(situation: Situation) -> Iterator[Proposal]:
    """Propose more epochs of the leader and of the methods without a body."""
    for configuration in leader_and_cheap_methods(situation):
        if situation.may_lengthen(configuration):
            yield lengthen(configuration, situation)


def complete_folds(situation: Situation) -> Iterator[Proposal]:
    """Propose missing folds of the leader and of competitive methods without a body."""
    for configuration in leader_and_cheap_methods(situation):
        if situation.is_competitive(configuration):
            yield from missing_folds(configuration, situation)


def improve_methods(situation: Situation) -> Iterator[Proposal]:
    """Propose the next trial of each method, the least expected cost first.

    A method that is not competitive gets no further folds.
    """
    costs = {
        method: expected_cost(method, situation) for method in situation.best_by_method
    }
    for method in sorted(costs, key=lambda method: costs[method]):
        configuration = situation.best_by_method[method]
        if situation.is_competitive(configuration):
            yield from lengthen_or_complete(configuration, situation)
        elif situation.may_lengthen(configuration):
            yield lengthen(configuration, situation)
        variant = suggest_variant(configuration, situation)
        if variant is not None:
            yield Proposal(variant, situation.folds.first)


def start_long_methods(situation: Situation) -> Iterator[Proposal]:
    """Propose the first trials that exceed their share of the time."""
    for configuration in first_configurations(situation):
        yield Proposal(configuration, situation.folds.first)


RULES: Sequence[Callable[[Situation], Iterator[Proposal]]] = (
    start_methods,
    lengthen_schedules,
    complete_folds,
    improve_methods,
    start_long_methods,
)
"""The rules, the most urgent first. Each rule yields its proposals, if it applies."""


def propose_trials(situation: Situation) -> list[Proposal]:
    """Return the trials that may start, the most urgent first."""
    return [proposal for rule in RULES for proposal in rule(situation)]


def choose_trial(
    situation: Situation, proposals: Sequence[Proposal]
) -> Proposal | None:
    """Return the trial that starts next; None if none can start now.

    It is the most urgent of ``proposals`` that leaves enough time for the last
    training. If there is none, it is the last training. The first trial of a search
    starts however little time there is.
    """
    for proposal in proposals:
        if fits(proposal, situation):
            return proposal
    if proposals and not situation.has_result:
        return proposals[0]
    return propose_last_training(situation)


def fits(proposal: Proposal, situation: Situation) -> bool:
    """Return whether a trial and the leader's last training fit into the remaining
    time.
    """
    seconds = SAFETY * situation.seconds(proposal.configuration)
    for leader in situation.ranked[:1]:
        last = find_last_training(leader, situation)
        if last is not None:
            seconds += last.seconds_kept
    return seconds <= situation.time.seconds_left


def propose_last_training(situation: Situation) -> Proposal | None:
    """Return the training of the leader on all samples that fits into the time."""
    if not situation.ranked:
        return None
    last = find_last_training(situation.ranked[0], situation)
    if last is None:
        return None
    configuration = last.in_time(situation.time.seconds_left)
    return None if configuration is None else Proposal(configuration, ALL)


def first_configurations(situation: Situation) -> Iterator[Configuration]:
    """Yield the first configuration of each method without a trial.

    Its epochs are halved until it fits into the method's share of the time.
    """
    for method in situation.untried_methods:
        configuration = Configuration(method, {}, situation.plans[method].first)
        seconds = share_of_time(configuration, situation)
        while EPOCHS in configuration.first and configuration.epochs > 1:
            if situation.seconds(configuration) <= seconds:
                break
            configuration = with_epochs(
                configuration, configuration.epochs // EPOCHS_FACTOR
            )
        yield configuration


def share_of_time(configuration: Configuration, situation: Situation) -> float:
    """Return the seconds that the first trial of a method may take.

    A trial of one epoch cannot be shortened: it may take the share of all first trials.
    Methods without epochs cannot be shortened either. They share what is left.
    """
    if EPOCHS in configuration.first and configuration.epochs == 1:
        return SHARE_OF_FIRST_TRIALS * situation.time.seconds_left
    if EPOCHS in configuration.first:
        return SHARE_OF_FIRST_TRIALS * situation.time.total / len(situation.plans)
    num_methods = sum(
        EPOCHS not in situation.plans[method].first
        for method in situation.untried_methods
    )
    return SHARE_OF_FIRST_TRIALS * situation.time.seconds_left / num_methods


def leader_and_cheap_methods(situation: Situation) -> Iterator[Configuration]:
    """Yield the leader, and the best configuration of each method without a body."""
    for configuration in situation.best_by_method.values():
        is_leader = configuration is situation.ranked[0]
        if is_leader or not configuration.recipe.uses_body:
            yield configuration


def lengthen_or_complete(
    configuration: Configuration, situation: Situation
) -> Iterator[Proposal]:
    """Propose more epochs if they are expected to help, and then the missing folds."""
    if situation.may_lengthen(configuration):
        yield lengthen(configuration, situation)
    yield from missing_folds(configuration, situation)


def missing_folds(
    configuration: Configuration, situation: Situation
) -> Iterator[Proposal]:
    """Propose the folds that a configuration lacks."""
    for fold in situation.folds.numbers:
        if configuration.lacks(fold):
            yield Proposal(configuration, fold)


def lengthen(configuration: Configuration, situation: Situation) -> Proposal:
    """Propose a configuration with twice the epochs."""
    longer = with_epochs(configuration, EPOCHS_FACTOR * configuration.epochs)
    return Proposal(longer, situation.folds.first)


def with_epochs(configuration: Configuration, epochs: int) -> Configuration:
    """Return a configuration with another number of epochs."""
    values = configuration.values_of_schedule(epochs)
    return Configuration(configuration.method, values, configuration.first)


def expected_cost(method: str, situation: Situation) -> float:
    """Return the seconds until a method is expected to lead, on the first fold.

    A method without a score there comes first: 0.
    """
    fold = situation.folds.first
    leader = situation.ranked[0]
    of_method = [each for each in situation.configurations if each.method == method]
    progress = measure_progress(of_method, fold)
    if progress is None or fold not in leader.scores:
        return 0.0
    best = situation.best_by_method[method]
    seconds_to_lengthen = float("inf")
    if situation.may_lengthen(best):
        seconds_to_lengthen = EPOCHS_FACTOR * situation.seconds(best)
    return progress.expected_cost(leader.scores[fold], seconds_to_lengthen)
