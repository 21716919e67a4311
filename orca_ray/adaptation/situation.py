"""Situation in which the policy of a search on own data decides."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from orca_ray.adaptation.configuration import START, Configuration
from orca_ray.adaptation.expected_seconds import ExpectedSeconds
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.standings import (
    SLACK,
    Standing,
    is_behind,
    rank_configurations,
)
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
    """All configurations; the one whose trial started last is the last one."""
    plans: Mapping[str, SearchPlan]
    """Plan of each method, by name."""
    folds: Folds
    time: TimeLimit
    estimates: Mapping[str, float]
    """Estimated seconds of a trial of each method's first configuration, by name."""

    @cached_property
    def _expected(self) -> ExpectedSeconds:
        return ExpectedSeconds(self.configurations, self.plans, self.estimates)

    @cached_property
    def standings(self) -> list[Standing]:
        """Levels of the configurations that have a score, the best first."""
        return rank_configurations(self.configurations)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """The configurations that have a score, the best first."""
        return [standing.configuration for standing in self.standings]

    @property
    def is_idle(self) -> bool:
        """Whether no trial runs."""
        return not any(configuration.running for configuration in self.configurations)

    @property
    def started_from(self) -> set[object]:
        """Keys of the trials whose models other trials continued to train.

        None is among them if a configuration started from no model.
        """
        return {
            configuration.values.get(START) for configuration in self.configurations
        }

    def seconds(self, configuration: Configuration) -> float:
        """Return the expected duration of a trial; 0 if no trial has ended yet."""
        return self._expected.of(configuration)

    def seconds_or_estimate(self, configuration: Configuration) -> float:
        """Return the expected duration of a trial, or its estimate.

        Before any trial has ended, it is the estimate for the method's first
        configuration.
        """
        if self._expected.is_empty:
            return self._expected.estimate(configuration.method)
        return self._expected.of(configuration)

    def is_behind(
        self,
        configuration: Configuration,
        leader: Configuration,
        slack: float = SLACK,
    ) -> bool:
        """Return whether a configuration is measurably worse than the leader."""
        return is_behind(
            configuration, leader, num_held=self.folds.num_held, slack=slack
        )

    def has_longer_schedule(self, configuration: Configuration) -> bool:
        """Return whether a configuration was tried with more epochs."""
        return any(other.extends(configuration) for other in self.configurations)
