"""The search on own data, as the controller of a sweep sees it.

The plans of all methods belong to one search.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from orca_ray.adaptation.configuration import (
    ALL,
    FOLD,
    Configuration,
    changed_values,
)
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.policy import Proposal, choose_trial, propose_trials
from orca_ray.adaptation.situation import Situation, TimeLimit
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.source import PlanProgress, TrialSource


class AdaptationSearch(TrialSource):
    """Search of one task over methods, folds and schedules, within a given time.

    The trials that may start are computed after each start and each end of a trial.
    Which of these fits into the remaining time is computed whenever the controller asks
    for a trial.
    """

    is_open_ended = True

    def __init__(
        self,
        plans: Sequence[SearchPlan],
        history: History,
        folds: Folds,
        *,
        deadline: float,
        estimates: Mapping[str, float],
        final: Collection[tuple[str, str]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Add the configurations of earlier runs.

        Args:
            plans: plans of one task, one for each method.
            history: records of earlier runs, from the results store.
            folds: the folds of the data.
            deadline: time of ``clock`` at which the last trial should have ended.
            estimates: expected seconds of a trial, by method.
            final: methods and hyper-parameters (all, as canonical JSON) that train on
                all samples, instead of a search; the deadline does not apply to them.
            clock: clock of ``deadline``.
        """
        super().__init__(plans)
        self._plan_of = {plan.method: plan for plan in plans}
        self.configurations: list[Configuration] = []
        self._folds = folds
        self._time = TimeLimit(deadline, clock)
        self._estimates = estimates
        self._final = dict.fromkeys(final)
        """The configurations of ``final``, each once, in the order given."""
        self._trials: dict[str, tuple[Configuration, int]] = {}
        """Configuration and fold of each trial that runs, by trial key."""
        self._proposals: list[Proposal] | None = None
        """Trials that may start in this situation; None: not computed yet."""
        for plan in plans:
            self._add_configurations(plan, history)
        self._note_event()

    def progress(self) -> list[PlanProgress]:
        """Return the progress of each method.

        How many trials will start is unknown. Until the search is over, the number of
        remaining trials is one more than that of the running ones.
        """
        is_over = self.done
        rows = []
        for plan in self.plans:
            num_running = sum(
                configuration.method == plan.method
                for configuration, _ in self._trials.values()
            )
            num_remaining = 0 if is_over else num_running + 1
            num_finished = len(self._records_of(plan))
            rows.append(PlanProgress(plan, num_finished, num_running, num_remaining))
        return rows

    @property
    def unended(self) -> set[str]:
        """Keys of the trials that run."""
        return set(self._trials)

    @property
    def done(self) -> bool:
        """Whether no trial runs and none can start any more."""
        return not self._trials and self.choose() is None

    def failures(self) -> Iterator[tuple[SearchPlan, str]]:
        """Yield each method without a completed trial, if the search is over."""
        if not self.done:
            return
        for plan in self.plans:
            statuses = [record.status for record in self._records_of(plan)]
            if statuses and Status.COMPLETED not in statuses:
                yield plan, "every trial failed"

    def choose(self) -> Proposal | None:
        """Return the trial that starts next; None if no trial can start now."""
        if self._final:
            return next(self._final_trials(), None)
        if self._proposals is None:
            self._proposals = propose_trials(self.situation)
        return choose_trial(self.situation, self._proposals)

    def next_plan(self) -> SearchPlan | None:
        """Return the plan of the trial that starts next; None if none can start now."""
        proposal = self.choose()
        return (
            None if proposal is None else self._plan_of[proposal.configuration.method]
        )

    def take(self) -> TrialSpec | None:
        """Return the trial that starts next, and mark it as running.

        None if no trial can start now.
        """
        proposal = self.choose()
        if proposal is None:
            return None
        configuration = proposal.configuration
        trial = self._trial(configuration, proposal.fold)
        self._trials[trial.key] = configuration, proposal.fold
        configuration.running.add(proposal.fold)
        # The configuration becomes the last one, whether it is new or not.
        if configuration in self.configurations:
            self.configurations.remove(configuration)
        self.configurations.append(configuration)
        self._note_event()
        return trial

    def finish(self, record: Record, scores: Sequence[float]) -> None:
        """Store the record of a trial that has ended."""
        self.records[record.trial_key] = record
        configuration, fold = self._trials.pop(record.trial_key)
        configuration.running.discard(fold)
        configuration.records[fold] = record
        self._note_event()

    def _note_event(self) -> None:
        """Renew the situation, and drop the proposals made for the former situation.

        Call this method when a trial has started or ended.
        """
        self.situation = Situation(
            tuple(self.configurations),
            self._plan_of,
            self._folds,
            self._time,
            self._estimates,
        )
        self._proposals = None

    def _add_configurations(self, plan: SearchPlan, history: History) -> None:
        """Add the configurations of one method, with the records of earlier runs."""
        configurations = dict[str, Configuration]()
        records = [
            record
            for record in history.records.values()
            if (record.task, record.method) == (plan.task, plan.method)
        ]
        records.sort(key=lambda record: (record.started_at, record.trial_key))
        for record in records:
            self._add_earlier_record(plan, record, configurations)
        for method, text in self._final:
            if method == plan.method:
                configuration = _configuration(plan, json.loads(text))
                key = canonical_json(dict(configuration.values))
                configurations.setdefault(key, configuration)
        self.configurations += configurations.values()

    def _add_earlier_record(
        self,
        plan: SearchPlan,
        record: Record,
        configurations: dict[str, Configuration],
    ) -> None:
        """Add a record of an earlier run to its configuration.

        A record is left out if no trial of this search has its key.
        """
        values = dict(json.loads(record.hyperparameters))
        fold = int(values.pop(FOLD, 0))
        configuration = _configuration(plan, values)
        key = canonical_json(dict(configuration.values))
        configuration = configurations.get(key, configuration)
        has_same_key = self._trial(configuration, fold).key == record.trial_key
        if record.phase == "confirm" and has_same_key:
            configurations[key] = configuration
            configuration.records[fold] = record
            self.records[record.trial_key] = record

    def _final_trials(self) -> Iterator[Proposal]:
        """Yield the missing trainings on all samples of configurations in ``final``."""
        for configuration in self.configurations:
            hyperparameters = self._trial(configuration, 0).hyperparameters
            identity = (configuration.method, canonical_json(dict(hyperparameters)))
            if identity in self._final and configuration.lacks(ALL):
                yield Proposal(configuration, ALL)

    def _trial(self, configuration: Configuration, fold: int) -> TrialSpec:
        """Return the trial of a configuration on a fold."""
        plan = self._plan_of[configuration.method]
        values = dict(configuration.values)
        if fold:
            values[FOLD] = fold
        return plan.trial(values, plan.confirm_seeds[0], "confirm")

    def _records_of(self, plan: SearchPlan) -> list[Record]:
        return [
            record for record in self.records.values() if record.method == plan.method
        ]


def _configuration(
    plan: SearchPlan, hyperparameters: Mapping[str, Scalar]
) -> Configuration:
    """Return the configuration of a method with all ``hyperparameters``."""
    values = changed_values(hyperparameters, plan.usual_trial.hyperparameters)
    return Configuration(plan.method, values, plan.first)
