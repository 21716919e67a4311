"""The policy of a search on own data: which trial starts next, within a given time.

Each method starts with its first configuration on the first fold, the cheapest method
first. The first trial has fewer epochs if it would take much of the time. If it would
have very few epochs, or if methods with bodies have taken their share of the time, it
starts only after the folds of the leader.

Then, methods that are fitted without gradients get further folds, epochs and
configurations where these are cheap. Trials whose last epochs still improved get a
longer schedule. Configurations that are not measurably worse than the leader get
further folds. The best methods get further configurations, which Optuna suggests.
`RULES` lists these rules.

No trial starts if its expected duration exceeds the remaining time. A continued
training (`last_training`) uses the last of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.expected_seconds import busy_seconds
from orca_ray.adaptation.first_trials import FirstTrials, sort_first_trials
from orca_ray.adaptation.last_training import SAFETY, find_last_training, seconds_kept
from orca_ray.adaptation.longer_schedules import extend_schedules
from orca_ray.adaptation.situation import Situation
from orca_ray.adaptation.standings import SLACK, SLACK_OF_VARIANT
from orca_ray.adaptation.variants import suggest_variants

MOST_VARIANTS = 40
"""Largest number of suggested configurations of a method."""
EARLY_VARIANTS = 3
"""Largest number of suggested configurations of a fitted method before slower trials.
"""
FIRST_VARIANTS = 2
"""Largest number of suggested configurations of a method before the folds of the last
division of the data.
"""
SHARE_OF_CHEAP_FOLDS = 0.05
"""Largest share of the remaining time for which the missing folds of a configuration
are called cheap.

