"""Limit of the hours that the trials of a sweep may take, on GPUs or CPU cores."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from orca_ray.results.record import Record
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.search import TrialSource


class HourLimit(NamedTuple):
    """Largest number of hours that all trials of a sweep may take together.

    Trials of earlier runs of the sweep count, and those that it took over from a
    variant of the sweep.
    """

    hours: float
    unit: Literal["GPU", "core"]
    """What an hour is of: half an hour of a trial on two GPUs is one GPU hour."""

    def __str__(self) -> str:
        return f"{self.hours:g} {self.unit} hours"

    def hours_of(self, used: Resources | Record, seconds: float) -> float:
        """Return the hours that a trial takes which runs for a number of seconds."""
        number = used.gpus if self.unit == "GPU" else used.cpus
        return (number or 0.0) * seconds / 3600


class HoursLeft:
    """Hours that are left for new trials, at one time in a sweep.

    The hours that running trials will still take are not left. Those of the confirm
    trials of every search that has tried a configuration are reserved for them, so that
    a search which has begun gets a test score.
    """

    def __init__(
        self,
        hours: float,
        searches: Iterable[TrialSource],
        trial_hours: Callable[[SearchPlan], float],
    ) -> None:
        """Reserve the hours of the confirm trials.

        Args:
            hours: hours of the limit that no trial has used or will use.
            searches: all searches of the sweep.
            trial_hours: returns the expected hours of one trial of a plan.
        """
        self._hours = hours
        self._trial_hours = trial_hours
        self.refused: list[TrialSource] = []
        """Searches whose next trial takes more hours than are left."""
        self._reserved = sum(
            search.num_to_confirm * trial_hours(plan)
            for search in searches
            for plan in search.plans
        )

    def cover(self, search: TrialSource, plan: SearchPlan) -> bool:
        """Return whether the next trial of a search may start.

        If not, add the search to `refused`.
        """
        is_covered = self._needed(search, plan) <= self._hours
        if not is_covered:
            self.refused.append(search)
        return is_covered

    def _needed(self, search: TrialSource, plan: SearchPlan) -> float:
        """Return the hours that must be left for the next trial of a search.

        They are those of the trial and, unless it is a confirm trial, the reserved
        ones. The first trial of a search brings its confirm trials with it.
        """
        trial = self._trial_hours(plan)
        if search.is_confirming:
            return trial
        if not search.num_to_confirm:
            trial *= 1 + plan.num_trials - plan.num_search
        return trial + self._reserved
