"""The suggestions of a search, and the answers to them.

A suggestion is a set of values of the searched hyper-parameters. The answer is the
result of its trial.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.schema import Dimension, Scalar, tidy
from orca_ray.sweep.plan.trial_spec import canonical_json, stable_seed


class Suggestion(NamedTuple):
    """A suggestion: its number in the search, from 0, and its values."""

    number: int
    values: Mapping[str, Scalar]
    known: str | None = None
    """Numbers of the answers that were known when the suggestion was made.

    The format is that of `SuggestionRow.known`.
    """


class TrialAnswer(NamedTuple):
    """Result of the trial of a suggestion."""

    value: float | None
    """Best validation score (lower is better); None if the trial failed."""
    stopped_early: bool = False
    scores: Sequence[float] = ()
    """Validation score of each epoch."""

    @classmethod
    def from_record(cls, record: Record, scores: Sequence[float]) -> "TrialAnswer":
        """Return the answer for a trial from its record and validation scores.

        ``scores`` has one score per epoch.
        """
        value = None if record.status.failed else record.validation_score
        return cls(value, record.status is Status.STOPPED_EARLY, scores)

    @property
    def failed(self) -> bool:
        """Whether ``value`` is None or not finite."""
        return self.value is None or not math.isfinite(self.value)


class Study:
    """Optuna study that suggests values by TPE from earlier answers.

    Optuna's own study is in memory, and is filled when `suggest` is called. Restoring a
    search that needs no further suggestion therefore costs nothing. The next suggestion
    depends only on the earlier suggestions and answers, and not on the calls by which
    they were added.
    """

    def __init__(self, space: Mapping[str, Dimension]) -> None:
        self._space = dict(sorted(space.items()))
        self._study: optuna.Study | None = None
        self._states: dict[int, TrialState] = {}
        """State of each suggestion in the Optuna study, by its number."""
        self._running: dict[int, int] = {}
        """Optuna's number of each suggestion that has no answer in the study."""

    def suggest(
        self,
        suggestions: Iterable[Suggestion],
        answers: Mapping[int, TrialAnswer],
        seed: int,
    ) -> dict[str, Scalar]:
        """Return the values of a new suggestion, by name of the hyper-parameter.

        Args:
            suggestions: the other suggestions, by ascending number. TPE treats those
                without an answer as bad ones ("constant liar"), so that the new
                suggestion is not close to them.
            answers: answers that the suggestion may use, by number of the suggestion.
            seed: seed of the sampler.
        """
        if self._study is None:
            verbosity = optuna.logging.get_verbosity()
            # It would log each new study.
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._study = optuna.create_study(direction="minimize")
            optuna.logging.set_verbosity(verbosity)
        with warnings.catch_warnings():
            # Multivariate is called experimental, but stable since Optuna 2.2.
            warnings.simplefilter("ignore")
            for suggestion in suggestions:
                self._update(self._study, suggestion, answers.get(suggestion.number))
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True
            )
            distributions = {
                name: dimension.distribution()
                for name, dimension in self._space.items()
            }
            trial = self._study.ask(distributions)
            # Its values are rounded below. The rounded ones are added with the next
            # suggestion, as after a restart.
            self._study.tell(trial, state=TrialState.FAIL)
        return {name: tidy(value) for name, value in trial.params.items()}

    def _update(
        self, study: optuna.Study, suggestion: Suggestion, answer: TrialAnswer | None
    ) -> None:
        """Add a suggestion to an Optuna study, or replace it once it has an answer."""
        state = _state(answer)
        if self._states.get(suggestion.number) is state:
            return
        trial = self._frozen(suggestion, answer, state)
        if trial is None:
            return
        placeholder = self._running.pop(suggestion.number, None)
        if placeholder is not None:
            # Optuna cannot change a trial: it is marked as failed, and a new one with
            # the answer is added.
            study.tell(placeholder, state=TrialState.FAIL)
        if state is TrialState.RUNNING:
            self._running[suggestion.number] = len(study.get_trials(deepcopy=False))
        study.add_trial(trial)
        self._states[suggestion.number] = state

    def _frozen(
        self, suggestion: Suggestion, answer: TrialAnswer | None, state: TrialState
    ) -> FrozenTrial | None:
        """Return a suggestion as an Optuna trial.

        Returns None if one of its values is no longer a choice of the search space.
        """
        parameters = {}
        distributions = {}
        for name, dimension in self._space.items():
            parameters[name], distribution = _represent(
                suggestion.values[name], dimension
            )
            if distribution is None:
                return None
            distributions[name] = distribution
        value = None
        finite_scores: dict[int, float] = {}
        if answer is not None:
            value = None if answer.failed else answer.value
            for epoch, score in enumerate(answer.scores, start=1):
                if math.isfinite(score):
                    finite_scores[epoch] = score
        return create_trial(
            state=state,
            params=parameters,
            distributions=distributions,
            value=value,
            intermediate_values=finite_scores,
        )


