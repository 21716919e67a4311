"""The search of one (task, method), which decides which trial runs next."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from heapq import heappop, heappush

from orca_ray.results.record import Record, Status, SuggestionRow
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json, stable_seed
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.sampler import Suggestion, SuggestionSampler, TrialAnswer
from orca_ray.sweep.search.source import PlanProgress, TrialSource


def restore_suggestions(
    plan: SearchPlan, history: History, sampler: SuggestionSampler
) -> list[Suggestion]:
    """Return the suggestions that earlier runs of a search made, sorted by number.

    A suggestion belongs to the search if its trial key is the same now as in the
    earlier run. Another body, other data or other fixed hyper-parameters change the
    key. A suggestion keeps its number in the journal, with two exceptions: if its
    number is taken, or if it has number 0 but is no longer the first configuration, it
    gets the lowest free number.
    """
    if not plan.num_search:
        return []
    numbered: dict[int, Suggestion] = {}
    without_number: dict[str, Suggestion] = {}
    numbered_keys: set[str] = set()
    first_key = _key(plan, sampler.draw(0))
    for entry in history.suggestions.get((plan.task, plan.method), ()):
        key = entry.trial_key
        values = json.loads(entry.values)
        is_of_variant = entry.sweep != plan.spec.sweep_id
        if _key(plan, values) != key or (is_of_variant and key in numbered_keys):
            continue
        suggestion = Suggestion(entry.number, values, entry.known)
        is_old_first = entry.number == 0 and key != first_key
        if entry.number in numbered or is_old_first:
            without_number.setdefault(key, suggestion)
        else:
            numbered[entry.number] = suggestion
            numbered_keys.add(key)
    for key in numbered_keys:
        without_number.pop(key, None)
    _add_with_free_numbers(without_number.values(), numbered)
    return [numbered[number] for number in sorted(numbered) if number < plan.num_search]


def _add_with_free_numbers(
    suggestions: Iterable[Suggestion], numbered: dict[int, Suggestion]
) -> None:
    """Add each of ``suggestions`` to ``numbered`` under the lowest free number.

    Number 0 is only for the first configuration.
    """
    number = 1
    for suggestion in suggestions:
        while number in numbered:
            number += 1
        numbered[number] = suggestion._replace(number=number)


def _key(plan: SearchPlan, values: Mapping[str, Scalar]) -> str:
    """Return the key of the search trial with ``values``.

    Returns "" if no trial can have these values, e.g. because a foreign file has text
    as the number of epochs.
    """
    try:
        return plan.trial(values, plan.spec.file.seed, "search").key
    except (TypeError, ValueError, OverflowError):
        return ""


class Search(TrialSource):
    """Search of one (task, method): decides which trial runs next.

    A trial that already has a record does not run again. Without search trials, the
    confirm trials run the first configuration or, if the sweep has a grid, all of its
    cells.
    """

    def __init__(
        self,
        plan: SearchPlan,
        history: History | None = None,
        *,
        running: Collection[str] = (),
    ) -> None:
        """Rebuild the state of the search from the journal and the records.

        Args:
            plan: first configuration, number of trials and seeds.
            history: trials and suggestions of earlier runs, which may include those of
                other searches. None: there are none.
            running: keys of the trials that run now, if the state is rebuilt while they
                run.
        """
        super().__init__([plan])
        self.plan = plan
        self._suggestions: list[SuggestionRow] = []
        self.sampler = _sampler(plan)
        self._history = history or History()
        self._scores: dict[str, Sequence[float]] = {}
        """Validation score of each epoch, by trial key."""
        self._keys: dict[int, str] = {}
        """Key of the trial of each suggestion, by number of the suggestion."""
        self._numbers: dict[str, list[int]] = {}
        """Numbers of the suggestions of each trial, by its key."""
        self._waiting: list[tuple[int, TrialSpec]] = []
        """Heap of trials that have not started.

        They are sorted by the number of the suggestion, or by the position among the
        confirm trials.
        """
        self._running_before = frozenset(running)
        self._running: set[str] = set()
        """Keys of the trials that an executor has, or that wait for another attempt."""
        self._confirm: list[str] | None = None
        """Keys of the confirm trials; None while search trials have not ended."""
        self._num_confirmed = 0
        journal = self._history.suggestions.get((plan.task, plan.method), ())
        stored = {
            (entry.number, entry.trial_key)
            for entry in journal
            if entry.sweep == plan.spec.sweep_id
        }
        for suggestion in restore_suggestions(plan, self._history, self.sampler):
            self.sampler.restore(suggestion)
            self._add(self.sampler.suggestions[suggestion.number], stored)
        self._confirm_if_searched()

    @property
    def num_finished(self) -> int:
        """Number of trials that have ended.

        If several suggestions are equal, their trial is counted once for each.
        """
        return len(self.sampler.answers) + self._num_confirmed

    @property
    def num_remaining(self) -> int:
        """Number of trials that have not ended.

        It is 0 if all search trials failed, because there are no confirm trials then.
        """
        if self._confirm is not None:
            return len(self._confirm) - self._num_confirmed
        return self.plan.num_trials - self.num_finished

    @property
    def num_running(self) -> int:
        """Number of trials that an executor has, or that wait for another attempt."""
        return len(self._running)

    @property
    def unended(self) -> set[str]:
        """Keys of the trials that run or wait for their start.

        Further trials may follow.
        """
        return {*self._running, *(trial.key for _, trial in self._waiting)}

    @property
    def done(self) -> bool:
        """Whether all search and confirm trials have ended."""
        return self._confirm is not None and self._num_confirmed == len(self._confirm)

    def progress(self) -> list[PlanProgress]:
        """Return the progress of the one plan."""
        row = PlanProgress(
            self.plan, self.num_finished, self.num_running, self.num_remaining
        )
        return [row]

    def failures(self) -> Iterator[tuple[SearchPlan, str]]:
        """Yield the plan and a reason if the search is done without a test score."""
        if self.failure is not None:
            yield self.plan, self.failure

    def next_plan(self) -> SearchPlan | None:
        """Return the plan; None if all trials have ended."""
        return None if self.done else self.plan

    @property
    def failure(self) -> str | None:
        """Reason why a search that is done has no test score.

        None if the search has a test score, is not done, or ended early because hours
        were limited.
        """
        if not self.done:
            return None
        if self.ended_early and not self._confirm:
            return None
        if not self._confirm:
            return "every search trial failed"
        completed = (
            self.records[key].status is Status.COMPLETED for key in self._confirm
        )
        return None if any(completed) else "every confirm trial failed"

    def take(self) -> TrialSpec | None:
        """Return the next trial that can start now, and mark it as running.

        None if no trial can start now. The trial's suggestion must be stored before the
        trial starts (see :meth:`new_suggestions`).
        """
        if self.ended_early and self._confirm is None:
            return None
        most = self.plan.spec.file.parallel
        if self._confirm is None and most is not None and len(self._running) >= most:
            return None
        while self._confirm is None and not self._can_start and self.sampler.can_ask:
            self._add(self.sampler.ask(), set())
            self._confirm_if_searched()
        if not self._can_start:
            return None
        _, trial = heappop(self._waiting)
        self._running.add(trial.key)
        return trial

    @property
    def is_confirming(self) -> bool:
        """Whether only confirm trials are left."""
        return self._confirm is not None

    @property
    def num_to_confirm(self) -> int:
        """Number of confirm trials that have yet to start.

        0 while no search trial has completed or runs.
        """
        if self._confirm is not None:
            return len(self._waiting)
        has_begun = self._running or self.sampler.winner() is not None
        if self.plan.num_search and not has_begun:
            return 0
        return self.plan.num_trials - self.plan.num_search

    def end_search(self) -> None:
        """Start no more search trials.

        When those that run have ended, the best configuration is confirmed.
        """
        if self._confirm is None:
            self.ended_early = True
            self._waiting.clear()
            self._confirm_if_searched()

    def give_up(self) -> None:
        """Start no more trials. Call it only while no trial of the search runs."""
        self.ended_early = True
        self._waiting.clear()
        self._confirm = [key for key in self._confirm or () if key in self.records]

    def new_suggestions(self) -> list[SuggestionRow]:
        """Return the suggestions made since the last call, for the sweep's journal."""
        suggestions = self._suggestions
        self._suggestions = []
        return suggestions

    def stops(self, trial: TrialSpec, scores: Sequence[float]) -> bool:
        """Return whether a running trial must stop early now.

        ``scores`` are its validation scores, one per epoch.
        """
        self._scores[trial.key] = scores
        rule = self.plan.spec.file.early_stopping
        return (
            rule is not None
            and trial.phase == "search"
            and rule.stops(scores, trial.epochs, self._rivals(trial))
        )

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Store the record of a trial that has ended, and its scores per epoch."""
        self._running.discard(record.trial_key)
        self._end(record, scores)
        self._confirm_if_searched()

    @property
    def _can_start(self) -> bool:
        if not self._waiting:
            return False
        position, _ = self._waiting[0]
        return self._confirm is not None or self.sampler.is_open(position)

    def _end(self, record: Record, scores: Sequence[float]) -> None:
        """Store the record of an ended trial, and inform the sampler."""
        key = record.trial_key
        self.records[key] = record
        self._scores[key] = scores
        if self._confirm is not None:
            self._num_confirmed += 1
        for number in self._numbers.get(key, ()):
            self.sampler.tell(number, TrialAnswer.from_record(record, scores))

    def _rivals(self, trial: TrialSpec) -> Iterator[Sequence[float]]:
        """Yield the scores per epoch of each trial that competes with ``trial``.

        Early stopping compares a trial with these trials.
        """
        for number in self.sampler.rivals(self._numbers[trial.key][0]):
            answer = self.sampler.answers.get(number)
            key = self._keys[number]
            has_failed = answer is not None and answer.failed
            if key != trial.key and not has_failed:
                yield self._scores.get(key, ())

    def _add(self, suggestion: Suggestion, stored: set[tuple[int, str]]) -> None:
        """Add a suggestion, and its trial unless an equal suggestion has the trial.

        Suggestions that are not in ``stored`` (number, trial key) are added to the new
        ones of the journal.
        """
        plan = self.plan
        number = suggestion.number
        trial = plan.trial(suggestion.values, plan.spec.file.seed, "search")
        key = trial.key
        self._keys[number] = key
        if (number, key) not in stored:
            row = SuggestionRow(
                plan.spec.sweep_id,
                plan.task,
                plan.method,
                number,
                key,
                canonical_json(dict(suggestion.values)),
                suggestion.known,
                datetime.now(UTC),
            )
            self._suggestions.append(row)
        equal_suggestions = self._numbers.setdefault(key, [])
        equal_suggestions.append(number)
        if key in self.records:
            self.sampler.tell(
                number, TrialAnswer.from_record(self.records[key], self._scores[key])
            )
        elif len(equal_suggestions) == 1:
            self._plan_trial(number, trial)

    def _plan_trial(self, position: int, trial: TrialSpec) -> None:
        """Add a trial to those that wait for their start.

        A trial that is running when the search is rebuilt is added to the running ones
        instead. If an earlier run has the record of the trial, the record is used.
        """
        key = trial.key
        sweep = self.plan.spec.sweep_id
        record = self.records.get(key) or self._history.records.get(key)
        if key in self._running_before and key not in self.records:
            self._running.add(key)
        elif record is None or record.phase != trial.phase:
            heappush(self._waiting, (position, trial))
        else:
            if record.sweep != sweep:
                self.adopted.append(record)
                record = replace(record, sweep=sweep)
            scores = self._scores.get(key) or self._history.scores.get(key, ())
            self._end(record, scores)

    def _confirm_if_searched(self) -> None:
        """Create the confirm trials of the best suggestion, if the search is over."""
        searched = self.sampler.done or (self.ended_early and not self._running)
        if self._confirm is not None or not searched:
            return
        trials = self._confirm_trials()
        self._confirm = [trial.key for trial in trials]
        for position, trial in enumerate(trials):
            self._plan_trial(position, trial)

    def _confirm_trials(self) -> list[TrialSpec]:
        """Return the confirm trials; none if every search trial failed."""
        values: Mapping[str, Scalar] = {}
        if self.plan.num_search:
            winner = self.sampler.winner()
            if winner is None:
                return []
            values = winner.values
        # All cells of a grid run with one seed before the next seed, so that an
        # interrupted study has all cells.
        return [
            self.plan.trial({**configuration, **values}, seed, "confirm")
            for seed in self.plan.confirm_seeds
            for configuration in self.plan.configurations
        ]


def _sampler(plan: SearchPlan) -> SuggestionSampler:
    """Return the sampler of a search.

    Its seed does not depend on the method, so that all methods of a task start with the
    same random values.
    """
    file = plan.spec.file
    generation = None
    if plan.spec.deterministic:
        generation = file.parallel or 1
    return SuggestionSampler(
        plan.first,
        plan.space,
        plan.num_search,
        generation=generation,
        seed=stable_seed(file.seed, plan.task),
    )


def make_searches(
    plans: Sequence[SearchPlan],
    history: History,
    *,
    running: Collection[str] = (),
) -> list[Search]:
    """Return one search for each plan; see `MakeSources`."""
    return [Search(plan, history, running=running) for plan in plans]
