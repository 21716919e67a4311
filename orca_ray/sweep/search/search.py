"""The trials of one (task, method): search trials, then confirm trials that rerun the best one with other seeds."""

from collections.abc import Mapping, Sequence

from orca_ray.results.record import Record, Status
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.sweep.planning.space import Scalar
from orca_ray.sweep.planning.trial import TrialSpec, stable_seed
from orca_ray.sweep.search.sampler import Answer, CandidateSampler


class Search:
    """Decides which trial of one (task, method) runs next, given the records of those that have ended.

    A trial that already has a record does not run again; the sampler gets its stored scores.
    """

    def __init__(self, plan: SearchPlan, existing: Mapping[str, Record], curves: Mapping[str, Sequence[float]]) -> None:
        """Rebuild the state of the search from stored records.

        Args:
            plan: first configuration, number of trials and seeds.
            existing: stored records by trial key; other sweeps' trials may be among them.
            curves: validation score of each epoch, by trial key of the stored records.
        """
        self.plan = plan
        self.records: dict[str, Record] = {}
        """Records of this search's ended trials, by trial key."""
        file = plan.spec.file
        space = plan.spec.space(plan.task, plan.method)
        self.sampler = CandidateSampler(
            plan.first,
            {name: dimension for name, dimension in space.items() if name in plan.first},
            plan.num_search,
            file.parallel,
            stable_seed(file.seed, plan.task, plan.method),
        )
        self._existing, self._scores = existing, dict(curves)
        self._numbers: dict[str, list[int]] = {}
        self._running: set[str] = set()
        self._confirm: list[TrialSpec] | None = None
        self._replay()

    @property
    def num_finished(self) -> int:
        """Number of trials that have ended; if a suggestion repeats an earlier one, both count."""
        return self.sampler.num_answered + sum(trial.key in self.records for trial in self._confirm or ())

    @property
    def num_remaining(self) -> int:
        """Number of trials that have not ended; 0 if all search trials failed, because no confirm trial follows."""
        return 0 if self.done else self.plan.num_trials - self.num_finished

    @property
    def done(self) -> bool:
        """Whether all search and confirm trials have ended."""
        return self._confirm is not None and all(trial.key in self.records for trial in self._confirm)

    @property
    def failure(self) -> str | None:
        """Why a search that is done has no test score; None if it has one or is not done."""
        if not self.done:
            return None
        if not self._confirm:
            return "every search trial failed"
        completed = (self.records[trial.key].status is Status.COMPLETED for trial in self._confirm)
        return None if any(completed) else "every confirm trial failed"

    def ready(self) -> bool:
        """Return whether some trial can start now."""
        return self._next() is not None

    def take(self) -> TrialSpec | None:
        """Return the next trial that can start now and mark it as running; None if no trial can."""
        trial = self._next()
        if trial is not None:
            self._running.add(trial.key)
        return trial

    def give_back(self, key: str) -> None:
        """Mark the running trial ``key`` as not started, so that :meth:`take` returns it again."""
        self._running.remove(key)

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Store the record of a running trial that has ended, and its validation score per epoch."""
        self._running.discard(record.trial_key)
        self.records[record.trial_key] = record
        self._scores[record.trial_key] = scores
        self._replay()

    def rivals(self, trial: TrialSpec) -> list[Sequence[float]]:
        """Return the validation scores per epoch of each trial that early stopping compares with ``trial``."""
        numbers = self._numbers.get(trial.key)
        return self.sampler.earlier_scores(min(numbers)) if numbers else []

    def _next(self) -> TrialSpec | None:
        if self._confirm is not None:
            trials = self._confirm
        else:
            trials = [self._search_trial(candidate.values) for candidate in self.sampler.open_candidates()]
        return next((t for t in trials if t.key not in self._running and t.key not in self.records), None)

    def _replay(self) -> None:
        """Pass known records to the sampler; when all candidates have one, create the confirm trials of the best."""
        answered = True
        while answered:
            answered = False
            for candidate in self.sampler.open_candidates():
                key = self._search_trial(candidate.values).key
                numbers = self._numbers.setdefault(key, [])
                if candidate.number not in numbers:
                    numbers.append(candidate.number)
                if (record := self._known(key)) is not None:
                    value = None if record.status.failed else record.validation_score
                    stopped = record.status is Status.STOPPED_EARLY
                    self.sampler.tell(candidate.number, Answer(value, stopped, self._scores.get(key, ())))
                    answered = True
        if self._confirm is None and self.sampler.done:
            winner = self.sampler.winner()
            values = {} if not self.plan.num_search else winner.values if winner else None
            seeds = () if values is None else self.plan.confirm_seeds
            self._confirm = [self.plan.trial(values or {}, seed, "confirm") for seed in seeds]
            for trial in self._confirm:
                self._known(trial.key)

    def _search_trial(self, values: Mapping[str, Scalar]) -> TrialSpec:
        return self.plan.trial(values, self.plan.spec.file.seed, "search")

    def _known(self, key: str) -> Record | None:
        if key not in self.records and key in self._existing:
            self.records[key] = self._existing[key]
        return self.records.get(key)