def _state(answer: TrialAnswer | None) -> TrialState:
    """Return Optuna's state of a trial; without an answer, the trial is running."""
    if answer is None:
        return TrialState.RUNNING
    if answer.failed:
        return TrialState.FAIL
    return TrialState.PRUNED if answer.stopped_early else TrialState.COMPLETE


def _represent(
    value: Scalar, dimension: Dimension
) -> tuple[Scalar, BaseDistribution | None]:
    """Return a value as Optuna can store it, and its distribution.

    The distribution is that of the dimension. If the value is outside of its range, the
    range is extended to the value; but a value that was only rounded out of the range
    is moved to the end of the range. None: Optuna cannot store the value.
    """
    distribution = dimension.distribution()
    if dimension.contains(value):
        return value, distribution
    if dimension.choice is not None or not isinstance(value, (int, float)):
        return value, None
    low, high = dimension.bounds()
    nearest = min(max(value, low), high)
    if tidy(nearest) == tidy(value):
        return nearest, distribution
    low = min(low, value)
    high = max(high, value)
    if dimension.integer is not None:
        return int(value), IntDistribution(int(low), math.ceil(high))
    # A logarithmic range must not be extended to 0 or below.
    log = dimension.log_uniform is not None
    return value, FloatDistribution(low, high, log=log) if low > 0 or not log else None


NUM_STARTUP = 10
"""Number of suggestions before TPE starts, which is Optuna's default."""


