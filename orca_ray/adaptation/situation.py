"""Situation in which the policy of a search on own data decides."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean

from orca_ray.adaptation.configuration import EPOCHS, Configuration
from orca_ray.adaptation.expected_seconds import ExpectedSeconds
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.ranking import rank_configurations
from orca_ray.sweep.plan.searches import SearchPlan


@dataclass(frozen=True)
class TimeLimit:
    """The deadline of a search, and the time until then."""

    deadline: float
    """Time of ``clock`` at which the last trial should have ended."""
    clock: Callable[[], float] = time.monotonic
    total: float = field(init=False)
    """Seconds from the start of the search to the deadline."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", self.seconds_left)

    @property
    def seconds_left(self) -> float:
        """Seconds from now to the deadline."""
        return self.deadline - self.clock()


@dataclass(frozen=True)
class Situation:
    """State of a search between two events; an event is the start or end of a trial.

    Only `TimeLimit.seconds_left` changes between two events.
    """

    configurations: Sequence[Configuration]
    """All configurations with a trial, in the order in which their last one started."""
    plans: Mapping[str, SearchPlan]
    """Plan of each method, by name; methods that were best on other data come first."""
    folds: Folds
    time: TimeLimit
    estimates: Mapping[str, float]
    """Estimated seconds of a trial of each method's first configuration, by name."""

    @cached_property
    def _expected(self) -> ExpectedSeconds:
        return ExpectedSeconds(self.configurations, self.plans, self.estimates)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """The configurations that have a score, the best first."""
        return rank_configurations(self.configurations)

    @cached_property
    def best_by_method(self) -> dict[str, Configuration]:
        """The best configuration of each method that has a score; the leader first."""
        best = dict[str, Configuration]()
        for configuration in self.ranked:
            best.setdefault(configuration.method, configuration)
        return best

    @property
    def untried_methods(self) -> list[str]:
        """Methods without a trial."""
        tried = {configuration.method for configuration in self.configurations}
        return [method for method in self.plans if method not in tried]

    @property
    def has_result(self) -> bool:
        """Whether a trial has ended, or will."""
        return any(each.running or each.has_succeeded for each in self.configurations)

    def seconds(self, configuration: Configuration) -> float:
        """Return the expected duration of a trial."""
        return self._expected.of(configuration)

    def may_lengthen(self, configuration: Configuration) -> bool:
        """Return whether more epochs are expected to help, and were not tried yet.

        They are if the best epoch is in the second half of the schedule.
        """
        has_error = any(configuration.scores.values())
        if not has_error or EPOCHS not in configuration.first:
            return False
        if not configuration.has_late_best_epoch:
            return False
        return not any(each.extends(configuration) for each in self.configurations)

    def is_competitive(self, configuration: Configuration) -> bool:
        """Return whether a mean score is no worse than the worst fold of the leader.

        Source: Bergman et al., 2024, "Don't waste your time: early stopping
        cross-validation".
        """
        leader = self.ranked[0]
        worst_score = max(leader.scores.values())
        return mean(configuration.scores.values()) <= worst_score
