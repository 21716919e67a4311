"""One (task, method) in progress: its search, then its confirm trials, replayed from records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orca_ray.results.record import Record, Status
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.sweep.planning.trial import TrialSpec
from orca_ray.sweep.search.sampler import Answer

Curves = Mapping[str, Sequence[float]]


def answer_from(record: Record, scores: Sequence[float]) -> Answer:
    """Return what a search learns from a record and its curve of validation scores."""
    if record.status.failed:
        return Answer(None, scores=scores)
    return Answer(record.validation_score, record.status is Status.STOPPED_EARLY, scores)


@dataclass
class Search:
    """Hands out trials of one (task, method) and takes their records.

    Trials whose record exists are never handed out: the search is replayed with the stored answers.
    """

    plan: SearchPlan
    existing: Mapping[str, Record]
    curves: Curves
    """Validation scores an epoch of existing records, by trial key."""
    records: dict[str, Record] = field(default_factory=dict, init=False)
    """Every record of this search, stored before or finished now."""
    num_reused: int = field(default=0, init=False)
    _numbers: dict[str, list[int]] = field(default_factory=dict, init=False)
    _running: dict[str, TrialSpec] = field(default_factory=dict, init=False)
    _scores: dict[str, Sequence[float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.sampler = self.plan.sampler()
        self._replay()

    @property
    def num_finished(self) -> int:
        """Trials that have ended, counted as planned (a repeated suggestion counts each time)."""
        answered = self.plan.num_search if self.sampler.done else self._num_answered()
        return answered + sum(self._confirm_key(seed) in self.records for seed in self.plan.confirm_seeds)

    @property
    def num_remaining(self) -> int:
        """Trials still to end; none after a search without a winner."""
        return 0 if self.done else self.plan.num_trials - self.num_finished

    @property
    def done(self) -> bool:
        """Whether nothing is left to run."""
        if not self.sampler.done:
            return False
        keys = [self._confirm_key(seed) for seed in self.plan.confirm_seeds]
        return all(key is None or key in self.records for key in keys)

    @property
    def failure(self) -> str | None:
        """Why there is no confirmed score, once done."""
        if not self.done:
            return None
        if self.plan.num_search and self.sampler.winner() is None:
            return "every search trial failed"
        confirmed = [self.records[key] for key in self._confirm_keys() if key in self.records]
        return None if any(record.status is Status.COMPLETED for record in confirmed) else "every confirm trial failed"

    def take(self) -> TrialSpec | None:
        """Hand out the next trial that can start now, or None."""
        for trial in self._startable():
            if trial.key not in self._running and trial.key not in self.records:
                self._running[trial.key] = trial
                return trial
        return None

    def ready(self) -> bool:
        """Tell whether :meth:`take` would hand out a trial."""
        return any(t.key not in self._running and t.key not in self.records for t in self._startable())

    def give_back(self, key: str) -> None:
        """Make a trial that was handed out ready again."""
        del self._running[key]

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Take the record of a trial that was handed out."""
        self._running.pop(record.trial_key, None)
        self.records[record.trial_key] = record
        self._scores[record.trial_key] = scores
        self._replay()

    def rivals(self, trial: TrialSpec) -> list[Sequence[float]]:
        """Return the curves that early stopping holds against a search trial."""
        numbers = self._numbers.get(trial.key)
        return self.sampler.earlier_scores(min(numbers)) if numbers else []

    def _replay(self) -> None:
        """Answer every open candidate whose record is known, until one is missing."""
        progressed = True
        while progressed:
            progressed = False
            for candidate in self.sampler.open_candidates():
                trial = self.plan.trial(candidate.values, self.plan.spec.file.seed, "search")
                numbers = self._numbers.setdefault(trial.key, [])
                if candidate.number not in numbers:
                    numbers.append(candidate.number)
                record = self._known(trial.key)
                if record is not None:
                    scores = self._scores.get(trial.key) or self.curves.get(trial.key, ())
                    self.sampler.tell(candidate.number, answer_from(record, scores))
                    progressed = True
        for key in self._confirm_keys():
            self._known(key)

    def _known(self, key: str) -> Record | None:
        if key not in self.records and key in self.existing:
            self.records[key] = self.existing[key]
            self.num_reused += 1
        return self.records.get(key)

    def _startable(self) -> Iterable[TrialSpec]:
        if not self.sampler.done:
            for candidate in self.sampler.open_candidates():
                yield self.plan.trial(candidate.values, self.plan.spec.file.seed, "search")
        else:
            yield from (trial for trial in map(self._confirm, self.plan.confirm_seeds) if trial is not None)

    def _confirm(self, seed: int) -> TrialSpec | None:
        if not self.sampler.done:
            return None
        if not self.plan.num_search:
            return self.plan.trial({}, seed, "confirm")
        winner = self.sampler.winner()
        return self.plan.trial(winner.values, seed, "confirm") if winner else None

    def _confirm_key(self, seed: int) -> str | None:
        trial = self._confirm(seed)
        return trial.key if trial else None

    def _confirm_keys(self) -> list[str]:
        return [key for key in map(self._confirm_key, self.plan.confirm_seeds) if key is not None]

    def _num_answered(self) -> int:
        first_open = min((candidate.number for candidate in self.sampler.generation), default=0)
        generation = self.sampler.generation
        return first_open + len(generation) - len(self.sampler.open_candidates())
