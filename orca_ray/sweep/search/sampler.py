"""The search of one (task, method): an Optuna study replayed from results, never from a database.

A study is a pure function of the results of its trials: suggestion ``k`` is drawn by a sampler seeded with ``k`` from
the results of earlier generations, told in the order of their numbers. So a sweep that was killed asks the same
questions again, recognises the answers that the results store already holds, and goes on with the first that is
missing; and one core or a hundred suggest the same trials (docs/decisions/0003-replay.md).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from orca_ray.sweep.planning.space import Dimension, Scalar, tidy_all
from orca_ray.sweep.planning.trial import stable_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Candidate:
    """A suggestion: its number in the study and the searched values."""

    number: int
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class Answer:
    """How a candidate ended."""

    value: float | None
    """Best validation score, lower is better; None where the trial failed."""
    stopped_early: bool = False
    scores: Sequence[float] = ()
    """Validation score of each epoch."""

    @property
    def failed(self) -> bool:
        """Whether there is no score to learn from."""
        return self.value is None or not math.isfinite(self.value)


@dataclass
class CandidateSampler:
    """Ask for candidates, tell their answers; one generation is out at a time."""

    first: Mapping[str, Scalar]
    """Values of the first candidate: the published or recommended configuration."""
    space: Mapping[str, Dimension]
    num_trials: int
    parallel: int = 1
    """Candidates a generation: more use more workers at once, and learn later."""
    seed: int = 0
    _generation: list[Candidate] = field(default_factory=list, init=False)
    _asked: dict[int, optuna.trial.Trial] = field(default_factory=dict, init=False)
    _answers: dict[int, Answer] = field(default_factory=dict, init=False)
    _candidates: list[Candidate] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._distributions = {name: dimension.distribution() for name, dimension in sorted(self.space.items())}
        self._study = optuna.create_study(direction="minimize", storage=None)
        self._open_generation()

    @property
    def done(self) -> bool:
        """Whether every candidate is answered."""
        return len(self._answers) >= self.num_trials

    @property
    def generation(self) -> Sequence[Candidate]:
        """The candidates that are out, answered ones included."""
        return tuple(self._generation)

    def open_candidates(self) -> list[Candidate]:
        """Return the candidates of the current generation without an answer."""
        return [candidate for candidate in self._generation if candidate.number not in self._answers]

    def earlier_scores(self, number: int) -> list[Sequence[float]]:
        """Return the curves of the generations before the one of candidate ``number``, as early stopping compares."""
        start = (number // self.parallel) * self.parallel
        return [self._answers[other].scores for other in range(start) if not self._answers[other].failed]

    def tell(self, number: int, answer: Answer) -> None:
        """Record how candidate ``number`` ended; the last answer of a generation opens the next."""
        self._answers[number] = answer
        if self.open_candidates() or self.done:
            return
        for candidate in self._generation:
            self._tell_study(candidate.number, self._answers[candidate.number])
        self._open_generation()

    def winner(self) -> Candidate | None:
        """Return the completed candidate with the lowest value (the earliest on a tie), or None if all failed."""
        scored = [
            (answer.value, number)
            for number, answer in self._answers.items()
            if answer.value is not None and not answer.failed and not answer.stopped_early
        ]
        return self._candidates[min(scored)[1]] if scored else None

    def _open_generation(self) -> None:
        start = len(self._candidates)
        self._generation = [self._ask(number) for number in range(start, min(start + self.parallel, self.num_trials))]
        self._candidates += self._generation

    def _ask(self, number: int) -> Candidate:
        if number == 0:
            if self._distributions:
                self._study.enqueue_trial({name: self.first[name] for name in self._distributions})
            self._asked[0] = self._study.ask(self._distributions)
            return Candidate(0, {name: self.first[name] for name in self._distributions})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate is experimental by name, stable since Optuna 2.2
            self._study.sampler = optuna.samplers.TPESampler(
                seed=stable_seed(self.seed, number), n_startup_trials=4, multivariate=True, constant_liar=True
            )
        trial = self._study.ask(self._distributions)
        self._asked[number] = trial
        return Candidate(number, tidy_all(trial.params))

    def _tell_study(self, number: int, answer: Answer) -> None:
        trial = self._asked.pop(number)
        for epoch, score in enumerate(answer.scores, start=1):
            if math.isfinite(score):
                trial.report(score, epoch)
        if answer.failed:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif answer.stopped_early:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, answer.value)