The first configuration of a method gets cheap folds although it is behind. That of a
fitted method gets them early.
"""
SHARE_OF_EARLY_SEARCH = 0.15
"""Largest share of the remaining time for the early search of fitted methods."""


@dataclass(frozen=True)
class Proposal:
    """A trial that may start: a configuration, and a fold or `ALL`."""

    configuration: Configuration
    fold: int


class Options:
    """The configurations that rules choose from, in one situation."""

    def __init__(self, situation: Situation) -> None:
        """Store the situation; the properties are computed when a rule needs them."""
        self.situation = situation

    @cached_property
    def first_trials(self) -> FirstTrials:
        """First trials that have not started."""
        return sort_first_trials(self.situation)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """Configurations with a score, the best first.

        With an outer test, configurations whose training was continued are left out:
        more folds of the short schedule show nothing about the continued training.
        """
        ranked = self.situation.ranked
        if not self.situation.folds.has_outer_test:
            return ranked
        origins = self.situation.started_from
        return [each for each in ranked if origins.isdisjoint(each.trial_keys)]

    @cached_property
    def contenders(self) -> list[Configuration]:
        """Configurations that are not measurably behind the best one.

        The best one is first. First configurations whose missing folds are cheap are
        contenders, too. Among configurations that differ only in their epochs, the
        longest is kept.
        """
        competitive = [each for each in self.ranked if self._is_contender(each)]
        return [
            each
            for each in competitive
            if not any(other.extends(each) for other in competitive)
        ]

    def _is_contender(self, configuration: Configuration) -> bool:
        if not configuration.is_variant and self.has_cheap_folds(configuration):
            return True
        slack = SLACK_OF_VARIANT if configuration.is_variant else SLACK
        return not self.situation.is_behind(configuration, self.ranked[0], slack)

    @cached_property
    def fitted_contenders(self) -> list[Configuration]:
        """The contenders of methods that are fitted without gradients."""
        return [each for each in self.contenders if each.recipe.fitted]

    @cached_property
    def seconds_of_early_search(self) -> float:
        """Seconds left for the early search of fitted methods."""
        seconds = SHARE_OF_EARLY_SEARCH * self.situation.time.seconds_left
        return seconds - sum(
            busy_seconds(record)
            for configuration in self.situation.configurations
            if configuration.is_suggested and configuration.recipe.fitted
            for record in configuration.records.values()
        )

    @cached_property
    def longer_schedules(self) -> list[Configuration]:
        """Configurations with more epochs that are expected to pay."""
        return list(extend_schedules(self.ranked, self.situation))

    def has_cheap_folds(self, configuration: Configuration) -> bool:
        """Return whether a configuration lacks folds, and these are cheap.

        Only folds of the first division are considered. They are cheap if they take at
        most `SHARE_OF_CHEAP_FOLDS` of the remaining time.
        """
        situation = self.situation
        num_missing = situation.folds.division_size - len(configuration.scores)
        if num_missing <= 0:
            return False
        seconds = num_missing * situation.seconds(configuration)
        most_seconds = SHARE_OF_CHEAP_FOLDS * situation.time.seconds_left
        return 0 < seconds <= most_seconds


def start_methods(options: Options) -> Iterator[Proposal]:
    """Propose the first configurations that are to start at once, on the first fold.

    They are of methods that have no trial yet; methods whose first trial is late wait
    (see `FirstTrials`).
    """
    for configuration in options.first_trials.prompt:
        yield Proposal(configuration, options.situation.folds.first)


def complete_cheap_folds(options: Options) -> Iterator[Proposal]:
    """Propose cheap missing folds of fitted methods, which may change the leader."""
    for proposal in _missing_folds(options, options.situation.folds.divisions[0]):
        configuration = proposal.configuration
        if configuration.recipe.fitted and options.has_cheap_folds(configuration):
            yield proposal


def extend_cheap_schedules(options: Options) -> Iterator[Proposal]:
    """Propose longer schedules of fitted methods in the time of the early search."""
    situation = options.situation
    for configuration in options.longer_schedules:
        seconds = situation.seconds(configuration)
        if configuration.recipe.fitted and seconds < options.seconds_of_early_search:
            yield Proposal(configuration, situation.folds.first)


def search_cheap_methods(options: Options) -> Iterator[Proposal]:
    """Propose variants of fitted methods within the time of the early search.

    A method is varied only if it has a score on each fold of a division, and if a
    variant could be tried on all these folds within the time of the early search.
    """
    situation = options.situation
    num_folds = situation.folds.division_size
    bases = [
        configuration
        for configuration in options.fitted_contenders
        if len(configuration.scores) >= num_folds
        and situation.seconds(configuration) * num_folds
        < options.seconds_of_early_search
    ]
    for variant in suggest_variants(bases, situation, EARLY_VARIANTS):
        yield Proposal(variant, situation.folds.first)


def extend_improving_schedules(options: Options) -> Iterator[Proposal]:
    """Propose longer schedules of configurations whose last epochs improved."""
    for configuration in options.longer_schedules:
        yield Proposal(configuration, options.situation.folds.first)


def complete_divisions(options: Options) -> Iterator[Proposal]:
    """Propose trials division by division.

    In each division of the data, the folds that contenders lack come first, then the
    late first trials, then variants of contenders with few of them.
    """
    situation = options.situation
    divisions = situation.folds.divisions
    for division in divisions:
        yield from _missing_folds(options, division)
        for configuration in options.first_trials.late:
            yield Proposal(configuration, situation.folds.first)
        is_last = division is divisions[-1]
        most_variants = MOST_VARIANTS if is_last else FIRST_VARIANTS
        for variant in suggest_variants(options.contenders, situation, most_variants):
            yield Proposal(variant, situation.folds.first)


def complete_all_folds(options: Options) -> Iterator[Proposal]:
    """Propose the missing folds of all first configurations.

    These include configurations that are measurably worse than the best one.

    A configuration may be behind by chance on the folds that it has.
    """
    for configuration in options.ranked:
        if configuration.is_variant:
            continue
        for fold in options.situation.folds.numbers:
            if configuration.lacks(fold):
                yield Proposal(configuration, fold)


RULES: Sequence[Callable[[Options], Iterator[Proposal]]] = (
    start_methods,
    complete_cheap_folds,
    extend_cheap_schedules,
    search_cheap_methods,
    extend_improving_schedules,
    complete_divisions,
    complete_all_folds,
)
"""The rules, the most urgent first. Each rule yields its proposals, if it applies."""


def propose_trials(situation: Situation) -> list[Proposal]:
    """Return the trials that may start, the most urgent first."""
    options = Options(situation)
    return [proposal for rule in RULES for proposal in rule(options)]


def choose_trial(
    situation: Situation, proposals: Sequence[Proposal]
) -> Proposal | None:
    """Return the trial that starts next; None if none can start now.

    It is the most urgent of ``proposals`` that leaves enough time for the continued
    training. If there is none, it is the continued training.
    """
    time_left = situation.time.seconds_left
    last = find_last_training(situation)
    for proposal in proposals:
        configuration = proposal.configuration
        is_own_method = (
            last is not None and configuration.method == last.configuration.method
        )
        kept = seconds_kept(last, is_own_method=is_own_method)
        if SAFETY * situation.seconds(configuration) <= time_left - kept:
            return proposal
    if last is None and situation.is_idle:
        last = find_last_training(situation, is_idle=True)
    if last is None:
        return None
    return Proposal(last.configuration, last.samples)


def _missing_folds(options: Options, folds: Sequence[int]) -> Iterator[Proposal]:
    """Yield the trials of ``folds`` that contenders lack, the best contender first."""
    for configuration in options.contenders:
        for fold in folds:
            if configuration.lacks(fold):
                yield Proposal(configuration, fold)
