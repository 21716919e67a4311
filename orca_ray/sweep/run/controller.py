"""The controller of a sweep.

It decides which trial runs next and which one stops early, and stores the records.
Executors run the trials. Only one thread calls the controller; docs/way-of-a-trial.md
describes the threads of the driver.
"""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from orca_ray.methods.reports import EpochProgress
from orca_ray.results.lease import Lease
from orca_ray.results.live import MAX_RUNNING, Limits, LiveState
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.causes import CAUSES, RULES, Failure
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.run import events
from orca_ray.sweep.run.control import Control
from orca_ray.sweep.run.hours import HourLimit, HoursLeft
from orca_ray.sweep.run.placement import PATIENCE_SECONDS, Placement
from orca_ray.sweep.run.recorder import Recorder, make_record
from orca_ray.sweep.run.retries import FailureLedger, FailuresOfTrial
from orca_ray.sweep.run.searches import Durations, SweepSearches
from orca_ray.sweep.run.sharing import Share
from orca_ray.sweep.run.trial_state import Start, TrialState
from orca_ray.sweep.search import MakeSources, TrialSource, make_searches
from orca_ray.sweep.worker.staging import Stager


class SweepController:
    """Controller of a sweep: chooses trials one at a time, and records them."""

    def __init__(
        self,
        searches: Sequence[SearchPlan],
        store: ResultsStore,
        *,
        executor: str,
        trial_seconds: Mapping[tuple[str, str], float] | None = None,
        retry_failed: bool = False,
        listener: events.Listener | None = None,
        lease: Lease | None = None,
        make_sources: MakeSources = make_searches,
        limit: HourLimit | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Rebuild the state of the sweep from what ``store`` holds.

        Args:
            searches: plans of the searches to run; those without a fingerprint begin
                when `stager` returns it.
            store: results store that records are read from and written to.
            executor: name of the executor, for the records.
            trial_seconds: relative cost of one trial of each (task, method), see
                `cost.trial_seconds`; only ratios matter. A pair without a value gets 1.
            retry_failed: whether to run failed trials again. Trials whose worker
                disappeared (status ``lost``) are always run again.
            listener: called with every event.
            lease: lease of the sweep, through which requests arrive; None, e.g. in
                tests: there are no requests.
            make_sources: see `SweepSearches`.
            limit: hours that all trials of the sweep may take; None: there is no limit.
            limits: limits of what runs at once; None: there are none.
        """
        self._emit: events.Listener = listener or (lambda event: None)
        retried = (
            {request.trial for request in lease.open_retries} if lease else set[str]()
        )
        self.searches = SweepSearches(
            searches,
            store,
            retry={*retried, *([""] if retry_failed else [])},
            make_sources=make_sources,
        )
        """The searches of the sweep."""
        self.sweep = self.searches.spec.sweep_id
        self.executor = executor
        self.stager: Stager | None = None
        """Stages the tasks; trials of a task start when it is staged.

        None: trials start at once.
        """
        self._durations = Durations(trial_seconds or {})
        self._limit = limit
        self._limit_was_met = False
        self.trials: dict[str, TrialState] = {}
        """Trials that were suggested or planned to start and have not ended, by key."""
        self.in_flight = Counter[Resources]()  # trials that the executor has
        self._waiting: dict[
            str, TrialState
        ] = {}  # in the order in which they may start
        self._unplaced: dict[str, TrialState] = {}  # handed out, without a worker
        self.failures = FailureLedger()
        """Decides which failed trials run again, and on which nodes trials may run."""
        self.placement = Placement()
        """Decides which resources a trial gets, and whether it may start now.

        An executor may replace it by a placement for its cluster.
        """
        self.share: Share | None = None
        """The part of a cluster that this sweep may use; None: all of it."""
        self._without_gpu_at: float | None = None
        """When an executor last had a trial without a GPU; at first, the start."""
        self._num_ran = 0
        self._began = time.monotonic()
        self._recorder = Recorder(
            store, self.sweep, before=lease.check if lease else None
        )
        self.control = Control(
            lease,
            self._emit,
            state=self._live_state,
            retry=self.retry,
            runs=self.trials.__contains__,
            limits=limits,
        )
        """Applies requests to this sweep. Executors end all trials when its
        ``stopping`` is set.
        """

    @property
    def done(self) -> bool:
        """Whether all trials of the sweep have ended.

        Trials of tasks that cannot be staged are ignored.
        """
        return not self.trials and not self.searches.unfinished_tasks

    @property
    def pausing(self) -> bool:
        """Whether trials will start later, although none can start now.

        A user paused the sweep, or trials wait for resources or for their next attempt.
        """
        return (
            bool(self.control.paused or self._waiting)
            and not self.control.stopping
            and not self.done
        )

    @property
    def quarantined(self) -> tuple[str, ...]:
        """Lines "node: reason" for each node that gets no more trials."""
        return tuple(
            f"{self.placement.node_name(node)}: {why}"
            for node, why in self.failures.quarantined.items()
        )

    def next_trial(self) -> TrialSpec | None:
        """Return a trial to run, or None if none can start now.

        Trials that wait (for the end of a pause, or for resources) come first, then a
        trial of the most urgent search (`Durations.urgency`). Trials that need other
        resources may overtake a trial that waits.
        """
        self.tick()
        if self.control.paused or self.control.stopping:
            return None
        self._take_staged(idle=False)
        trial = self._affordable_trial()
        while trial is None and not self.control.stopping:
            if not self._take_staged(idle=True):
                return None
            self.tick()
            trial = self._affordable_trial()
        return trial

    def tick(self) -> None:
        """Write rows that are due, apply requests and publish the live state.

        Executors call it at least every few seconds, in the thread of the driver: from
        the loop of Tune, or after each epoch. `next_trial` and `report` call it, too.
        Raises UserError if the store fails or another driver took over.
        """
        self._recorder.flush_due()
        if self.share is not None:
            self.share.exchange(self._claimed, self.control.limits.priority or 0)
        if self.control.tick():
            self._recorder.add_logs(self.trials.values())
            if self.control.retries and not self.searches.retrying:
                self._recorder.flush()
                self.control.forget_retries()

    def close(self) -> None:
        """Write all waiting rows.

        Call it at the end of the sweep, even after an exception.
        """
        self._recorder.close(self.trials.values())
        if not self.searches.retrying:
            self.control.forget_retries()

    def started(self, key: str) -> None:
        """Set the start time of a trial that has got a worker; emit `TrialStarted`."""
        item = self.trials[key]
        item.placed = True
        self._unplaced.pop(key, None)
        if item.attempts == 1:  # later attempts keep the time of the first one
            item.start = Start()
        trial = item.trial
        self._emit(
            events.TrialStarted(
                key,
                trial.task,
                trial.method,
                trial.phase,
                trial.seed,
                trial.hyperparameters,
            )
        )

    def report(
        self,
        key: str,
        progress: Sequence[EpochProgress],
        *,
        log: str = "",
        node: str = "",
    ) -> bool:
        """Add epochs to the curve of a running trial.

        Return True if the trial must stop early, or if a user has cancelled it.

        Epochs that were reported before are skipped. ``log`` is the text that the
        worker logged since its last report, ``node`` the host name of its machine.
        """
        self.tick()
        item = self.trials[key]
        item.node = node or item.node
        item.log.add(log)
        for point in progress:
            if item.has_reported(point):
                continue
            item.curve.append(point)
            self._emit(
                events.TrialProgress(key, item.trial.task, item.trial.method, point)
            )
            if item.search.stops(item.trial, item.scores):
                # a resumed trial reports several epochs: later ones are dropped
                return True
        return key in self.control.cancelled

    def observe(self, key: str, report: TrialReport, node: str = "") -> None:
        """Store the peak memory that a trial reports, for `placement`.

        Unless the trial failed, count the node with the id ``node`` as a working one.
        """
        self.placement.learn(self.trials[key].trial, report)
        if not (report.status and report.status.failed):
            self.failures.add_success(node, ended=report.done)

    def ended(self, key: str, report: TrialReport, node: str = "") -> Record | None:
        """Store and return the record of a trial that ended on ``node``.

        If the trial failed and runs again, queue its next attempt, and return None.
        """
        self.observe(key, report, node)
        if report.status is not None and report.status in CAUSES:
            return self.failed(
                key,
                Failure(CAUSES[report.status], report.error or "no message", node),
                report,
            )
        return self.finish(key, report)

    def failed(
        self, key: str, failure: Failure, report: TrialReport | None = None
    ) -> Record | None:
        """Queue the next attempt at a failed trial, and return None.

        If the failed attempt was the last one, store and return the record instead.

        ``report`` is the last report of the worker, if the worker reported the failure.
        The next attempt resumes from the trial's last checkpoint.
        """
        runs_again = self.failures.add_failure(key, failure)
        for node in self.failures.new_quarantines():
            reason = self.failures.quarantined[node]
            self._emit(
                events.Message(
                    f"no more trials on node {self.placement.node_name(node)}:"
                    f" {reason}",
                    is_alarm=True,
                )
            )
        rule = RULES[failure.cause]
        if not runs_again:
            if report is None:
                report = TrialReport(status=rule.status, error=failure.reason)
            return self.finish(key, report)
        item = self._released(key)
        self.trials[key] = item
        self._waiting[key] = item  # the last of the waiting ones
        item.placed = False
        self._recorder.attempt_failed(item)
        if rule.counts:
            item.attempts += 1
        name = f"{item.trial.task} {item.trial.method}"
        reason = (failure.reason.strip().splitlines() or [""])[-1]
        self._emit(events.TrialWaits(key, item.trial.task, item.trial.method))
        self._emit(
            events.Message(
                f"{name}: {failure.cause} ({reason[:200]}), attempt {item.attempt}"
                " follows"
            )
        )
        return None

    def finish(self, key: str, report: TrialReport) -> Record:
        """Store the record of a trial that ended with ``report``, and return it.

        The record is also given to the trial's search. It is durable within seconds
        (`Recorder`), and the trial's checkpoint is deleted only then.
        """
        item = self._released(key)
        if key in self.control.cancelled:
            self.control.cancelled.remove(key)
            report = replace(
                report, status=Status.CANCELLED, error="cancelled by request"
            )
        run = {"executor": self.executor, "attempts": item.attempt}
        record = make_record(
            item.trial, self.sweep, report, item.curve, item.start, **run
        )
        if item.search.ended_early and record.phase == "confirm":
            record = _with_note(record, item.search)
        self._recorder.ended(item, record, report)
        self.control.trial_ended()
        self._num_ran += 1
        self._durations.learn(record)
        self.searches.finish(item.search, record, item.scores)
        if self.done:
            self._recorder.flush()
        num_remaining = sum(
            row.num_remaining
            for row in item.search.progress()
            if row.plan.method == record.method
        )
        self._emit(events.TrialFinished(record, num_remaining))
        return record

    def retry(self, key: str = "") -> int:
        """Run the failed trial ``key`` again; return the number of trials that do.

        An empty ``key`` stands for all failed trials.
        """
        self._recorder.flush()
        num_retried = self.searches.retry(key, list(self.trials))
        if num_retried:
            # The searches were rebuilt: running trials must refer to the new ones.
            rebuilt = {
                (plan.task, plan.method): search
                for search in self.searches
                for plan in search.plans
            }
            for item in self.trials.values():
                item.search = rebuilt[item.trial.task, item.trial.method]
        return num_retried

    def say(self, text: str) -> None:
        """Emit a message for the user."""
        self._emit(events.Message(text))

    def seconds_left(self) -> float | None:
        """Return the estimated seconds until the sweep is done.

        None until a trial has completed in this run.
        """
        seconds = self._durations.of_remaining(self.searches)
        if seconds is None:
            return None
        num_placed = sum(item.placed for item in self.trials.values())
        return seconds / max(1, num_placed)

    def demand(self) -> Counter[Resources]:
        """Return the number of trials that could run at once on an unlimited cluster.

        There is one number for each different request of resources.
        """
        demand: Counter[Resources] = Counter()
        if self.control.paused or self.control.stopping:
            return demand
        for search in self.searches:
            for row in search.progress():
                resources = self._usual_resources(row.plan)
                demand[resources] += int(min(row.num_remaining, row.plan.most_at_once))
        return _within(demand, self.control.limits)

    def _claimed(self) -> Counter[Resources]:
        """Return the number of trials that this sweep wants to run beside others.

        Those that run count even if no more may start.
        """
        return self.demand() | self.in_flight

    def summary(self, *, interrupted: bool = False) -> events.Summary:
        """Return the summary of the sweep so far."""
        records = self.searches.records
        num_by_status = Counter(record.status for record in records)
        return events.Summary(
            sweep=self.sweep,
            planned=sum(plan.num_trials for plan in self.searches.plans),
            finished_before=self.searches.finished_before,
            ran=self._num_ran,
            statuses={status: num_by_status[status] for status in Status},
            failed=tuple(record for record in records if record.status.failed),
            interrupted=interrupted or not self.done,
            seconds=time.monotonic() - self._began,
            unfinished=tuple(self.searches.failures()),
            deterministic=self.searches.spec.deterministic,
            aligned=sum(bool(record.align_epochs) for record in records),
            reused=sum(bool(record.align_reused) for record in records),
            time_over=self.control.time_over,
            notes=_counted_notes(records),
            limit=self._limit_summary(),
            quarantined=self.quarantined,
        )

    def tidy(self) -> None:
        """Write all rows, compact the store, and delete checkpoints.

        Only checkpoints of trials that have ended, or that will not be continued, are
        deleted.
        """
        self.close()
        ended_pairs = {
            (plan.task, plan.method)
            for search in self.searches
            if search.done
            for plan in search.plans
        }
        keys = [record.trial_key for record in self.searches.records]
        self._recorder.tidy(keys, ended_pairs)

    def _live_state(self) -> LiveState:
        """Return the state of the sweep that its store publishes.

        Trials with a worker come first.
        """
        trials = sorted(self.trials.values(), key=lambda item: not item.placed)
        return LiveState(
            sweep=self.sweep,
            executor=self.executor,
            rows=self.searches.rows(),
            running=tuple(item.live() for item in trials[:MAX_RUNNING]),
            num_running=sum(item.placed for item in trials),
            seconds_left=self.seconds_left(),
            quarantined=self.quarantined,
            share=None if self.share is None else self.share.fraction,
        )

    def _affordable_trial(self) -> TrialSpec | None:
        """Return the next trial that can start and that the limit of hours allows.

        Searches end early where the limit allows no further trial of them.
        """
        if self._limit is None:
            return self._next_trial(lambda search, plan: True)
        while True:
            left = self._hours_left(self._limit)
            trial = self._next_trial(left.cover)
            if trial is not None or not self._end_early(left.refused):
                return trial

    def _hours_left(self, limit: HourLimit) -> HoursLeft:
        """Return the hours that the sweep has left."""
        used = sum(
            limit.hours_of(record, record.wall_seconds)
            for record in self.searches.records
        )
        for item in self.trials.values():
            elapsed = item.start.seconds() if item.placed else 0.0
            plan = _plan_of(item.trial, item.search)
            seconds = max(elapsed, self._durations.of_trial(plan))
            used += limit.hours_of(item.trial.resources, seconds)

        def trial_hours(plan: SearchPlan) -> float:
            seconds = self._durations.of_trial(plan)
            return limit.hours_of(self._usual_resources(plan), seconds)

        return HoursLeft(limit.hours - used, self.searches, trial_hours)

    def _end_early(self, refused: Sequence[TrialSource]) -> bool:
        """End searches for which no hours are left; return whether one has ended.

        A search that has tried a configuration goes on with its confirm trials. While
        trials run, the others wait, because the hours of these trials are estimates.
        """
        if refused and not self._limit_was_met:
            self._limit_was_met = True
            self._emit(
                events.Message(
                    f"of {self._limit}, too few are left for further search trials:"
                    " the best configurations so far are confirmed"
                )
            )
        has_ended = False
        for search in refused:
            if any(row.num_running for row in search.progress()):
                continue
            if search.num_to_confirm and not search.is_confirming:
                search.end_search()
                has_ended = True
            elif not self.trials:
                search.give_up()
                has_ended = True
        return has_ended

    def _limit_summary(self) -> str:
        """Return the sentence about the limit of hours that ended the sweep, or ""."""
        cut = [search for search in self.searches if search.ended_early]
        if self._limit is None or not cut:
            return ""
        records = self.searches.records
        used = sum(
            self._limit.hours_of(record, record.wall_seconds) for record in records
        )
        with_score = {
            (record.task, record.method)
            for record in records
            if record.phase == "confirm" and record.status is Status.COMPLETED
        }
        num_without = sum(
            (plan.task, plan.method) not in with_score
            for search in cut
            for plan in search.plans
        )
        num_planned = sum(plan.num_trials for plan in self.searches.plans)
        return (
            f"limited to {self._limit}, of which {used:.3g} were used:"
            f" {len(records)} of {num_planned} planned trials ran, {len(cut)} searches"
            f" ended early, {num_without} of them without a test score"
        )

    def _next_trial(
        self, is_affordable: Callable[[TrialSource, SearchPlan], bool]
    ) -> TrialSpec | None:
        """Return the next trial that can start now; None if there is none.

        Waiting trials, which were taken from their searches before, go first.
        """
        admits = self._room()
        waiting = list(self._waiting.values())
        if self.placement.has_gpus:
            waiting.sort(key=lambda item: not item.trial.resources.gpus)
        for item in waiting:
            failures = self.failures.of(item.trial.key)
            is_due = failures.not_before <= self.failures.now()
            if is_due and self._starts(item, admits):
                return item.trial
        # No trial is taken from a search of which a new trial still waits. Trials that
        # failed before do not block it: `FailureLedger` stores a cause for each of
        # them, even if its count is 0.
        blocked = {
            (item.trial.task, item.trial.method)
            for item in self._waiting.values()
            if not self.failures.of(item.trial.key).counts
        }
        for search in self._by_priority():
            plan = search.next_plan()
            if plan is None or (plan.task, plan.method) in blocked:
                continue
            if not self._has_room(search, plan, admits):
                continue
            if not is_affordable(search, plan):
                continue
            taken = self._take_from(search)
            if taken is not None and self._starts(taken, admits):
                return taken.trial
        return None

    def _by_priority(self) -> list[TrialSource]:
        """Return the searches whose data are staged, the most urgent first.

        If the sweep file asks for the order of tasks, searches are sorted by task
        first, and then by urgency. On a cluster with GPUs, those whose next trial gets
        a GPU come first: a trial without a GPU may start only if no trial on a GPU
        needs its CPUs (`Placement.admits`).
        """
        tasks = self.searches.tasks_staged
        ready = [
            search
            for search in self.searches
            if self.stager is None or search.task in tasks
        ]
        if self._limit is None:
            ready.sort(key=self._durations.urgency, reverse=True)
        else:
            ready.sort(key=self._durations.share_done)
        spec = self.searches.spec
        if spec.file.order == "tasks":
            places = {task: place for place, task in enumerate(spec.tasks)}
            ready.sort(key=lambda search: places[search.task])
        if self.placement.has_gpus:
            ready.sort(key=self._needs_no_gpu)
        return ready

    def _needs_no_gpu(self, search: TrialSource) -> bool:
        """Return whether the next trial of a search gets no GPU."""
        plan = search.next_plan()
        return plan is None or not self._usual_resources(plan).gpus

    def _has_room(
        self,
        search: TrialSource,
        plan: SearchPlan,
        admits: Callable[[Resources], bool],
    ) -> bool:
        """Return whether a trial of a plan may be taken from its search now.

        A trial of an open-ended search is taken only if it can start at once, because
        such a search decides better with more records.
        """
        resources = self._usual_resources(plan)
        if not admits(resources):
            return False
        if not search.is_open_ended:
            return True
        # The capacity is 0 if no node is large enough yet, or if there is no cluster.
        capacity = self.placement.capacity(resources)
        return not 0 < capacity <= self.in_flight[resources]

    def _take_from(self, search: TrialSource) -> TrialState | None:
        """Take the next trial of a search, add it to the waiting ones, and return it.

        None if the search has no trial that can start.
        """
        trial = search.take()
        if trial is None:
            return None
        suggestions = search.new_suggestions()
        if suggestions:
            self._recorder.add(suggestions=suggestions)
        item = TrialState(
            trial,
            search,
            earlier_attempts=self.searches.attempts(trial.key),
        )
        self.trials[trial.key] = item
        self._waiting[trial.key] = item
        return item

    def _room(self) -> Callable[[Resources], bool]:
        """Return a function that says whether a trial with given resources may start.

        The function is valid until the next trial starts.
        """
        now = self.failures.now()
        long_ago = now - PATIENCE_SECONDS
        has_cpu_trial = any(
            count and not wanted.gpus for wanted, count in self.in_flight.items()
        )
        if has_cpu_trial or self._without_gpu_at is None:
            self._without_gpu_at = now
        # Trials are in the order in which they were handed out.
        late_trials = takewhile(
            lambda item: item.handed_out < long_ago, self._unplaced.values()
        )
        late = {item.trial.resources for item in late_trials}
        overdue = {wanted for wanted in late if self._waits_for_others(wanted)}
        # After a few minutes without any, a trial without a GPU takes its turn.
        reserves = self._without_gpu_at > long_ago
        return functools.cache(
            lambda wanted: (
                self._is_within_limits(wanted)
                and (self.share is None or self.share.admits(wanted, self.in_flight))
                and self.placement.admits(
                    wanted, self.in_flight, overdue, reserves=reserves
                )
            )
        )

    def _is_within_limits(self, wanted: Resources) -> bool:
        """Return whether one more trial stays within the limits of what runs at once.

        A trial that needs more GPUs than the limit runs while no other one has a GPU.
        """
        limits = self.control.limits
        num_trials = self.in_flight.total()
        if limits.max_trials is not None and num_trials >= limits.max_trials:
            return False
        if limits.max_gpus is None or not wanted.gpus:
            return True
        gpus = sum(
            count * resources.gpus for resources, count in self.in_flight.items()
        )
        return not gpus or gpus + wanted.gpus <= limits.max_gpus + 1e-9

    def _waits_for_others(self, wanted: Resources) -> bool:
        """Return whether trials with other resources may be why some trials wait.

        If as many trials with the resources ``wanted`` run as fit on the cluster, the
        next ones wait only for these.
        """
        num_unplaced = sum(
            item.trial.resources == wanted for item in self._unplaced.values()
        )
        num_placed = self.in_flight[wanted] - num_unplaced
        return num_placed < self.placement.capacity(wanted)

    def _released(self, key: str) -> TrialState:
        """Remove and return a trial that no executor has any more."""
        item = self.trials.pop(key)
        self._unplaced.pop(key, None)
        if self._waiting.pop(key, None) is None:
            self.in_flight[item.trial.resources] -= 1
        return item

    def _usual_resources(self, plan: SearchPlan) -> Resources:
        """Return the resources that a trial of a plan gets at its usual batch size."""
        return self.placement.resources(plan.usual_trial, FailuresOfTrial())

    def _starts(self, item: TrialState, admits: Callable[[Resources], bool]) -> bool:
        """Hand a waiting trial out with its resources, if there is room.

        Return whether the trial was handed out.
        """
        failures = self.failures.of(item.trial.key)
        resources = self.placement.resources(item.trial, failures)
        if not admits(resources):
            return False
        item.trial = replace(
            item.trial, resources=resources, halvings=failures.halvings
        )
        item.handed_out = self.failures.now()
        self._unplaced[item.trial.key] = self._waiting.pop(item.trial.key)
        self.in_flight[resources] += 1
        return True

    def _take_staged(self, *, idle: bool) -> bool:
        """Open the searches of tasks that were staged since the last call.

        Return whether there were such tasks. ``idle``: no trial can start otherwise.
        """
        newly_staged = [] if self.stager is None else self.stager.poll(idle=idle)
        for staged in newly_staged:
            self.searches.staged(staged)
            if staged.error:
                self._emit(
                    events.Message(f"{staged.task}: no trial can run: {staged.error}")
                )
            else:
                self._emit(events.TaskStaged(self.searches.rows(staged.task)))
        return bool(newly_staged)


def _within(demand: Counter[Resources], limits: Limits) -> Counter[Resources]:
    """Return the part of a demand that may run at once."""
    num_left = demand.total() if limits.max_trials is None else limits.max_trials
    gpus_left = math.inf if limits.max_gpus is None else limits.max_gpus
    allowed: Counter[Resources] = Counter()
    for resources, count in demand.items():
        count = min(count, num_left)
        if resources.gpus and gpus_left < math.inf:
            count = min(count, max(1, int(gpus_left / resources.gpus + 1e-9)))
            gpus_left = max(0.0, gpus_left - count * resources.gpus)
        allowed[resources] += count
        num_left -= count
    return +allowed


def _plan_of(trial: TrialSpec, search: TrialSource) -> SearchPlan:
    """Return the plan of a trial among those of its search."""
    return next(plan for plan in search.plans if plan.method == trial.method)


def _with_note(record: Record, search: TrialSource) -> Record:
    """Return the record of a confirm trial with a note that its search was cut."""
    num_searched = sum(other.phase == "search" for other in search.records.values())
    note = f"the best of {num_searched} search trials, as hours were limited"
    notes = "; ".join(filter(None, [record.notes, note]))
    return replace(record, notes=notes)


def _counted_notes(records: Sequence[Record]) -> dict[str, int]:
    """Return the number of records by note, the most frequent note first."""
    notes = Counter[str]()
    for record in records:
        distinct = dict.fromkeys((record.notes or "").split("; "))
        notes.update(note for note in distinct if note)
    return dict(notes.most_common())