class SuggestionSampler:
    """Sampler that makes the suggestions of a search one at a time.

    The first `NUM_STARTUP` suggestions are made by `draw`, later ones by TPE.

    Without generations, a suggestion uses all answers that are known when it is made.
    With generations, suggestions are made in groups. A group is only made when all
    answers to the earlier groups are known, and uses only these answers. Then
    suggestions do not depend on the order of answers, and therefore not on the number
    of workers.
    """

    def __init__(
        self,
        first: Mapping[str, Scalar],
        space: Mapping[str, Dimension],
        trials: int,
        *,
        generation: int | None = None,
        seed: int = 0,
    ) -> None:
        """Start without suggestions.

        Args:
            first: hyper-parameters of suggestion 0; those that are not in ``space`` are
                ignored.
            space: the searched hyper-parameters and their ranges.
            trials: number of suggestions in total.
            generation: suggestions per generation; None for no generations.
            seed: determines all suggestions. Before TPE starts, the value of a
                hyper-parameter depends only on this seed, its name, its range and the
                suggestion's number, not on the other hyper-parameters in ``space``.
        """
        self._first = first
        self._num_trials = trials
        self._generation = generation
        self._seed = seed
        self._space = dict(sorted(space.items()))
        self._study = Study(self._space)
        self._next = 0
        self._num_closed = 0
        self.suggestions: dict[int, Suggestion] = {}
        """Suggestions made so far, by number."""
        self.answers: dict[int, TrialAnswer] = {}
        """Answers known so far, by number of the suggestion."""

    @property
    def done(self) -> bool:
        """Whether all suggestions have an answer."""
        return len(self.answers) >= self._num_trials

    @property
    def can_ask(self) -> bool:
        """Whether :meth:`ask` may be called now.

        It may be called if suggestions are left, and the next one need not wait for
        answers.
        """
        return self._next < self._num_trials and self.is_open(self._next)

    def is_open(self, number: int) -> bool:
        """Return whether suggestion ``number`` may be made and its trial started.

        All suggestions of earlier generations must have answers.
        """
        return self._num_closed >= self._barrier(number)

    def draw(self, number: int) -> dict[str, Scalar]:
        """Return the values of a suggestion that is made before TPE starts.

        Suggestion 0 is the first configuration. Others have random values.
        """
        if number == 0:
            return {name: self._first[name] for name in self._space}
        quantiles = {
            name: stable_seed(self._seed, name, number) / 2**32 for name in self._space
        }
        return {
            name: tidy(dimension.quantile(quantiles[name]))
            for name, dimension in self._space.items()
        }

    def restore(self, suggestion: Suggestion) -> None:
        """Add a suggestion of an earlier run.

        Hyper-parameters that it lacks get the value of the first configuration.
        """
        added_values = {
            name: self._first[name]
            for name in self._space
            if name not in suggestion.values
        }
        self.suggestions[suggestion.number] = suggestion._replace(
            values={**suggestion.values, **added_values}
        )
        self._advance()

    def ask(self) -> Suggestion:
        """Make and return the suggestion with the lowest missing number.

        Call it only if `can_ask`.
        """
        number = self._next
        answered: Sequence[int] = sorted(self.answers)
        num_earlier = number
        if self._generation:
            # Only answers of earlier generations count, whatever is known by now.
            num_earlier = self._barrier(number)
            answered = range(num_earlier)
        if num_earlier < NUM_STARTUP:
            values = self.draw(number)
        else:
            earlier = [self.suggestions[index] for index in sorted(self.suggestions)]
            answers = {index: self.answers[index] for index in answered}
            seed = stable_seed(self._seed, number)
            values = self._study.suggest(earlier, answers, seed)
        suggestion = Suggestion(number, values, canonical_json(_ranges(answered)))
        self.suggestions[number] = suggestion
        self._advance()
        return suggestion

    def tell(self, number: int, answer: TrialAnswer) -> None:
        """Store the answer of suggestion ``number``."""
        self.answers[number] = answer
        self._advance()

    def rivals(self, number: int) -> Sequence[int]:
        """Return the numbers of the suggestions that compete with ``number``.

        Early stopping compares a trial with the trials of these suggestions.
        """
        if self._generation:
            return range(self._barrier(number))
        return list(self.suggestions)

    def winner(self) -> Suggestion | None:
        """Return the suggestion whose trial completed with the best score.

        On a tie, it is the one with the lowest number. None if no trial completed.
        """
        scored = [
            (answer.value, number)
            for number, answer in self.answers.items()
            if answer.value is not None
            and not answer.failed
            and not answer.stopped_early
        ]
        if not scored:
            return None
        _, number = min(scored)
        return self.suggestions[number]

    def _advance(self) -> None:
        while self._next in self.suggestions:
            self._next += 1
        while self._num_closed in self.answers:
            self._num_closed += 1

    def _barrier(self, number: int) -> int:
        """Return the first number of the generation of suggestion ``number``.

        Returns 0 if there are no generations.
        """
        return number // self._generation * self._generation if self._generation else 0


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Return ascending numbers as ranges [first, last]."""
    runs = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs if len(run)]


def suggest(
    first: Mapping[str, Scalar],
    space: Mapping[str, Dimension],
    known: Sequence[tuple[Mapping[str, Scalar], float | None]],
) -> dict[str, Scalar]:
    """Return values of the hyper-parameters in ``space`` to try next.

    Args:
        first: all hyper-parameters of the first configuration.
        space: the searched hyper-parameters and their ranges.
        known: values that were tried before, with their scores. Values that are missing
            are those of ``first``. None: the score is not known yet.
    """
    sampler = SuggestionSampler(first, space, len(known) + 1)
    for number, (values, score) in enumerate(known):
        sampler.restore(
            Suggestion(number, {name: values.get(name, first[name]) for name in space})
        )
        if score is not None:
            sampler.tell(number, TrialAnswer(score))
    return dict(sampler.ask().values)
