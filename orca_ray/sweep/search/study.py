"""The Optuna study of one search."""

import math
import warnings
from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orca_ray.sweep.planning.schema import Dimension, Scalar, tidy
from orca_ray.sweep.search.answer import Answer
from orca_ray.sweep.search.candidate import Candidate

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """Suggests values with TPE, from candidates and their answers.

    The Optuna study is in memory and is filled when a suggestion is asked, so restoring a search that needs no further
    suggestion costs nothing. Equal candidates and answers give equal suggestions, whether they were added at once or
    one after another.
    """

    def __init__(self, space: Mapping[str, Dimension]) -> None:
        self._space = dict(sorted(space.items()))
        self._study: optuna.Study | None = None
        self._states: dict[int, TrialState] = {}
        """State of each candidate in the Optuna study, by its number."""
        self._running: dict[int, int] = {}
        """Optuna's number of each candidate that has no answer in the study."""

    def suggest(self, candidates: Iterable[Candidate], answers: Mapping[int, Answer], seed: int) -> dict[str, Scalar]:
        """Return values for a new candidate.

        Args:
            candidates: the other candidates, by ascending number. Those without an answer are taken to be running and
                count as bad ("constant liar"), so the suggestion keeps away from them.
            answers: answers that the suggestion may use, by number of the candidate.
            seed: seed of the sampler.
        """
        if self._study is None:
            self._study = optuna.create_study(direction="minimize")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate is called experimental, but stable since Optuna 2.2
            for candidate in candidates:
                self._update(self._study, candidate, answers.get(candidate.number))
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            asked = self._study.ask({name: dimension.distribution() for name, dimension in self._space.items()})
            # Its values are rounded below. The rounded ones are added with the next suggestion, as after a restart.
            self._study.tell(asked, state=TrialState.FAIL)
        return {name: tidy(value) for name, value in asked.params.items()}

    def _update(self, study: optuna.Study, candidate: Candidate, answer: Answer | None) -> None:
        state = _state(answer)
        if self._states.get(candidate.number) is state:
            return
        if (trial := self._frozen(candidate, answer, state)) is None:
            return
        if (placeholder := self._running.pop(candidate.number, None)) is not None:
            study.tell(placeholder, state=TrialState.FAIL)  # a trial cannot be changed: a new one replaces it
        if state is TrialState.RUNNING:
            self._running[candidate.number] = len(study.get_trials(deepcopy=False))
        study.add_trial(trial)
        self._states[candidate.number] = state

    def _frozen(self, candidate: Candidate, answer: Answer | None, state: TrialState) -> FrozenTrial | None:
        """Return a candidate as an Optuna trial; None if the space has no such choice any more."""
        parameters, distributions = {}, {}
        for name, dimension in self._space.items():
            parameters[name], distribution = _represent(candidate.values[name], dimension)
            if distribution is None:
                return None
            distributions[name] = distribution
        scores = enumerate(answer.scores if answer else (), start=1)
        return create_trial(
            state=state, params=parameters, distributions=distributions,
            value=answer.value if answer and not answer.failed else None,
            intermediate_values={epoch: score for epoch, score in scores if math.isfinite(score)},
        )  # fmt: skip


def _state(answer: Answer | None) -> TrialState:
    if answer is None:
        return TrialState.RUNNING
    if answer.failed:
        return TrialState.FAIL
    return TrialState.PRUNED if answer.stopped_early else TrialState.COMPLETE


def _represent(value: Scalar, dimension: Dimension) -> tuple[Scalar, BaseDistribution | None]:
    """Return a value as Optuna can hold it, and its distribution: the dimension's, stretched if it has become narrower.

    A value that was rounded out of the range is moved to its end. Without a distribution, Optuna cannot hold the value.
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
    low, high = min(low, value), max(high, value)
    if dimension.integer is not None:
        return int(value), IntDistribution(int(low), math.ceil(high))
    log = dimension.log_uniform is not None
    return value, FloatDistribution(low, high, log=log) if low > 0 or not log else None
