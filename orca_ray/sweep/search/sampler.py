"""Suggest hyper-parameters for one (task, method), with an Optuna study that is rebuilt from results at every start.

Suggestions come in generations of ``parallel`` candidates. Candidate ``k`` comes from a TPE sampler whose seed is
derived from ``k``, and depends only on the results of earlier generations. A sweep that continues after a kill
therefore gets the same suggestions, finds the results of most of them in the results store, and runs the first one
that has no result. The number of workers does not change the suggestions (docs/decisions/0003-replay.md).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from orca_ray.sweep.planning.space import Dimension, Scalar, tidy
from orca_ray.sweep.planning.trial import stable_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Candidate:
    """A suggestion: its number in the study, from 0, and the values of the searched hyper-parameters."""

    number: int
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class Answer:
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
        self,
        first: Mapping[str, Scalar],
        space: Mapping[str, Dimension],
        num_trials: int,
        parallel: int = 1,
        seed: int = 0,
    ) -> None:
        """Suggest the first generation.

        Args:
            first: hyper-parameters of candidate 0; those that are not in ``space`` are ignored.
            space: the searched hyper-parameters and their ranges.
            num_trials: number of candidates in total.
            parallel: candidates per generation. They can run at once, but none can use the results of the others.
            seed: determines all suggestions.
        """
        self._first, self._num_trials, self._parallel, self._seed = first, num_trials, parallel, seed
        self._distributions = {name: dimension.distribution() for name, dimension in sorted(space.items())}
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
        """Whether all ``num_trials`` candidates have an answer."""
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
        if number == 0:
            values = {name: self._first[name] for name in self._distributions}
            if values:
                self._study.enqueue_trial(values)
            return Candidate(0, values), self._study.ask(self._distributions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate is called experimental, but stable since Optuna 2.2
            self._study.sampler = optuna.samplers.TPESampler(
                seed=stable_seed(self._seed, number), n_startup_trials=4, multivariate=True, constant_liar=True
            )
        trial = self._study.ask(self._distributions)
        return Candidate(number, {name: tidy(value) for name, value in trial.params.items()}), trial

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
