"""The trials of one (task, method): a search, then confirm trials of its winner, replayed from records."""

from collections.abc import Mapping, Sequence

from orca_ray.results.record import Record, Status
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.sweep.planning.space import Scalar
from orca_ray.sweep.planning.trial import TrialSpec, stable_seed
from orca_ray.sweep.search.sampler import Answer, CandidateSampler


class Search:
    """Hands out the trials of one (task, method) and takes their records.

    Trials that already have a record are not handed out; the sampler gets their stored scores instead.
    """

    def __init__(self, plan: SearchPlan, existing: Mapping[str, Record], curves: Mapping[str, Sequence[float]]) -> None:
        """Replay a search.

        Args:
            plan: its trials.
            existing: records in the store, by trial key.
            curves: validation score of each epoch of the existing records, by trial key.
        """
        self.plan = plan
        self.records: dict[str, Record] = {}
        """All records of this search, by trial key."""
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
        """Trials that have ended; a suggestion that was repeated counts each time."""
        return self.sampler.num_answered + sum(trial.key in self.records for trial in self._confirm or ())

    @property
    def num_remaining(self) -> int:
        """Trials that have not ended; none after a search without a winner."""
        return 0 if self.done else self.plan.num_trials - self.num_finished

    @property
    def done(self) -> bool:
        """Whether all trials have ended."""
        return self._confirm is not None and all(trial.key in self.records for trial in self._confirm)

    @property
    def failure(self) -> str | None:
        """Reason why a search that is done has no confirmed score."""
        if not self.done:
            return None
        if not self._confirm:
            return "every search trial failed"
        completed = (self.records[trial.key].status is Status.COMPLETED for trial in self._confirm)
        return None if any(completed) else "every confirm trial failed"

    def ready(self) -> bool:
        """Return whether :meth:`take` would return a trial."""
        return self._next() is not None

    def take(self) -> TrialSpec | None:
        """Return the next trial that can start now, or None."""
        trial = self._next()
        if trial is not None:
            self._running.add(trial.key)
        return trial

    def give_back(self, key: str) -> None:
        """Make a trial that was handed out ready again."""
        self._running.remove(key)

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Take the record of a trial that was handed out, and its validation scores."""
        self._running.discard(record.trial_key)
        self.records[record.trial_key] = record
        self._scores[record.trial_key] = scores
        self._replay()

    def rivals(self, trial: TrialSpec) -> list[Sequence[float]]:
        """Return the curves that early stopping compares with a search trial."""
        numbers = self._numbers.get(trial.key)
        return self.sampler.earlier_scores(min(numbers)) if numbers else []

    def _next(self) -> TrialSpec | None:
        if self._confirm is not None:
            trials = self._confirm
        else:
            trials = [self._search_trial(candidate.values) for candidate in self.sampler.open_candidates()]
        return next((t for t in trials if t.key not in self._running and t.key not in self.records), None)

    def _replay(self) -> None:
        """Answer every open candidate whose record is known; after the last one, plan the confirm trials."""
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
