"""How long the trials of each (task, method) take, from estimates and from those that have ended."""

from collections.abc import Mapping

from orca_ray.results.record import Record, Status
from orca_ray.sweep.search import Search


class Durations:
    """Durations of trials; the ratio of measured to estimated ones scales the estimates of the others."""

    def __init__(self, estimates: Mapping[tuple[str, str], float]) -> None:
        """Store relative costs of one trial by (task, method); only ratios matter, and a missing one counts as 1."""
        self._estimates = dict(estimates)
        self._seconds: dict[tuple[str, str], float] = {}
        self._ratio = 1.0

    @property
    def known(self) -> bool:
        """Whether a trial has completed."""
        return bool(self._seconds)

    def learn(self, record: Record) -> None:
        """Take note of the duration of a trial that completed."""
        if record.status is Status.COMPLETED:
            self._seconds[record.task, record.method] = record.wall_seconds
            ratios = [seconds / self._estimates.get(name, 1.0) for name, seconds in self._seconds.items()]
            self._ratio = sum(ratios) / len(ratios)

    def of_waiting(self, search: Search) -> float:
        """Return the expected seconds of the trials of a search that have not started, one after another."""
        return (search.num_remaining - search.num_running) * self._of_trial(search)

    def of_remaining(self, search: Search) -> float:
        """Return the expected seconds of the trials of a search that have not ended, one after another."""
        return search.num_remaining * self._of_trial(search)

    def _of_trial(self, search: Search) -> float:
        name = (search.plan.task, search.plan.method)
        return self._seconds.get(name, self._estimates.get(name, 1.0) * self._ratio)
