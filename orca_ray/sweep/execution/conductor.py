"""Decides which trial runs next and which one stops early, and stores the records; executors run the trials.

Not thread-safe: only one thread of the driver may use it.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.methods.reports import Progress
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution import events
from orca_ray.sweep.execution.failures import CAUSES, RULES, Failure, FailureLedger, History
from orca_ray.sweep.execution.messages import TrialReport, make_record
from orca_ray.sweep.execution.placement import PATIENCE_SECONDS, Placement
from orca_ray.sweep.planning.searches import Resources, SearchPlan, TrialSpec
from orca_ray.sweep.search import Search, comparable_records


@dataclass
class _Running:
    """A running trial, and the epochs that it has reported so far."""

    trial: TrialSpec
    search: Search
    started_at: datetime
    curve: list[Progress] = field(default_factory=list)
    attempts: int = 1
    handed_out: float = 0.0
    """Time of `FailureLedger.now` at which an executor got the trial."""
    placed: bool = False
    """Whether the trial has a worker."""

    @property
    def scores(self) -> list[float]:
        """Validation scores of the refine epochs, in order."""
        return [point.validation_score for point in self.curve if point.validation_score is not None]


class Conductor:
    """Chooses the trials of a sweep one at a time, and writes a record for each that ends."""

    def __init__(
        self,
        searches: Sequence[SearchPlan],
        store: ResultsStore,
        *,
        executor: str,
        trial_seconds: Mapping[tuple[str, str], float] | None = None,
        retry_failed: bool = False,
        listener: events.Listener | None = None,
    ) -> None:
        """Rebuild the state of the sweep from the records in ``store``.

        Args:
            searches: plans of the searches to run.
            store: results store that records are read from and written to.
            executor: name of the executor, for the records.
            trial_seconds: relative cost of one trial of each (task, method), see `cost.trial_seconds`; only ratios
                matter. A pair without a value gets 1.
            retry_failed: whether to run failed trials again. Trials whose worker disappeared (status ``lost``) are
                always run again.
            listener: called with every event.
        """
        if not searches:
            raise UserError("nothing to run: the sweep has no task or no method")
        self._spec = searches[0].spec
        self._store, self._executor, self._estimates = store, executor, dict(trial_seconds or {})
        self._emit: events.Listener = listener or (lambda event: None)
        self.checkpoints = (store.local_path or cache.home()) / "checkpoints"
        """Directory of the checkpoints: in the store's directory, or in the cache if the store is remote."""
        existing = {
            key: record
            for key, record in comparable_records(store, self._spec.sweep_id).items()
            if not (record.status is Status.LOST or (retry_failed and record.status.failed))
        }
        scores = self._stored_scores() if existing else {}
        self.searches = [Search(plan, existing, scores) for plan in searches]
        self.finished_before = sum(search.num_finished for search in self.searches)
        self._seconds: dict[tuple[str, str], float] = {}
        self._estimate_error = 1.0
        self._running: dict[str, _Running] = {}
        self._waiting: dict[str, _Running] = {}
        self.failures = FailureLedger()
        """Decides which failed trials run again, and on which nodes trials may run."""
        self.placement = Placement()
        """Decides which resources a trial gets, and whether it may start now; executors set their own."""
        self._ran: list[Record] = []
        self._began = datetime.now(UTC)

    @property
    def done(self) -> bool:
        """Whether all trials of the sweep have ended."""
        return not self._running and not self._waiting and all(search.done for search in self.searches)

    def next_trial(self) -> TrialSpec | None:
        """Return a trial to run, or None if none can start now.

        Trials that wait (for the end of a pause, or for resources) come first, then one of the search with the most
        expected time left. A trial that waits for resources lets trials pass that need others.
        """
        for item in list(self._waiting.values()):
            if self.failures.history(item.trial.key).not_before <= self.failures.now() and self._starts(item):
                return item.trial
        blocked = {id(item.search) for key, item in self._waiting.items() if not self.history(key).counts}
        for search in sorted(self.searches, key=self._seconds_left, reverse=True):
            if id(search) in blocked or (trial := search.take()) is None:
                continue
            item = self._waiting[trial.key] = _Running(trial, search, datetime.now(UTC))
            if self._starts(item):
                return item.trial
        return None

    def _starts(self, item: _Running) -> bool:
        """Move a waiting trial to the running ones if there is room for it, with the resources it gets now."""
        resources = self.placement.resources(item.trial, self.failures.history(item.trial.key))
        in_flight = Counter(other.trial.resources for other in self._running.values())
        long_ago = self.failures.now() - PATIENCE_SECONDS
        overdue = {i.trial.resources for i in self._running.values() if not i.placed and i.handed_out < long_ago}
        if not self.placement.admits(resources, in_flight, overdue):
            return False
        item.trial = replace(item.trial, resources=resources)
        item.handed_out, item.placed = self.failures.now(), False
        self._running[item.trial.key] = self._waiting.pop(item.trial.key)
        return True

    def started(self, key: str) -> None:
        """Set the start time of a trial, which may have waited for resources, and emit `TrialStarted`."""
        item = self._running[key]
        item.placed = True
        if item.attempts == 1:
            item.started_at = datetime.now(UTC)
        self._emit(events.TrialStarted(key, item.trial.task, item.trial.method, item.trial.phase))

    def report(self, key: str, progress: Sequence[Progress]) -> bool:
        """Add the epochs in ``progress`` to the curve of a running trial, and return whether it must be stopped early.

        A trial that resumes on another node reports its earlier epochs again; those already known are skipped.
        """
        item = self._running[key]
        for point in progress:
            if any((seen.stage, seen.epoch) == (point.stage, point.epoch) for seen in item.curve):
                continue
            item.curve.append(point)
            self._emit(events.TrialProgress(key, item.trial.task, item.trial.method, point))
            if self._stops(item):  # a resumed trial reports several epochs: later ones are dropped
                return True
        return False

    def finish(self, key: str, report: TrialReport) -> Record:
        """Store and return the record of the trial ``key``, which ended with ``report``, and inform its search."""
        item = self._running.pop(key)
        run = {"executor": self._executor, "attempts": item.attempts}
        record = make_record(item.trial, self._spec.sweep_id, report, item.curve, item.started_at, **run)
        artefacts = [ArtefactRow(record.sweep, key, **asdict(artefact)) for artefact in report.artefacts]
        self._store.append([record], [self._curve_point(key, point) for point in item.curve], artefacts)
        self._remove_checkpoint(key)
        self._ran.append(record)
        self._learn_seconds(record)
        item.search.finish(record, item.scores)
        self._emit(events.TrialFinished(record, item.search.num_remaining))
        return record

    def observe(self, key: str, report: TrialReport, node: str = "") -> None:
        """Take note of what a report shows about memory, and of the node (its id) on which the trial runs."""
        self.placement.learn(self._running[key].trial, report)
        if not (report.status and report.status.failed):
            self.failures.works(node, ended=report.done)

    def ended(self, key: str, report: TrialReport, node: str = "") -> Record | None:
        """Store the record of a trial that ended on ``node``; None if it failed and runs again (`failures.RULES`)."""
        self.observe(key, report, node)
        if report.status is not None and report.status.failed:
            return self.failed(key, Failure(CAUSES[report.status], report.error or "no message", node), report)
        return self.finish(key, report)

    def failed(self, key: str, failure: Failure, report: TrialReport | None = None) -> Record | None:
        """Let a trial wait for its next attempt, and return None; after its last attempt, store and return its record.

        ``report`` is the last one of the worker, if the worker reported the failure. The next attempt resumes from the
        trial's last checkpoint.
        """
        again = self.failures.retries(key, failure)
        for node in self.failures.new_quarantines():
            reason = self.failures.quarantined[node]
            self._emit(events.Message(f"no more trials on node {self.placement.node_name(node)}: {reason}"))
        if not again:
            last = report or TrialReport(status=RULES[failure.cause].status, error=failure.reason)
            return self.finish(key, last)
        item = self._waiting[key] = self._running.pop(key)
        item.attempts += RULES[failure.cause].counts
        name, reason = f"{item.trial.task} {item.trial.method}", (failure.reason.strip().splitlines() or [""])[-1]
        self._emit(events.Message(f"{name}: {failure.cause} ({reason[:200]}), attempt {item.attempts} follows"))
        return None

    def running(self, key: str) -> TrialSpec:
        """Return the running trial ``key``, with the resources that it has."""
        return self._running[key].trial

    def demand(self) -> Counter[Resources]:
        """Return how many trials could run at the same time if there were room for all, by their resources."""
        found: Counter[Resources] = Counter()
        for search in self.searches:
            resources = self.placement.resources(search.plan.trial({}, 0, "search"), History())
            most = max(self._spec.file.parallel, search.plan.num_confirm) if search.plan.num_search else math.inf
            found[resources] += int(min(search.num_remaining, most))
        return found

    def history(self, key: str) -> History:
        """Return the failures of the trial ``key`` so far."""
        return self.failures.history(key)

    def rows(self) -> tuple[events.SearchRow, ...]:
        """Return a row for each (task, method) of the sweep, with its number of trials, for a progress table."""
        plans = [(search.plan, search.num_finished) for search in self.searches]
        return tuple(events.SearchRow(p.task, p.method, p.body, p.num_trials, done) for p, done in plans)

    def summary(self, *, interrupted: bool = False) -> events.Summary:
        """Return the summary of the sweep so far."""
        records = [record for search in self.searches for record in search.records.values()]
        unfinished = [f"{s.plan.task} {s.plan.method}: {s.failure}" for s in self.searches if s.failure]
        return events.Summary(
            sweep=self._spec.sweep_id,
            planned=sum(search.plan.num_trials for search in self.searches),
            finished_before=self.finished_before,
            ran=len(self._ran),
            statuses={status: sum(r.status is status for r in records) for status in Status},
            failed=tuple(record for record in records if record.status.failed),
            interrupted=interrupted or not self.done,
            seconds=(datetime.now(UTC) - self._began).total_seconds(),
            unfinished=tuple(unfinished),
            deterministic=self._spec.deterministic,
            aligned=sum(bool(record.align_epochs) for record in records),
            reused=sum(bool(record.align_reused) for record in records),
            notes=count_notes(records),
            quarantined=tuple(
                f"{self.placement.node_name(node)}: {reason}" for node, reason in self.failures.quarantined.items()
            ),
        )

    def tidy(self) -> None:
        """Delete the checkpoints of trials that have ended, then the checkpoint directory if it is empty."""
        for search in self.searches:
            for key in search.records:
                self._remove_checkpoint(key)
        with contextlib.suppress(OSError):  # it does not exist, or holds another sweep's state
            self.checkpoints.rmdir()

    def _remove_checkpoint(self, key: str) -> None:
        for pattern in (f"{key}.*", f".{key}.*"):  # a kill in the middle of a write leaves a hidden temporary file
            for path in self.checkpoints.glob(pattern):
                path.unlink(missing_ok=True)

    def _seconds_left(self, search: Search) -> float:
        """Return the expected seconds until a search is done if its trials run one after another."""
        name = (search.plan.task, search.plan.method)
        estimate = self._estimates.get(name, 1.0) * self._estimate_error
        return search.num_remaining * self._seconds.get(name, estimate)

    def _learn_seconds(self, record: Record) -> None:
        """Store a completed trial's duration, and the mean ratio of durations to estimates, which scales the others."""
        if record.status is Status.COMPLETED:
            self._seconds[record.task, record.method] = record.wall_seconds
            errors = [seconds / self._estimates.get(name, 1.0) for name, seconds in self._seconds.items()]
            self._estimate_error = sum(errors) / len(errors)

    def _stops(self, item: _Running) -> bool:
        rule = self._spec.file.early_stopping
        if rule is None or item.trial.phase != "search":
            return False
        return rule.stops(item.scores, item.trial.epochs, item.search.rivals(item.trial))

    def _curve_point(self, key: str, point: Progress) -> CurvePoint:
        values = asdict(point)
        del values["epochs"]
        return CurvePoint(sweep=self._spec.sweep_id, trial_key=key, **values)

    def _stored_scores(self) -> dict[str, list[float]]:
        curves = self._store.curves(sweep=self._spec.sweep_id)
        refine = curves[(curves["stage"] == "refine") & curves["validation_score"].notna()]
        ordered = refine.sort_values("epoch")
        return {str(key): list(group["validation_score"]) for key, group in ordered.groupby("trial_key")}


def count_notes(records: Iterable[Record]) -> dict[str, int]:
    """Return each distinct sentence in the records' ``notes`` with its number of records, most frequent first."""
    sentences = Counter(sentence for record in records for sentence in dict.fromkeys((record.notes or "").split("; ")))
    return {sentence: count for sentence, count in sentences.most_common() if sentence}
