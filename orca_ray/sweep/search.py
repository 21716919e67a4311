"""The search of one (task, method): hyper-parameters suggested by Optuna, then confirm trials of the best ones.

Without search trials, the confirm trials run the first configuration or, if the sweep has a grid, all of its cells.

The Optuna study is rebuilt from results at every start. Suggestions come in generations of ``parallel`` candidates.
The first `NUM_STARTUP` candidates are the first configuration and random ones, equal for all methods of a task in the
hyper-parameters that they share. Each later candidate ``k`` comes from a TPE sampler whose seed is derived from ``k``,
and depends only on the results of earlier generations. A sweep that continues after a kill therefore gets the same
suggestions, finds the results of most of them in the results store, and runs the first one that has no result. The
number of workers does not change the suggestions (docs/decisions/0003-replay.md).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optuna

from orca_ray.errors import UserError
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.planning.schema import Dimension, Scalar, tidy
from orca_ray.sweep.planning.searches import SearchPlan, TrialSpec, stable_seed
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task

optuna.logging.set_verbosity(optuna.logging.WARNING)

NUM_STARTUP = 10
"""Number of candidates after which TPE uses their results to suggest the next generation; Optuna's default."""


class Candidate(NamedTuple):
    """A suggestion: its number in the study, from 0, and the values of the searched hyper-parameters."""

    number: int
    values: Mapping[str, Scalar]


class Answer(NamedTuple):
    """Result of the trial of a candidate."""

    value: float | None
    """Best validation score (lower is better); None if the trial failed."""
    stopped_early: bool = False
    scores: Sequence[float] = ()
    """Validation score of each epoch."""

    @property
    def failed(self) -> bool:
        """Whether ``value`` is None or not finite."""
        return self.value is None or not math.isfinite(self.value)


class CandidateSampler:
    """Suggests candidates in generations; the next one follows when all results (answers) of the last are known."""

    def __init__(
        self, first: Mapping[str, Scalar], space: Mapping[str, Dimension], trials: int, parallel: int = 1, seed: int = 0
    ) -> None:
        """Suggest the first generation.

        Args:
            first: hyper-parameters of candidate 0; those that are not in ``space`` are ignored.
            space: the searched hyper-parameters and their ranges.
            trials: number of candidates in total.
            parallel: candidates per generation. They can run at once, but none can use the results of the others.
            seed: determines all suggestions. Before TPE starts, the value of a hyper-parameter depends only on this
                seed, its name, its range and the candidate's number, not on the other hyper-parameters in ``space``.
        """
        self._first, self._num_trials, self._parallel, self._seed = first, trials, parallel, seed
        self._space = dict(sorted(space.items()))
        self._distributions = {name: dimension.distribution() for name, dimension in self._space.items()}
        self._study = optuna.create_study(direction="minimize", storage=None)
        self._candidates: list[Candidate] = []
        self._generation: dict[int, tuple[Candidate, optuna.trial.Trial]] = {}
        self._answers: dict[int, Answer] = {}
        self._open_generation()

    @property
    def num_answered(self) -> int:
        """Number of candidates with an answer."""
        return len(self._answers)

    @property
    def done(self) -> bool:
        """Whether all candidates have an answer."""
        return self.num_answered >= self._num_trials

    def open_candidates(self) -> list[Candidate]:
        """Return the candidates of the current generation that have no answer yet."""
        return [candidate for number, (candidate, _) in self._generation.items() if number not in self._answers]

    def earlier_scores(self, number: int) -> list[Sequence[float]]:
        """Return the scores per epoch of each trial that did not fail, in generations before that of ``number``."""
        start = (number // self._parallel) * self._parallel
        return [self._answers[other].scores for other in range(start) if not self._answers[other].failed]

    def tell(self, number: int, answer: Answer) -> None:
        """Store the answer of candidate ``number``; the last answer of a generation creates the next generation."""
        self._answers[number] = answer
        if self.open_candidates() or self.done:
            return
        for each, (_, trial) in self._generation.items():
            self._tell_study(trial, self._answers[each])
        self._open_generation()

    def winner(self) -> Candidate | None:
        """Return the candidate with the lowest value, or None if no trial completed; on a tie the earliest."""
        scored = [
            (answer.value, number)
            for number, answer in self._answers.items()
            if answer.value is not None and not answer.failed and not answer.stopped_early
        ]
        return self._candidates[min(scored)[1]] if scored else None

    def _open_generation(self) -> None:
        start = len(self._candidates)
        numbers = range(start, min(start + self._parallel, self._num_trials))
        self._generation = {number: self._ask(number) for number in numbers}
        self._candidates += [candidate for candidate, _ in self._generation.values()]

    def _ask(self, number: int) -> tuple[Candidate, optuna.trial.Trial]:
        if number // self._parallel * self._parallel < NUM_STARTUP:
            values = {name: self._first[name] if number == 0 else self._draw(name, number) for name in self._space}
            if values:
                self._study.enqueue_trial(values)
            trial = self._study.ask(self._distributions)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # multivariate is called experimental, but stable since Optuna 2.2
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=stable_seed(self._seed, number), multivariate=True, constant_liar=True
                )
            trial = self._study.ask(self._distributions)
            values = trial.params
        return Candidate(
            number, values if number == 0 else {name: tidy(value) for name, value in values.items()}
        ), trial

    def _draw(self, name: str, number: int) -> Scalar:
        return self._space[name].quantile(stable_seed(self._seed, name, number) / 2**32)

    def _tell_study(self, trial: optuna.trial.Trial, answer: Answer) -> None:
        for epoch, score in enumerate(answer.scores, start=1):
            if math.isfinite(score):
                trial.report(score, epoch)
        if answer.failed:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif answer.stopped_early:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, answer.value)


