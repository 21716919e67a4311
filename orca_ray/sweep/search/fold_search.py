"""The part of a race that belongs to one method, with the interface of a `Search`."""

from collections.abc import Sequence

from orca_ray.results.record import Record, Status, SuggestionRow
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.search.contender import Contender
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.race import Race
from orca_ray.sweep.search.search import Search


class FoldSearch(Search):
    """The trials of one method in a race."""

    def __init__(self, plan: SearchPlan, history: History | None, race: Race) -> None:
        """Join the race, with the records of earlier runs."""
        self.plan = plan
        self._race = race
        self.records = {
            record.trial_key: record for record in race.join(plan, history or History())
        }
        self.adopted: list[Record] = []
        self._trials: dict[str, tuple[Contender, int]] = {}

    @property
    def num_finished(self) -> int:
        """Number of trials that have ended."""
        return len(self.records)

    @property
    def num_remaining(self) -> int:
        """Number of trials that run, and one more unless the race is over."""
        return 0 if self.done else len(self._trials) + 1

    @property
    def num_running(self) -> int:
        """Number of trials that run."""
        return len(self._trials)

    @property
    def unended(self) -> set[str]:
        """Keys of the trials that run."""
        return set(self._trials)

    @property
    def done(self) -> bool:
        """Whether the race is over."""
        return self._race.done

    @property
    def failure(self) -> str | None:
        """Why the method has no score; None if it has one, or the race is not over."""
        completed = any(
            record.status is Status.COMPLETED for record in self.records.values()
        )
        return (
            "every trial failed"
            if self.done and self.records and not completed
            else None
        )

    def take(self) -> TrialSpec | None:
        """Return the trial that the race starts next, if it is one of this method's,
        and mark it as running.
        """
        found = self._race.choose()
        if found is None or found[0].plan is not self.plan:
            return None
        contender, fold = found
        trial = contender.trial(fold)
        self._trials[trial.key] = contender, fold
        self._race.started(contender, fold)
        return trial

    def new_suggestions(self) -> list[SuggestionRow]:
        """Return no rows: the records of a race say what was tried."""
        return []

    def stops(self, trial: TrialSpec, scores: Sequence[float]) -> bool:
        """Return False: the race stops configurations, not trials."""
        return False

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Store the record of a trial that has ended."""
        self.records[record.trial_key] = record
        self._race.ended(*self._trials.pop(record.trial_key), record)
