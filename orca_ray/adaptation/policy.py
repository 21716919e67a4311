"""The policy of a search on own data: which trial starts next, within a given time.

Each method starts with its first configuration on the first fold, the cheapest method
first, with fewer epochs if it would take much of the time; with very few epochs, or
where bodies have taken their share, only after the leaders. Then fitted methods get
further folds, epochs and configurations where these are cheap; trials whose last epochs
still improved get a longer schedule; configurations that are not measurably worse than
the leader get further folds; and the best methods get further configurations, which
Optuna suggests. `RULES` lists these rules. No trial starts whose expected duration
exceeds the time that is left. A training on (`last_training`) uses the last of the
time.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from orca_ray.adaptation.configuration import ALL, Configuration, changed_values
from orca_ray.adaptation.expected_seconds import busy_seconds
from orca_ray.adaptation.first_trials import (
    LEAST_SECONDS,
    FirstTrials,
    sort_first_trials,
)
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
    SLACK_OF_VARIANT,
    slack_of_longer_schedule,
)
from orca_ray.sweep.search.sampler import suggest

MOST_VARIANTS = 40
"""Largest number of suggested configurations of a method."""
EARLY_VARIANTS = 3
"""The same for fitted methods before trials that take longer."""
FIRST_VARIANTS = 2
"""The same before second divisions of the folds."""
MOST_REPEATED = 10
"""Largest number of suggestions until one differs from all configurations."""
LEAST_LONGER = 1.5
"""Least factor of the epochs of a longer schedule."""
SHARE_OF_LONGER = 0.65
"""Share of the time that is left which a longer schedule may take, if three folds of it
need not follow.
"""
SHARE_OF_CHEAP_FOLDS = 0.05
"""Largest share of the time that is left for the missing folds of a configuration that
is cheap.

A first configuration gets cheap folds although it is behind; one of a fitted method
gets them before all else.
"""
SHARE_OF_EARLY_SEARCH = 0.15
"""Largest share of the time that is left for the early search of fitted methods."""


@dataclass(frozen=True)
class Proposal:
    """A trial that may start: a configuration, and a fold or `ALL`."""

    configuration: Configuration
    fold: int


class Options:
    """The configurations that rules choose from, in one situation."""

    def __init__(self, situation: Situation) -> None:
        """Store the situation; everything else is computed when a rule asks."""
        self.situation = situation

    @cached_property
    def first_trials(self) -> FirstTrials:
        """First trials that have not started."""
        return sort_first_trials(self.situation)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """Configurations with a score, the best first.

        With an outer test, those are left out whose model has trained on: folds of the
        short schedule tell nothing of it.
        """
        ranked = self.situation.ranked
        if not self.situation.folds.has_outer_test:
            return ranked
        origins = self.situation.started_from
        return [each for each in ranked if origins.isdisjoint(each.trial_keys)]

    @cached_property
    def contenders(self) -> list[Configuration]:
        """Configurations that are not measurably behind, or whose folds are cheap, the
        best first; of equal ones, the one with the longest schedule.
        """
        alive = [each for each in self.ranked if self._is_contender(each)]
        return [
            each for each in alive if not any(other.extends(each) for other in alive)
        ]

    def _is_contender(self, configuration: Configuration) -> bool:
        if not configuration.is_variant and self.has_cheap_folds(configuration):
            return True
        slack = SLACK_OF_VARIANT if configuration.is_variant else SLACK
        return not self.situation.is_behind(configuration, self.ranked[0], slack)

    @cached_property
    def fitted_contenders(self) -> list[Configuration]:
        """The contenders of methods that are fitted in closed form."""
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
        """Return whether a configuration lacks folds of the first division, and they
        take little of the time that is left.
        """
        situation = self.situation
        num_missing = situation.folds.division_size - len(configuration.scores)
        if num_missing <= 0:
            return False
        seconds = num_missing * situation.seconds(configuration)
        most_seconds = SHARE_OF_CHEAP_FOLDS * situation.time.seconds_left
        return 0 < seconds <= most_seconds


def start_methods(options: Options) -> Iterator[Proposal]:
    """A method has no trial yet: its first configuration runs on the first fold."""
    for configuration in options.first_trials.prompt:
        yield Proposal(configuration, options.situation.folds.first)


def complete_cheap_folds(options: Options) -> Iterator[Proposal]:
    """The missing folds of a fitted method are cheap: the leader may change by them."""
    for proposal in _missing_folds(options, options.situation.folds.divisions[0]):
        configuration = proposal.configuration
        if configuration.recipe.fitted and options.has_cheap_folds(configuration):
            yield proposal


def extend_cheap_schedules(options: Options) -> Iterator[Proposal]:
    """A longer schedule of a fitted method fits into the time of the early search."""
    situation = options.situation
    for configuration in options.longer_schedules:
        seconds = situation.seconds(configuration)
        if configuration.recipe.fitted and seconds < options.seconds_of_early_search:
            yield Proposal(configuration, situation.folds.first)


def search_cheap_methods(options: Options) -> Iterator[Proposal]:
    """A fitted method has all folds, and those of a further configuration fit into the
    time of the early search.
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
    yield from suggest_variants(bases, situation, EARLY_VARIANTS)