def comparable_records(store: ResultsStore, sweep: str) -> dict[str, Record]:
    """Return the records of a sweep by trial key, without those whose scores a new version of orca-ray would change.

    Those are of another metric than their task has now, or of another version of it. Their trials run again.
    """
    records = store.load(sweep)
    current = {each: _current_metric(*each) for each in {(r.task, r.protocol) for r in records.values()}}
    return {
        key: record
        for key, record in records.items()
        if current[record.task, record.protocol] in (None, (record.metric, record.metric_version or 1))
    }


def _current_metric(task: str, protocol: str) -> tuple[str, int] | None:
    """Return name and version of a task's metric; None if there is no such task any more."""
    try:
        metric = get_metric(get_task(task).under(protocol).metric)
    except UserError:
        return None
    return metric.name, metric.version


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
            stable_seed(file.seed, plan.task),  # not of the method: all methods of a task draw the same candidates
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

    def take(self) -> TrialSpec | None:
        """Return the next trial that can start now and mark it as running; None if no trial can."""
        if self._confirm is not None:
            trials = self._confirm
        else:
            trials = [self._search_trial(candidate.values) for candidate in self.sampler.open_candidates()]
        trial = next((t for t in trials if t.key not in self._running and t.key not in self.records), None)
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

    def retry(self, key: str = "") -> int:
        """Make failed trials (``key``, or all if it is empty) available again, and return how many there are."""
        again = {each for each, record in self.records.items() if record.status.failed and key in ("", each)}
        if again:
            known = {each: record for each, record in {**self._existing, **self.records}.items() if each not in again}
            running = self._running
            Search.__init__(self, self.plan, known, self._scores)
            self._running = running
        return len(again)

    def rivals(self, trial: TrialSpec) -> list[Sequence[float]]:
        """Return the validation scores per epoch of each trial that early stopping compares with ``trial``."""
        numbers = self._numbers.get(trial.key)
        return self.sampler.earlier_scores(min(numbers)) if numbers else []

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
            # All cells of a grid run with one seed before the next: an interrupted study is balanced.
            self._confirm = [
                self.plan.trial({**configuration, **(values or {})}, seed, "confirm")
                for seed in seeds
                for configuration in self.plan.configurations
            ]
            for trial in self._confirm:
                self._known(trial.key)

    def _search_trial(self, values: Mapping[str, Scalar]) -> TrialSpec:
        return self.plan.trial(values, self.plan.spec.file.seed, "search")

    def _known(self, key: str) -> Record | None:
        if key not in self.records and key in self._existing:
            self.records[key] = self._existing[key]
        return self.records.get(key)
