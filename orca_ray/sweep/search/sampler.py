"""Which candidates of a search are open, which answers are known, and when the next one may be suggested."""

from collections.abc import Mapping, Sequence

from orca_ray.sweep.planning.schema import Dimension, Scalar, tidy
from orca_ray.sweep.planning.searches import canonical_json, stable_seed
from orca_ray.sweep.search.answer import Answer
from orca_ray.sweep.search.candidate import Candidate
from orca_ray.sweep.search.study import Study

NUM_STARTUP = 10
"""Number of candidates after which TPE uses their results to suggest the next ones; Optuna's default."""


class CandidateSampler:
    """Suggests candidates one at a time: first those of `draw`, then those of TPE.

    Without generations, a suggestion uses all answers that are known when it is asked. With them, candidates are
    suggested in groups, a group follows when all answers of the one before it are known, and uses only these. The
    suggestions then do not depend on the order of answers, and therefore not on the number of workers.
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
        """Start without candidates.

        Args:
            first: hyper-parameters of candidate 0; those that are not in ``space`` are ignored.
            space: the searched hyper-parameters and their ranges.
            trials: number of candidates in total.
            generation: candidates per generation; None for no generations.
            seed: determines all suggestions. Before TPE starts, the value of a hyper-parameter depends only on this
                seed, its name, its range and the candidate's number, not on the other hyper-parameters in ``space``.
        """
        self._first, self._num_trials, self._generation, self._seed = first, trials, generation, seed
        self._space = dict(sorted(space.items()))
        self._study = Study(self._space)
        self._next = 0
        self._num_closed = 0
        self.candidates: dict[int, Candidate] = {}
        """Candidates suggested so far, by number."""
        self.answers: dict[int, Answer] = {}
        """Answers known so far, by number of the candidate."""

    @property
    def done(self) -> bool:
        """Whether all candidates have an answer."""
        return len(self.answers) >= self._num_trials

    @property
    def can_ask(self) -> bool:
        """Whether :meth:`ask` may be called now."""
        return self._next < self._num_trials and self.is_open(self._next)

    def is_open(self, number: int) -> bool:
        """Return whether all answers that candidate ``number`` must wait for are known."""
        return self._num_closed >= self._barrier(number)

    def draw(self, number: int) -> dict[str, Scalar]:
        """Return candidate ``number`` of the start-up: the first configuration (0), or random values."""
        if number == 0:
            return {name: self._first[name] for name in self._space}
        quantiles = {name: stable_seed(self._seed, name, number) / 2**32 for name in self._space}
        return {name: tidy(dimension.quantile(quantiles[name])) for name, dimension in self._space.items()}

    def restore(self, candidate: Candidate) -> None:
        """Add a candidate that an earlier run suggested. Values that the space has gained since are the first's."""
        gained = {name: self._first[name] for name in self._space if name not in candidate.values}
        self.candidates[candidate.number] = candidate._replace(values={**candidate.values, **gained})
        self._advance()

    def ask(self) -> Candidate:
        """Suggest the candidate with the lowest number that is missing."""
        number = self._next
        known = self._visible(number)
        if (self._barrier(number) if self._generation else number) < NUM_STARTUP:
            values = self.draw(number)
        else:
            others = [self.candidates[each] for each in sorted(self.candidates)]
            answers = {each: self.answers[each] for each in known}
            values = self._study.suggest(others, answers, stable_seed(self._seed, number))
        candidate = self.candidates[number] = Candidate(number, values, canonical_json(_ranges(known)))
        self._advance()
        return candidate

    def tell(self, number: int, answer: Answer) -> None:
        """Store the answer of candidate ``number``."""
        self.answers[number] = answer
        self._advance()

    def rivals(self, number: int) -> Sequence[int]:
        """Return the numbers of the candidates that early stopping compares with ``number``."""
        return range(self._barrier(number)) if self._generation else list(self.candidates)

    def winner(self) -> Candidate | None:
        """Return the candidate with the lowest value, or None if no trial completed; on a tie the earliest."""
        scored = [
            (answer.value, number)
            for number, answer in self.answers.items()
            if answer.value is not None and not answer.failed and not answer.stopped_early
        ]
        return self.candidates[min(scored)[1]] if scored else None

    def _advance(self) -> None:
        while self._next in self.candidates:
            self._next += 1
        while self._num_closed in self.answers:
            self._num_closed += 1

    def _barrier(self, number: int) -> int:
        """Return the first number of a candidate's generation, whose predecessors must have answers; else 0."""
        return number // self._generation * self._generation if self._generation else 0

    def _visible(self, number: int) -> Sequence[int]:
        """Return the numbers whose answers the suggestion ``number`` may use, ascending."""
        return range(self._barrier(number)) if self._generation else sorted(self.answers)


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Return ascending numbers as ranges [first, last]."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