def extend_improving_schedules(options: Options) -> Iterator[Proposal]:
    """The last epochs of a configuration still improved, and more of them fit."""
    for configuration in options.longer_schedules:
        yield Proposal(configuration, options.situation.folds.first)


def complete_divisions(options: Options) -> Iterator[Proposal]:
    """Division by division: contenders lack folds; then first trials that waited; then
    contenders have few variants.
    """
    situation = options.situation
    divisions = situation.folds.divisions
    for division in divisions:
        yield from _missing_folds(options, division)
        for configuration in options.first_trials.late:
            yield Proposal(configuration, situation.folds.first)
        is_last = division is divisions[-1]
        most_variants = MOST_VARIANTS if is_last else FIRST_VARIANTS
        yield from suggest_variants(options.contenders, situation, most_variants)


def complete_all_folds(options: Options) -> Iterator[Proposal]:
    """A first configuration that is behind lacks folds: a fold may mislead."""
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
"""The rules, the most urgent first; each docstring says when the rule applies."""


def propose(situation: Situation) -> list[Proposal]:
    """Return the trials that may start, the most urgent first."""
    options = Options(situation)
    return [proposal for rule in RULES for proposal in rule(options)]


def choose(situation: Situation, proposals: Sequence[Proposal]) -> Proposal | None:
    """Return the most urgent of ``proposals`` that fits into the time that is left
    beside the training on, else the training on; None if no trial can start now.
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


def extend_schedules(
    ranked: Sequence[Configuration], situation: Situation
) -> Iterator[Configuration]:
    """Yield configurations with more epochs, of those in ``ranked``, the best first,
    that still improved in their last epochs.

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
    """Return the seconds of the folds that the leader lacks of `FEW_FOLDS`, of those
    that fit; 0 if the leader is of a fitted method.
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
    """Return whether a configuration still improved, has an error that can vanish, no
    longer schedule yet, and may reach the leader with ``factor`` times the epochs.

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


def suggest_variants(
    bases: Sequence[Configuration], situation: Situation, most_variants: int
) -> Iterator[Proposal]:
    """Yield configurations that Optuna suggests, on the first fold.

    Args:
        bases: configurations to vary, the best first; of each method, the first counts.
        situation: the state of the search.
        most_variants: largest number of suggested configurations of a method.

    Methods with few suggestions and a good score come first.
    """
    best_by_method = dict[str, Configuration]()
    for configuration in bases:
        best_by_method.setdefault(configuration.method, configuration)
    searched = [
        each for each in situation.configurations if each.records.keys() != {ALL}
    ]
    num_suggested = Counter(each.method for each in searched if each.is_suggested)
    places = {method: place for place, method in enumerate(best_by_method, start=1)}
    order = sorted(
        places, key=lambda method: (num_suggested[method] + 1) * places[method]
    )
    for method in order:
        has_space = bool(situation.plans[method].space)
        if not has_space or num_suggested[method] >= most_variants:
            continue
        tried = [each for each in searched if each.method == method]
        variant = _suggest_variant(best_by_method[method], tried, situation)
        if variant is not None:
            yield Proposal(variant, situation.folds.first)


def _suggest_variant(
    base: Configuration, tried: Sequence[Configuration], situation: Situation
) -> Configuration | None:
    """Return ``base`` with values that Optuna suggests and that were not ``tried``;
    None if every suggestion was.

    A space of few choices suggests the same values again; they then count twice.
    """
    plan = situation.plans[base.method]
    known = [(each.values, _first_score(each)) for each in tried]
    for _ in range(MOST_REPEATED):
        suggested = suggest(plan.first, plan.space, known)
        values = changed_values({**base.hyperparameters, **suggested}, plan.first)
        equal = next((each for each in tried if each.values == values), None)
        if equal is None:
            return Configuration(base.method, values, base.first, is_suggested=True)
        known.append((values, _first_score(equal)))
    return None


def _first_score(configuration: Configuration) -> float | None:
    """Return the score of the fold that ended first; None: no fold has a score."""
    return next(iter(configuration.scores.values()), None)
