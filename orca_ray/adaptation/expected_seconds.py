"""Expected durations of trials, from the measured durations of ended trials."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from statistics import mean

from orca_ray.adaptation.configuration import Configuration
from orca_ray.methods.registry import get_method
from orca_ray.results.record import Record
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs

MOST_EXTRA = 1.0
"""Largest number of seconds that a trial is expected to take beside its stages, while
only one trial has ended.
"""
UNKNOWN = 5.0
"""Expected seconds of a trial of a method without an estimate."""
MOST_RATIO = 4.0
"""Largest factor by which the measured durations of some methods change the expected
duration of a similar method.
"""
OVERLOOKED = 1.0
"""Seconds that are added to measured and to estimated durations before they are
compared, because estimates do not contain the constant costs of a small trial.
"""


def busy_seconds(record: Record) -> float:
    """Return the seconds of the stages of a trial."""
    return record.align_seconds + record.refine_seconds + record.evaluate_seconds


class ExpectedSeconds:
    """Expected durations of trials, given the trials that have ended so far."""

    def __init__(
        self,
        configurations: Sequence[Configuration],
        plans: Mapping[str, SearchPlan],
        estimates: Mapping[str, float],
    ) -> None:
        """Collect the trials that have ended.

        Args:
            configurations: all configurations, with the records of ended trials.
            plans: plan of each method, by name.
            estimates: seconds of a trial of the first configuration of each method,
                from a model of costs, by name.
        """
        self._plans = plans
        self._estimates = estimates
        self._ended = [
            (configuration, record)
            for configuration in configurations
            for fold, record in configuration.records.items()
            if fold >= 0
        ]

    def of(self, configuration: Configuration) -> float:
        """Return the expected duration of a trial."""
        if configuration.records:
            longest = max(map(busy_seconds, configuration.records.values()))
            return self._extra + longest
        method = configuration.method
        if method in self._rates:
            return self._extra + configuration.epochs * max(self._rates[method])
        share = configuration.epochs / num_epochs(self._plans[method].first)
        estimate = self.estimate(method) * share + OVERLOOKED
        return self._extra + estimate * self._ratio_of_similar_methods(method)

    def estimate(self, method: str) -> float:
        """Return the estimated duration of the first configuration of a method."""
        return self._estimates.get(method, UNKNOWN)

    @cached_property
    def _extra(self) -> float:
        """Return the seconds that a trial takes beside its stages.

        0 if no trial has ended yet. Else, they are the least of the ended trials. If
        only one has ended, they are at most `MOST_EXTRA`, because the first trial also
        imports libraries and reads the data.
        """
        if not self._ended:
            return 0.0
        extra = min(
            record.wall_seconds - busy_seconds(record) for _, record in self._ended
        )
        return min(extra, MOST_EXTRA) if len(self._ended) == 1 else extra

    @cached_property
    def _rates(self) -> dict[str, list[float]]:
        """Seconds of an epoch of each ended trial, by method."""
        rates = defaultdict[str, list[float]](list)
        for configuration, record in self._ended:
            rate = busy_seconds(record) / configuration.epochs
            rates[configuration.method].append(rate)
        return dict(rates)

    def _ratio_of_similar_methods(self, method: str) -> float:
        """Return the ratio of measured to estimated durations of similar methods.

        Estimates of similar methods are wrong by about the same factor.
        """
        ratios = [
            self._ratio(measured)
            for measured in self._rates
            if _kind_of(measured) == _kind_of(method)
        ]
        if not ratios:
            return 1.0
        return min(max(mean(ratios), 1 / MOST_RATIO), MOST_RATIO)

    def _ratio(self, method: str) -> float:
        usual_epochs = num_epochs(self._plans[method].first)
        measured = mean(self._rates[method]) * usual_epochs + OVERLOOKED
        return measured / (self.estimate(method) + OVERLOOKED)


def seconds_of_untried(
    tried: Collection[str],
    configurations: Sequence[Configuration],
    plans: Sequence[SearchPlan],
    estimate: Callable[[Sequence[SearchPlan]], Mapping[tuple[str, str], float]],
) -> dict[str, float]:
    """Return the expected seconds of a first trial of each method without a trial.

    Args:
        tried: names of the methods that have a trial.
        configurations: configurations with the records of ended trials.
        plans: plans of all methods.
        estimate: function from plans to seconds by (task, method).
    """
    if all(plan.method in tried for plan in plans):
        return {}
    estimates = {method: value for (_, method), value in estimate(plans).items()}
    by_method = {plan.method: plan for plan in plans}
    expected = ExpectedSeconds(configurations, by_method, estimates)
    return {
        method: expected.of(Configuration(method, {}, plan.first))
        for method, plan in by_method.items()
        if method not in tried
    }


def _kind_of(method: str) -> tuple[bool, bool]:
    """Return whether a method is fitted without gradients, and whether it uses a body.

    Methods for which both are equal are called similar.
    """
    recipe = get_method(method)
    return recipe.fitted, recipe.uses_body
